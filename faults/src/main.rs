//! `./dev faults` and `./dev soak`.

fn main() -> std::process::ExitCode {
    faults::cli::run()
}
