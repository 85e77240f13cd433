//! The subcommands.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control::{self, Order};
use crate::layout::Data;
use crate::{Result, api, bench, deps, faults, image, logs, package, ps, storm, test, up, upgrade};

/// `./dev` prints it itself, before anything is built.
const HELP: &str = include_str!("help.txt");

/// Starts the whole shop on real Kafka and real databases, and runs the tests.
#[derive(Debug, Parser)]
#[command(name = "./dev", disable_help_subcommand = true, override_help = HELP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The data folder, instead of ./data
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything and stay in front; Ctrl-C stops it and keeps the data
    Up(up::Options),
    /// Start Kafka and nothing else
    Kafka(up::Options),
    /// Show what runs
    Ps {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop everything in order and keep the data
    Down,
    /// Show the logs of one process, or of all
    Logs {
        /// Name as in ./dev ps
        name: Option<String>,
        /// Go on showing what is added
        #[arg(short, long)]
        follow: bool,
        /// How many lines of the past
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
    },
    /// Send mixed orders at a fixed rate, and see whether all of them come to an end
    Load(crate::load::Options),
    /// Stop one process (kafka too); it stays stopped
    Stop {
        /// Name as in ./dev ps
        name: String,
    },
    /// Start a stopped process
    Start {
        /// Name as in ./dev ps
        name: String,
    },
    /// Stop and start one process
    Restart {
        /// Name as in ./dev ps
        name: String,
    },
    /// Run every check and every test; ends with a line "N passed, N failed"
    Test {
        /// Only the tests whose names contain this, and no checks
        name: Option<String>,
    },
    /// Measure relay and services, release builds, on a Kafka and a Postgres of its own
    #[command(disable_help_flag = true)]
    Bench {
        /// What, and how: ./dev bench --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill, freeze and cut off real processes while writers commit, and count what became of it
    #[command(disable_help_flag = true)]
    Faults {
        /// Which, and how often: ./dev faults --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The same faults at random, for as long as wished
    #[command(disable_help_flag = true)]
    Soak {
        /// How long, and on what: ./dev soak --help
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check one rule of the project
    #[command(subcommand)]
    Check(Check),
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Whether every service answers as its OpenAPI document says
    Api(api::Options),
    /// Which crate may depend on which
    Deps,
    /// Build the published crates as crates.io would get them (minutes)
    Package,
    /// What the containers do, without Docker: builds as the Dockerfile does, starts docker-compose.yml's
    /// commands on three brokers as another user, kills a relay and a broker
    Image {
        /// Take the binaries that are there instead of building optimised ones
        #[arg(long)]
        no_build: bool,
    },
    /// Send mixed orders of both styles while everything is killed at random, and count (minutes)
    Storm(storm::Options),
    /// Run another revision's programs and these on one shop, upgraded and taken back (minutes)
    Upgrade {
        /// A tag, branch or commit
        revision: String,
    },
}

/// Reads the command line, does what it says; a failure is one line on stderr.
pub fn run() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // `./dev logs | head`: whoever reads has enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn execute(cli: Cli) -> Result<()> {
    let data = Data::at(cli.data.as_deref())?;
    let order = |order: Order| -> Result<()> {
        println!("{}", control::send(&data, &order)?);
        Ok(())
    };
    match cli.command {
        Command::Up(options) => up::run(options, &data),
        Command::Kafka(mut options) => {
            options.only_kafka = true;
            up::run(options, &data)
        }
        Command::Ps { json } => ps::print(&data, json),
        Command::Down => down(&data),
        Command::Logs {
            name,
            follow,
            lines,
        } => logs::print(&data, name.as_deref(), lines, follow),
        Command::Load(options) => crate::load::run(&options, &data),
        Command::Stop { name } => order(Order::Stop { name }),
        Command::Start { name } => order(Order::Start { name }),
        Command::Restart { name } => {
            order(Order::Stop { name: name.clone() })?;
            order(Order::Start { name })
        }
        Command::Test { name } => test::run(name.as_deref()),
        Command::Bench { arguments } => bench::run(&arguments),
        Command::Faults { arguments } => faults::run("faults", &arguments),
        Command::Soak { arguments } => faults::run("soak", &arguments),
        Command::Check(Check::Api(options)) => api::check(&options),
        Command::Check(Check::Package) => {
            package::check(package::Depth::Build)?;
            println!("every published crate builds from its package");
            Ok(())
        }
        Command::Check(Check::Image { no_build }) => image::check(no_build),
        Command::Check(Check::Storm(options)) => storm::check(&options),
        Command::Check(Check::Upgrade { revision }) => upgrade::check(&revision),
        Command::Check(Check::Deps) => {
            deps::check()?;
            println!("all dependencies are allowed");
            Ok(())
        }
    }
}

/// Nothing running is what was wanted, so it is no failure.
fn down(data: &Data) -> Result<()> {
    let Some(pid) = control::running(data)? else {
        println!("nothing runs here");
        return Ok(());
    };
    println!("{}", control::send(data, &Order::Down)?);
    // The answer comes a moment before its end; whoever calls `up` next needs the lock to be free.
    onceward_testkit::wait::until(
        &format!("the end of the supervisor (pid {pid})"),
        std::time::Duration::from_secs(10),
        || Ok(control::running(data)?.is_none().then_some(())),
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, HELP};

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_command() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(HELP.contains(&format!("./dev {name}")), "{name}");
        }
    }
}
