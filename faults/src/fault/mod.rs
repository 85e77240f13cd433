//! The faults, as data: what each does, why it harms nothing, and the function that does it.

use std::time::Duration;

use onceward::{Clock, Micros, SystemClock};
use onceward_testkit::proxy::{Fault as ProxyFault, api};
use rand::rngs::StdRng;

use crate::Result;
use crate::database::Kind;
use crate::relay::Publisher;
use crate::rig::Rig;
use crate::stage::Stage;
use crate::world::World;

mod consumer;
mod database;
mod kafka;
mod relay;
mod standby;

pub(crate) use standby::{fall_behind, promote};

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

    /// One from whose beginning recovery counts.
    fn at(begun: Micros, what: impl Into<String>) -> Self {
        Self {
            begun,
            over: begun,
            what: what.into(),
        }
    }
}

/// Strikes once.
type Strike = fn(&mut Rig, &mut Stage, &mut StdRng) -> Result<Struck>;

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
    /// Consumers that run; then an effect in their database is what counts, not a record.
    pub consumers: usize,
    /// On what it strikes.
    pub world: World,
    /// Whether the relays reach Kafka through the proxy.
    pub behind_proxy: bool,
    /// Whether everybody reaches Postgres through the proxy that cuts at COMMIT.
    pub cut_postgres: bool,
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
    consumers: 0,
    world: World::Shared,
    behind_proxy: false,
    cut_postgres: false,
    rounds: 5,
    goal: None,
    strike: |_, _, _| Ok(Struck::since(SystemClock.now(), "")),
};

/// All of them, in the order of the report.
pub static FAULTS: &[Fault] = &[
    Fault {
        name: "relay-killed",
        does: "`kill -9` of the only relay, and a new one with the same instance id at once.",
        rule: "Rows and progress are in one Kafka transaction: the new relay fences the old \
               producer, which aborts what it left open, reads the progress and goes on behind it.",
        rounds: 5,
        goal: Some(Duration::from_secs(2)),
        strike: relay::killed,
        ..ANY
    },
    Fault {
        name: "relay-killed-at-a-line",
        does: "The relay kills itself at a named line of the protocol, one after the other: lease \
               claimed, producer opened, progress read, taken over, rows fetched, about to \
               publish, committed in Kafka, about to write the mirror, mirror written, about to \
               release the lease.",
        rule: "At each of them Kafka's progress says what is published; the mirror in the database \
               is only where to start reading.",
        rounds: 10,
        goal: Some(Duration::from_secs(2)),
        strike: relay::killed_at_a_line,
        ..ANY
    },
    Fault {
        name: "relay-doubled",
        does: "A second relay with the instance id of the first is started while that one works, \
               and takes the source from it; the first is killed a little later.",
        rule: "Fence first, then read the progress: what the first has committed until then is in \
               it, what comes later Kafka refuses.",
        rounds: 3,
        strike: relay::doubled,
        ..ANY
    },
    Fault {
        name: "relay-frozen",
        does: "`SIGSTOP` of the owner until the other relay has taken over, then `SIGCONT`. \
               Recovery counts from the freeze.",
        rule: "The lease runs out after 3 s; the heir fences the frozen producer. When it wakes, \
               Kafka refuses its requests, and the database its writes, as the relay epoch is not \
               its own any more.",
        relays: 2,
        rounds: 2,
        goal: Some(Duration::from_secs(12)),
        strike: relay::frozen,
        ..ANY
    },
    Fault {
        name: "relay-frozen-at-a-line",
        does: "The owner freezes at a named line of the protocol, is replaced, and wakes.",
        rule: "As above, wherever it was: claimed and not fenced, fenced and not read, in a \
               transaction, behind its commit.",
        relays: 2,
        rounds: 4,
        goal: Some(Duration::from_secs(12)),
        strike: relay::frozen_at_a_line,
        ..ANY
    },
    Fault {
        name: "relay-taken-over",
        does: "Two relays; `kill -9` of the owner. Recovery counts from the kill.",
        rule: "The lease runs out 3 s after its last renewal, and the other one takes over as \
               after any crash.",
        relays: 2,
        rounds: 2,
        goal: Some(Duration::from_secs(5)),
        strike: relay::killed_beside_another,
        ..ANY
    },
    Fault {
        name: "relay-stopped",
        does: "Two relays; `SIGTERM` to the owner. Recovery counts from its end.",
        rule: "It ends its transaction, writes the mirror and releases the lease.",
        relays: 2,
        rounds: 3,
        goal: Some(Duration::from_secs(1)),
        strike: relay::stopped_beside_another,
        ..ANY
    },
    Fault {
        name: "kafka-killed",
        does: "`kill -9` of the only broker, and a start on the same data. Recovery counts from \
               the moment its port answers.",
        rule: "After trouble nothing is sent again: the relay drops its producer, opens a new one, \
               and believes only the progress that it reads back.",
        rounds: 2,
        goal: Some(Duration::from_secs(1)),
        strike: kafka::killed,
        ..ANY
    },
    Fault {
        name: "kafka-frozen",
        does: "`SIGSTOP` of the only broker for 0.2 to 1.5 s. (Frozen for longer than its session, 2 s here, a \
               broker that stands alone can forget the markers that end a transaction, and readers hang: the relay \
               says so and how to mend it.)",
        rule: "An answer that comes late is an answer; one that does not come makes the outcome \
               unknown, and the relay reads it from the progress.",
        rounds: 2,
        strike: kafka::frozen,
        ..ANY
    },
    Fault {
        name: "brokers-restarted",
        does: "Three brokers, stopped in order and started again one after the other, the next when all copies are in \
               sync: each of them leads partitions, and one the coordinator of the relay's transactions. Recovery \
               counts from the stop.",
        rule: "A leader or coordinator that has moved is asked for; a transaction that was cut is one of unknown \
               outcome.",
        world: World::ThreeBrokers,
        rounds: 3,
        strike: kafka::one_of_three_restarted,
        ..ANY
    },
    Fault {
        name: "broker-lost",
        does: "`kill -9` of one of three brokers, which comes back a little later, and in the last strike does not. \
               Recovery counts from the kill.",
        rule: "What is acknowledged two brokers have; the two that are left elect leaders and a coordinator.",
        world: World::ThreeBrokers,
        rounds: 3,
        strike: kafka::one_of_three_lost,
        ..ANY
    },
    Fault {
        name: "kafka-disk-full",
        does: "The only broker's disk is full until the broker gives up and ends; then it has room again and is \
               started. Recovery counts from the moment its port answers.",
        rule: "As after any end of a broker: what it could not store was not acknowledged.",
        world: World::KafkaDisk,
        rounds: 2,
        strike: kafka::disk_full,
        ..ANY
    },
    Fault {
        name: "commit-late",
        does: "The commit (EndTxn) is held on its way and its connection cut; it arrives within \
               the next transaction, between two records of that one (KAFKA-17754).",
        rule: "Native: every end of a transaction has an epoch of its own (KIP-890), so the late \
               one is refused. rdkafka: a producer that has seen trouble begins no further \
               transaction, not even after an OK.",
        behind_proxy: true,
        rounds: 3,
        strike: kafka::commit_arrives_late,
        ..ANY
    },
    Fault {
        name: "commit-answer-lost",
        does: "The commit is done; its answer is lost and the connection cut.",
        rule: "An unknown outcome is never guessed: a new producer is opened, which ends the \
               transaction if it is open, and the progress tells.",
        behind_proxy: true,
        rounds: 5,
        strike: |_, stage, _| kafka::once(stage, api::END_TXN, ProxyFault::LoseAnswer),
        ..ANY
    },
    Fault {
        name: "commit-cut",
        does: "The connection is cut before the broker sees the commit.",
        rule: "As above; the transaction is aborted by the new producer, and its rows are read again.",
        behind_proxy: true,
        rounds: 5,
        strike: |_, stage, _| kafka::once(stage, api::END_TXN, ProxyFault::Cut),
        ..ANY
    },
    Fault {
        name: "commit-delayed",
        does: "The commit waits on its way for 0.05 to 1.5 s.",
        rule: "Nothing is sent meanwhile.",
        behind_proxy: true,
        rounds: 3,
        strike: |_, stage, random| kafka::delayed(stage, api::END_TXN, random),
        ..ANY
    },
    Fault {
        name: "produce-answer-lost",
        does: "Records are stored; the answer is lost and the connection cut.",
        rule: "Within a transaction that is not committed nothing is visible, and rows are read \
               again from the progress.",
        behind_proxy: true,
        rounds: 5,
        strike: |_, stage, _| kafka::once(stage, api::PRODUCE, ProxyFault::LoseAnswer),
        ..ANY
    },
    Fault {
        name: "produce-cut",
        does: "The connection is cut before the broker sees the records.",
        rule: "As above.",
        behind_proxy: true,
        rounds: 5,
        strike: |_, stage, _| kafka::once(stage, api::PRODUCE, ProxyFault::Cut),
        ..ANY
    },
    Fault {
        name: "produce-delayed",
        does: "Records wait on their way for 0.05 to 1.5 s.",
        rule: "As above; the transaction goes on if its time is not over.",
        behind_proxy: true,
        rounds: 3,
        strike: |_, stage, random| kafka::delayed(stage, api::PRODUCE, random),
        ..ANY
    },
    Fault {
        name: "progress-lost",
        does: "The progress topic is deleted; the relay stops and says so, and `onceward source reset` lets it go on \
               where its database knows it to be. Recovery counts from then.",
        rule: "A relay that was stopped in order has written down where it is; the last position in each partition \
               stands in its record.",
        rounds: 2,
        strike: kafka::progress_lost,
        ..ANY
    },
    Fault {
        name: "postgres-killed",
        does: "`kill -9` of the server and a start on the same data. Recovery counts from the \
               moment it answers.",
        rule: "The relay publishes only what it saw committed; on a new connection it compares \
               count and ids of the rows between mirror and progress.",
        databases: &[Kind::Postgres],
        rounds: 2,
        strike: database::killed,
        ..ANY
    },
    Fault {
        name: "postgres-xids-reused",
        does: "400 transactions are rolled back, the relay reads a row in a snapshot behind them, and the server \
               is stopped like a crash at once: it then hands out again the ids that were not durable.",
        rule: "A stored snapshot reaches no further than one above the highest id that was read as \
               committed, so a row under an id that comes back is not taken for one that was \
               passed.",
        databases: &[Kind::Postgres],
        rounds: 2,
        strike: database::crashed_after_rollbacks,
        ..ANY
    },
    Fault {
        name: "database-disk-full",
        does: "The database's disk is full for 0.5 to 2.5 s, in every other strike while the relay is killed and \
               started again. A server of Postgres that ends of it is started again. Recovery counts from then.",
        rule: "The relay publishes what is committed, whether or not it can write down how far it is: that stands in \
               Kafka.",
        world: World::DatabaseDisk,
        rounds: 4,
        strike: database::disk_full,
        ..ANY
    },
    Fault {
        name: "postgres-promoted",
        does: "All processes of the server are killed at once, for good, as when its machine dies; its synchronous \
               standby is promoted and takes over the address. Recovery counts from then.",
        rule: "A commit is seen by nobody before the standby has it, and the relay's snapshots reach no further than \
               what it saw. (If the first process alone is killed, those that wait for the standby let their commits \
               be seen before they end. What is published of them may be missing on the standby: the relay notices \
               and stops.)",
        databases: &[Kind::Postgres],
        world: World::Standby,
        rounds: 1,
        strike: standby::promoted,
        ..ANY
    },
    Fault {
        name: "postgres-early-id-late-row",
        does: "While the relay is frozen for a moment, a later transaction writes a key and commits, and then \
               one that has begun before it does the same: both rows are read at once.",
        rule: "Rows of a batch go by their number, given while the key is locked, never by the id of their \
               transaction.",
        databases: &[Kind::Postgres],
        rounds: 3,
        strike: database::early_id_late_row,
        ..ANY
    },
    Fault {
        name: "postgres-transaction-kept-open",
        does: "A transaction writes an event and stays open for seconds while others commit.",
        rule: "The cursor is a snapshot: what was not visible in the last one is new, however late \
               it commits, and nobody waits for it.",
        databases: &[Kind::Postgres],
        rounds: 2,
        goal: Some(Duration::from_secs(1)),
        strike: database::kept_open,
        ..ANY
    },
    Fault {
        name: "postgres-transaction-prepared",
        does: "A transaction with an event is prepared (PREPARE TRANSACTION) and ended later, in half of the strikes \
               behind a crash of the server.",
        rule: "A prepared transaction is an open one to every snapshot, across restarts of server and relay.",
        databases: &[Kind::Postgres],
        rounds: 4,
        strike: database::prepared,
        ..ANY
    },
    Fault {
        name: "postgres-writers-many",
        does: "250 to 300 connections at once each keep a transaction with an event open; half of them are rolled \
               back, in no order. Recovery counts from their end.",
        rule: "What is new is told by two snapshots, not by the order of ids or commits.",
        databases: &[Kind::Postgres],
        rounds: 3,
        strike: database::many_open,
        ..ANY
    },
    Fault {
        name: "row-poisoned",
        does: "A row that its topic refuses, and two more of its key; the relay dies at a step of parking them, or of \
               the replay that follows when the topic takes them.",
        rule: "A key is parked before the cursor passes its row, what is published of it is in the progress, and a \
               replay is cleaned up by whoever takes over.",
        rounds: 6,
        strike: database::poisoned,
        ..ANY
    },
    Fault {
        name: "postgres-cut-at-commit",
        does: "The connection of whoever commits next, writer or relay, is cut at COMMIT: before \
               the server sees it, or before its answer.",
        rule: "What the relay writes to the database can be written again, and is guarded by its \
               epoch; what the writers don't know of, the database tells.",
        databases: &[Kind::Postgres],
        cut_postgres: true,
        rounds: 8,
        strike: database::cut_at_commit,
        ..ANY
    },
    Fault {
        name: "writer-killed",
        does: "Three processes that write events beside each other are killed with `kill -9`, one after the other, in \
               the midst of it.",
        rule: "Domain rows and outbox rows commit in one transaction, or none of them does.",
        rounds: 3,
        strike: database::writers_killed,
        ..ANY
    },
    Fault {
        name: "consumer-killed",
        does: "Of three consumers, each event's effect a row and a message of its own, one is killed with `kill -9` and \
               started again.",
        rule: "Claim, effect, outgoing message and next offset commit in one transaction; its successor goes on at \
               the offset in the database.",
        publishers: &[Publisher::Native],
        consumers: 3,
        rounds: 4,
        strike: consumer::killed,
        ..ANY
    },
    Fault {
        name: "consumer-killed-in-handler",
        does: "One of three consumers kills itself within a handler, when all is written and nothing committed.",
        rule: "As above: nothing of it happened.",
        publishers: &[Publisher::Native],
        consumers: 3,
        rounds: 3,
        strike: consumer::killed_in_a_handler,
        ..ANY
    },
    Fault {
        name: "consumer-rebalanced",
        does: "One of three consumers is stopped in order and started again, so that partitions move in mid-batch.",
        rule: "A claim raises the owner epoch of a partition: a batch of its former owner ends without effect.",
        publishers: &[Publisher::Native],
        consumers: 3,
        rounds: 3,
        strike: consumer::rebalanced,
        ..ANY
    },
    Fault {
        name: "consumer-frozen",
        does: "`SIGSTOP` of one of the three until its session has run out and the others have its partitions, \
               then `SIGCONT`. Those of the others flow meanwhile.",
        rule: "Who claims a partition raises its owner epoch, and every transaction of the consumer touches the \
               epoch it claimed with: what one that woke still has in hand is rolled back.",
        publishers: &[Publisher::Native],
        consumers: 3,
        rounds: 2,
        strike: consumer::frozen,
        ..ANY
    },
    Fault {
        name: "consumer-group-reset",
        does: "All three are stopped; the group's offsets are set back to the beginning, or the group is \
               deleted, or those in the consumer's own database are set back.",
        rule: "The offsets in the consumer's database count; those in Kafka are for lag tools. What is read \
               again is in the inbox.",
        publishers: &[Publisher::Native],
        consumers: 3,
        rounds: 3,
        strike: consumer::group_reset,
        ..ANY
    },
];
