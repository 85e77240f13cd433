//! The relay as a process; see `outbox-relay --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outbox_relay::cli::run(std::env::args_os())
}
