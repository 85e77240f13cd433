//! Where going on would lose or double something, all has to stop and say what a person can do.
//!
//! Each of these makes such a condition on purpose and lets the relay or the consumers meet it, with rows or
//! records at hand that they could go wrong with. They have to stop, say why, and publish or handle nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use onceward_testkit::kafka::Kafka;
use onceward_testkit::wait;
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::cell::Outcome;
use crate::database::{Kind, Store};
use crate::fault::{fall_behind, promote};
use crate::reader::read_all;
use crate::relay::Publisher;
use crate::rig::{PATIENCE, Rig, Setting};
use crate::stage::{PARTITIONS, Stage, admin};
use crate::world::World;

/// A condition in which nothing may go on.
#[derive(Debug)]
pub struct LoudStop {
    /// As in `--only`, behind `stop/`.
    pub name: &'static str,
    /// What is done.
    pub does: &'static str,
    /// What going on would do.
    pub else_would: &'static str,
    /// Databases it concerns.
    pub databases: &'static [Kind],
    /// On what.
    pub world: World,
    /// Consumers, if it is they who have to stop; else it is the relay.
    pub consumers: usize,
    /// Part of the reason that has to be told.
    pub says: &'static str,
    /// Done while all run; they go on for a second then.
    pub ahead: Make,
    /// Makes the condition, when nobody writes, relays or consumes any more.
    pub make: Make,
}

/// Does a part of it.
type Make = fn(&mut Rig, &mut Stage) -> Result<()>;

const ANY: LoudStop = LoudStop {
    name: "",
    does: "",
    else_would: "",
    databases: &Kind::ALL,
    world: World::Shared,
    consumers: 0,
    says: "",
    ahead: |_, _| Ok(()),
    make: |_, _| Ok(()),
};

/// All of them, in the order of the report.
pub static STOPS: &[LoudStop] = &[
    LoudStop {
        name: "progress-deleted",
        does: "The progress topic is deleted while no relay runs.",
        else_would: "publish all rows again",
        says: "progress topic is empty",
        make: |rig, stage| stage.delete_topic(&rig.kafka, &rig.task.source.progress_topic()),
        ..ANY
    },
    LoudStop {
        name: "kafka-replaced",
        does: "The relay is pointed at another cluster, which has the topic and no progress.",
        else_would: "publish all rows again",
        says: "progress",
        make: |rig, stage| {
            rig.kafka = rig.own.kafka.insert(Kafka::start()?).bootstrap();
            rig.start.kafka = rig.kafka.clone();
            stage.make_topic(&rig.kafka, &rig.task.topic)
        },
        ..ANY
    },
    LoudStop {
        name: "database-restored",
        does: "The database is replaced by an older copy: of the file, or a base backup of the server.",
        else_would: "take new rows for published, as their numbers were used before",
        says: "row",
        ahead: copy_database,
        make: restore_copy,
        ..ANY
    },
    LoudStop {
        name: "standby-behind-promoted",
        does: "The server is gone for good, and a standby is promoted that had not received its last rows.",
        else_would: "take new rows for published, as their numbers were used before",
        databases: &[Kind::Postgres],
        world: World::Standby,
        says: "row",
        ahead: |rig, _| fall_behind(rig),
        make: |rig, _| {
            rig.own.servers()?.0.kill9()?;
            promote(rig)
        },
        ..ANY
    },
    LoudStop {
        name: "topic-grown",
        does: "A topic with keys gets more partitions.",
        else_would: "send keys elsewhere, and so break their order",
        says: "partitions",
        make: |rig, stage| {
            let count = usize::try_from(PARTITIONS)? * 2;
            let (admin, options) = (admin(&rig.kafka)?, AdminOptions::new());
            let grown = [NewPartitions::new(&rig.task.topic, count)];
            let grown = admin.create_partitions(&grown, &options);
            for outcome in stage.runtime.block_on(grown)? {
                outcome.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
            }
            Ok(())
        },
        ..ANY
    },
    LoudStop {
        name: "topic-recreated",
        does: "A topic is deleted and made anew while no consumer runs.",
        else_would: "skip the new topic's records up to the old one's offset",
        consumers: 1,
        says: "made anew",
        make: |rig, stage| {
            stage.delete_topic(&rig.kafka, &rig.task.topic)?;
            stage.make_topic(&rig.kafka, &rig.task.topic)?;
            rig.restart(0, None)
        },
        ..ANY
    },
    LoudStop {
        name: "records-expired",
        does: "Records are deleted, as retention does, before the consumer has read them.",
        else_would: "skip them",
        consumers: 1,
        says: "unread",
        make: |rig, stage| {
            rig.restart(0, None)?;
            rig.write_some()?;
            rig.drain_topic()?;
            let mut all = TopicPartitionList::new();
            for partition in 0..PARTITIONS {
                all.add_partition_offset(&rig.task.topic, partition, Offset::End)?;
            }
            let (admin, options) = (admin(&rig.kafka)?, AdminOptions::new());
            let deleted = admin.delete_records(&all, &options);
            stage.runtime.block_on(deleted)?;
            Ok(())
        },
        ..ANY
    },
];

/// Copies the database as it stands.
fn copy_database(rig: &mut Rig, stage: &mut Stage) -> Result<()> {
    match rig.database {
        Kind::Sqlite => {
            let copy = rig.logs.join("copy.db");
            let copy = format!("vacuum into '{}'", copy.display());
            rig.runtime.block_on(rig.store.execute(copy))
        }
        Kind::Postgres => {
            rig.own.standby = Some(stage.postgres()?.base_backup(false)?);
            Ok(())
        }
    }
}

/// Puts the copy in the place of the database.
fn restore_copy(rig: &mut Rig, _: &mut Stage) -> Result<()> {
    let url = match &rig.own.standby {
        None => format!("sqlite://{}", rig.logs.join("copy.db").display()),
        Some(copy) => copy.url(rig.url.rsplit('/').next().unwrap_or_default()),
    };
    rig.runtime.block_on(rig.store.close());
    rig.store = rig.runtime.block_on(Store::open(&url, 8))?;
    rig.start.source = format!("{}={url}", rig.task.source);
    rig.url = url;
    Ok(())
}

/// A stop on one database.
#[derive(Debug, Clone, Copy)]
pub struct StopCell {
    /// Which.
    pub stop: &'static LoudStop,
    /// Where the outbox is.
    pub database: Kind,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stopped {
    /// From the start of who has to stop until it was told.
    pub after_ms: u64,
    /// What was published, or handled, nevertheless.
    pub behind: u64,
    /// What was told.
    pub reason: String,
    /// What a person can do, as the relay says it.
    pub way_out: String,
    /// What is wrong, in words; empty if all is well.
    pub problem: String,
}

/// All of them on all databases.
pub fn stop_cells() -> impl Iterator<Item = StopCell> {
    STOPS.iter().flat_map(|stop| {
        let databases = stop.databases.iter();
        databases.map(move |database| StopCell {
            stop,
            database: *database,
        })
    })
}

impl StopCell {
    /// As in `--only`.
    pub fn name(&self) -> String {
        format!("stop/{}/{}", self.stop.name, self.database.name())
    }

    /// Runs it. What goes wrong is in the outcome.
    pub fn run(&self, stage: &mut Stage, seed: u64) -> Stopped {
        let mut outcome = Stopped::default();
        if let Err(error) = self.try_run(stage, seed, &mut outcome) {
            outcome.problem = format!("{error:#}");
        }
        outcome
    }

    fn try_run(&self, stage: &mut Stage, seed: u64, outcome: &mut Stopped) -> Result<()> {
        let stop = self.stop;
        let mut rig = self.prepare(stage, seed, None)?;
        let done = |rig: &Rig| -> Result<usize> {
            Ok(match stop.consumers {
                0 => read_all(&rig.kafka, &rig.task.topic)?.len(),
                _ => rig.runtime.block_on(rig.store.effects())?.len(),
            })
        };
        let before = done(&rig)?;
        let begun = Instant::now();
        match stop.consumers {
            0 => rig.restart(0, None)?,
            _ => rig.start_consumers(stop.consumers)?,
        }
        let (reason, way_out) =
            wait::until("the stop", PATIENCE, || rig.stopped()).with_context(|| rig.told())?;
        outcome.after_ms = u64::try_from(begun.elapsed().as_millis())?;
        std::thread::sleep(Duration::from_secs(2));
        outcome.behind = u64::try_from(done(&rig)?.saturating_sub(before))?;
        if !reason.contains(stop.says) {
            bail!("it stopped and said: {reason}");
        }
        if outcome.behind > 0 {
            bail!("it went on: {} behind the stop", outcome.behind);
        }
        (outcome.reason, outcome.way_out) = (reason, way_out);
        rig.clear(stage)
    }

    /// Makes the condition, with rows or records at hand that could go wrong.
    fn prepare(&self, stage: &mut Stage, seed: u64, broken: Option<&'static str>) -> Result<Rig> {
        let Self { stop, database } = *self;
        let setting = Setting {
            world: stop.world,
            consumers: stop.consumers,
            seed,
            broken,
            ..Setting::default()
        };
        let mut rig = Rig::set(stage, database, Publisher::Native, setting)?;
        (stop.ahead)(&mut rig, stage)?;
        std::thread::sleep(Duration::from_secs(1));
        rig.calm()?;
        (stop.make)(&mut rig, stage)?;
        rig.write_some()?;
        Ok(rig)
    }

    /// Runs it with relays that break a rule: does one go on?
    pub fn run_broken(&self, stage: &mut Stage, seed: u64, rule: &'static str) -> Result<Outcome> {
        let mut rig = self.prepare(stage, seed, Some(rule))?;
        rig.restart(0, None)?;
        let mut outcome = Outcome::default();
        if rig.owner().is_ok() {
            outcome.other = 1;
            outcome.problems.push("a relay went on".to_owned());
        }
        rig.clear(stage)?;
        Ok(outcome)
    }
}
