//! `./dev check storm`: mixed orders while whatever a seed says is killed.

use crate::{Result, cargo};

/// How long, and what is killed when.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Orders, 20 a second, half of them without a coordinator
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(20..), value_name = "N")]
    pub orders: u64,
    /// Another seed kills others
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
}

/// Runs the storms, on SQLite and on Postgres.
pub fn check(options: &Options) -> Result<()> {
    cargo::build(&["-q", "--workspace", "--bins"])?;
    println!("{} orders, seed {}", options.orders, options.seed);
    let test = ["test", "-q", "-p", "integration-tests", "--test", "main"];
    // One after the other: two cores, and ten processes each.
    let of_ours = [
        "--",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
        "a_storm",
    ];
    cargo::run(
        cargo::command()
            .args(test)
            .args(of_ours)
            .env("ONCEWARD_STORM_ORDERS", options.orders.to_string())
            .env("ONCEWARD_STORM_SEED", options.seed.to_string()),
    )
}
