//! Rules that are broken on purpose: a suite that can't fail shows nothing.
//!
//! The relay breaks one rule at a time if its environment says so and it was built with `failpoints`
//! (see its `failpoint.rs`). Each is broken in a cell whose fault the rule is there for, and what comes of
//! it has to be counted.

use crate::Result;
use crate::cell::{Outcome, Plan, run};
use crate::cli::cell_named;
use crate::stage::Stage;

/// A rule, and where its breach shows.
#[derive(Debug)]
pub struct Broken {
    /// As in `ONCEWARD_BREAK`.
    pub rule: &'static str,
    /// What is done instead of it.
    pub instead: &'static str,
    /// The cell.
    pub cell: &'static str,
    /// How often the fault strikes.
    pub rounds: u32,
}

/// All of them.
pub static BROKEN: &[Broken] = &[
    Broken {
        rule: "position-in-kafka",
        instead: "a relay that takes over goes on where the mirror in the database stands",
        cell: "relay-killed/sqlite/native",
        rounds: 2,
    },
    Broken {
        rule: "fence-first",
        instead: "progress is read before older producers are fenced",
        cell: "relay-doubled/sqlite/native",
        rounds: 4,
    },
    Broken {
        rule: "snapshot-cursor",
        instead: "on Postgres rows are new if their number is higher than the last one's",
        cell: "postgres-transaction-kept-open/postgres/native",
        rounds: 1,
    },
    Broken {
        rule: "dirty-producer-ends",
        instead: "a librdkafka producer goes on after trouble if it says that all is well",
        cell: "commit-late/sqlite/rdkafka",
        rounds: 3,
    },
];

impl Broken {
    /// As in `--only`.
    pub fn name(&self) -> String {
        format!("broken/{}", self.rule)
    }

    /// Runs the cell with the rule broken.
    pub fn run(&self, stage: &mut Stage, seed: u64) -> Result<Outcome> {
        let plan = Plan {
            seed,
            rounds: Some(self.rounds),
            events: 0,
            broken: Some(self.rule),
        };
        Ok(run(stage, &cell_named(self.cell)?, &plan))
    }
}

/// Whether the breach was counted; a cell that only did not end shows nothing.
pub fn is_noticed(outcome: &Outcome) -> bool {
    outcome.lost + outcome.doubled + outcome.reordered + outcome.other > 0
}
