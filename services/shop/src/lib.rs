//! Puts the services, their databases and Kafka together.
#![deny(missing_docs)]

mod cli;
mod commands;
mod database;
mod rebuild;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use onceward::secret::without_passwords;

/// Runs what the command line says. An error is one line on stderr, and exit code 1.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(refusal) => {
            // It may quote a URL that stands where none belongs. Nothing is to be done about a closed
            // terminal.
            let _closed = match refusal.use_stderr() {
                true => write!(
                    std::io::stderr(),
                    "{}",
                    without_passwords(&refusal.render().to_string())
                ),
                false => refusal.print(),
            };
            return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2));
        }
    };
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: cli::Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(commands::run(cli.command)))
}
