//! The command `onceward`: looks into the outboxes, inboxes, dead letters, sagas and topics of an
//! installation, and mends what needs a person.
//!
//! Every command makes one `Outcome`: data for stdout as text and as JSON, talk for
//! stderr, an exit code. Only [`run`] prints. Databases are opened for reading unless the command
//! writes; Kafka is asked where it helps and is not needed otherwise.
#![deny(missing_docs)]

mod args;
mod commands;
mod database;
mod kafka;
mod locate;
mod outcome;
mod render;
mod topic_file;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use onceward::secret::without_passwords;
use onceward::{Clock, SystemClock};

use args::Cli;
pub use outcome::Exit;
use outcome::Outcome;

/// What a command needs of the outside, so that tests choose it.
#[derive(Debug)]
pub struct World<'w> {
    /// Where "now" comes from.
    pub clock: &'w dyn Clock,
    /// Where `./data` is looked for, upward.
    pub folder: std::path::PathBuf,
    /// Colours and terminal width are for people only.
    pub terminal: bool,
}

/// Parses, runs and prints. Never panics on a closed pipe.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let world = World {
        clock: &SystemClock,
        folder: std::env::current_dir().unwrap_or_default(),
        terminal: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let exit = run_with(arguments, &world, &mut out, &mut err);
    ExitCode::from(exit.code())
}

/// [`run`] with everything it touches given: for tests.
pub fn run_with(
    arguments: impl IntoIterator<Item = OsString>,
    world: &World<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let cli = match Cli::parse_all(arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            let text = if world.terminal {
                usage.render().ansi().to_string()
            } else {
                usage.render().to_string()
            };
            // A closed pipe is the reader's choice; there is nobody left to tell.
            return if usage.use_stderr() {
                // It may quote a URL that stands where none belongs.
                let _ = err.write_all(without_passwords(&text).as_bytes());
                Exit::Usage
            } else {
                let _ = out.write_all(text.as_bytes());
                Exit::Done
            };
        }
    };
    let json = cli.place.json;
    let outcome = match execute(cli, world) {
        Ok(outcome) => outcome,
        Err(error) => Outcome::failed(&error),
    };
    outcome.print(json, out, err)
}

fn execute(cli: Cli, world: &World<'_>) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(commands::dispatch(cli, world)))
}
