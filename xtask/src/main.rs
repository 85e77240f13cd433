//! What `./dev` runs once it has checked the toolchain.

fn main() -> std::process::ExitCode {
    xtask::cli::run()
}
