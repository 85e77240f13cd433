//! Rules that are broken on purpose: a suite that can't fail shows nothing.
//!
//! Relay and consumer break one rule at a time if their environment says so and they were built with
//! `failpoints` (see `onceward::breach`). Each is broken in a cell whose fault the rule is there for, and
//! what comes of it has to be counted; or in one where all has to stop, and then somebody goes on.

use onceward::breach;

use crate::Result;
use crate::cell::{Outcome, Plan, run};
use crate::cli::cell_named;
use crate::stage::Stage;
use crate::stop::stop_cells;

/// A rule, and where its breach shows.
#[derive(Debug)]
pub struct Broken {
    /// As in `ONCEWARD_BREAK`.
    pub rule: &'static str,
    /// What is done instead of it.
    pub instead: &'static str,
    /// The cell.
    pub cell: &'static str,
    /// How often the fault strikes, if it is one.
    pub rounds: u32,
}

/// All of them.
pub static BROKEN: &[Broken] = &[
    Broken {
        rule: breach::POSITION_IN_KAFKA,
        instead: "a relay that takes over goes on where the mirror in the database stands",
        cell: "relay-killed/sqlite/native",
        rounds: 2,
    },
    Broken {
        rule: breach::ONE_TRANSACTION,
        instead: "rows are published by one Kafka transaction and the progress by the next",
        cell: "relay-killed-at-a-line/sqlite/native",
        rounds: 7,
    },
    Broken {
        rule: breach::FENCE_FIRST,
        instead: "progress is read before older producers are fenced",
        cell: "relay-doubled/sqlite/native",
        rounds: 4,
    },
    Broken {
        rule: breach::SNAPSHOT_CURSOR,
        instead: "on Postgres rows are new if their number is higher than the last one's",
        cell: "postgres-transaction-kept-open/postgres/native",
        rounds: 1,
    },
    Broken {
        rule: breach::ORDER_BY_SEQ,
        instead: "on Postgres rows of a batch go by the id of their transaction",
        cell: "postgres-early-id-late-row/postgres/native",
        rounds: 2,
    },
    Broken {
        rule: breach::LOWERED_XMAX,
        instead: "the snapshot of a batch is stored with the upper bound that Postgres gave it",
        cell: "postgres-xids-reused/postgres/native",
        rounds: 1,
    },
    Broken {
        rule: breach::DIRTY_PRODUCER_ENDS,
        instead: "a librdkafka producer goes on after trouble if it says that all is well",
        cell: "commit-late/sqlite/rdkafka",
        rounds: 3,
    },
    Broken {
        rule: breach::PARKED_FIRST,
        instead: "a refused row is passed without being stored",
        cell: "row-poisoned/sqlite/native",
        rounds: 1,
    },
    Broken {
        rule: breach::KEY_WAITS,
        instead: "behind a refused row the later ones of its key are published",
        cell: "row-poisoned/sqlite/native",
        rounds: 1,
    },
    Broken {
        rule: breach::INBOX,
        instead: "a message that is in the inbox is handled again",
        cell: "consumer-group-reset/sqlite/native",
        rounds: 3,
    },
    Broken {
        rule: breach::OFFSET_WITH_EFFECT,
        instead: "the next offset is stored before the messages are handled",
        cell: "consumer-killed-in-handler/sqlite/native",
        rounds: 2,
    },
    Broken {
        rule: breach::KEY_QUEUES,
        instead: "messages are handled while an earlier one of their key waits for its next attempt",
        cell: "consumer-killed/sqlite/native",
        rounds: 2,
    },
    Broken {
        rule: breach::PROGRESS_IS_THERE,
        instead: "a source that has no progress begins anew, whatever it has published",
        cell: "stop/progress-deleted/sqlite",
        rounds: 1,
    },
    Broken {
        rule: breach::ROWS_ARE_COMPARED,
        instead: "nobody looks whether the rows that were passed are there",
        cell: "stop/database-restored/sqlite",
        rounds: 1,
    },
    Broken {
        rule: breach::PARTITIONS_ARE_KEPT,
        instead: "keys go where a new count of partitions says",
        cell: "stop/topic-grown/sqlite",
        rounds: 1,
    },
];

impl Broken {
    /// As in `--only`.
    pub fn name(&self) -> String {
        format!("broken/{}", self.rule)
    }

    /// Runs the cell with the rule broken.
    pub fn run(&self, stage: &mut Stage, seed: u64) -> Result<Outcome> {
        let mut stops = stop_cells();
        if let Some(stop) = stops.find(|stop| stop.name() == self.cell) {
            return stop.run_broken(stage, seed, self.rule);
        }
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
