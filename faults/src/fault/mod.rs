//! The faults, as data: what each does, why it harms nothing, and the function that does it.

use std::time::Duration;

use onceward::{Clock, Micros, SystemClock};
use rand::rngs::StdRng;

use crate::Result;
use crate::database::Kind;
use crate::relay::Publisher;
use crate::rig::Rig;

mod kafka;
mod relay;

/// A fault that has come and gone.
#[derive(Debug, Clone)]
pub struct Struck {
    /// When it began.
    pub begun: Micros,
    /// When it was over: recovery counts from here.
    pub over: Micros,
    /// What exactly, if the plan has drawn it.
    pub what: String,
}

impl Struck {
    /// One that began then and is over now.
    fn since(begun: Micros, what: impl Into<String>) -> Self {
        Self {
            begun,
            over: SystemClock.now(),
            what: what.into(),
        }
    }
}

/// Strikes once.
type Strike = fn(&mut Rig<'_>, &mut StdRng) -> Result<Struck>;

/// A kind of fault.
#[derive(Debug)]
pub struct Fault {
    /// As in `--only`.
    pub name: &'static str,
    /// What is done, for the report.
    pub does: &'static str,
    /// The rule that makes it harmless, for the report.
    pub rule: &'static str,
    /// Databases it concerns.
    pub databases: &'static [Kind],
    /// Publishers it concerns.
    pub publishers: &'static [Publisher],
    /// Relays that run.
    pub relays: usize,
    /// Whether the relays reach Kafka through the proxy.
    pub behind_proxy: bool,
    /// How often it strikes in a cell.
    pub rounds: u32,
    /// Within this time events should flow again.
    pub goal: Option<Duration>,
    /// Does it.
    pub strike: Strike,
}

/// What most faults have in common.
const ANY: Fault = Fault {
    name: "",
    does: "",
    rule: "",
    databases: &Kind::ALL,
    publishers: &Publisher::ALL,
    relays: 1,
    behind_proxy: false,
    rounds: 5,
    goal: None,
    strike: |_, _| Ok(Struck::since(SystemClock.now(), "")),
};

/// All of them, in the order of the report.
pub static FAULTS: &[Fault] = &[
    Fault {
        name: "relay-killed",
        does: "`kill -9` of the only relay, and a new one with the same instance id at once.",
        rule: "Rows and progress are in one Kafka transaction: the new relay fences the old producer, \
               which aborts what it left open, reads the progress and goes on behind it.",
        rounds: 8,
        goal: Some(Duration::from_secs(2)),
        strike: relay::killed,
        ..ANY
    },
    Fault {
        name: "kafka-killed",
        does: "`kill -9` of the only broker, and a start on the same data. Recovery counts from the \
               moment its port answers.",
        rule: "After trouble nothing is sent again: the relay drops its producer, opens a new one, and \
               believes only the progress that it reads back.",
        rounds: 3,
        goal: Some(Duration::from_secs(1)),
        strike: kafka::killed,
        ..ANY
    },
];
