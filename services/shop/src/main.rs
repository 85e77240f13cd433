//! The shop's one binary: `shop order`, `shop payment` … each runs as its own process.

use std::process::ExitCode;

fn main() -> ExitCode {
    shop::run(std::env::args_os())
}
