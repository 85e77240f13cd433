//! What one cell runs on: a source, relays, writers, a reader.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use onceward::{Clock, Micros, SourceName, SystemClock};
use onceward_testkit::postgres::drop_database;
use onceward_testkit::process::Process;
use onceward_testkit::wait;
use tokio::runtime::Handle;

use crate::Result;
use crate::account::Account;
use crate::consumer;
use crate::database::{Kind, Store};
use crate::fault::{FAULTS, Fault, Struck};
use crate::reader::Reader;
use crate::relay::{Publisher, Relay, Start};
use crate::stage::Stage;
use crate::world::{Own, World};
use crate::writers::{KEYS, Task, Writers};

/// Nothing may take longer to work again; also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One fault on one database with one publisher.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// The fault.
    pub fault: &'static Fault,
    /// Where the outbox is.
    pub database: Kind,
    /// Which producer.
    pub publisher: Publisher,
}

impl Cell {
    /// Every cell there is, in the order of a whole run.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for fault in FAULTS {
            for database in Kind::ALL {
                for publisher in Publisher::ALL {
                    let concerns = fault.databases.contains(&database)
                        && fault.publishers.contains(&publisher);
                    if concerns {
                        cells.push(Self {
                            fault,
                            database,
                            publisher,
                        });
                    }
                }
            }
        }
        cells
    }

    /// `fault/database/publisher`.
    pub fn name(&self) -> String {
        let Self {
            fault,
            database,
            publisher,
        } = self;
        format!("{}/{}/{}", fault.name, database.name(), publisher.name())
    }

    /// The same plan for the same cell, whichever others run.
    pub fn seed(&self, seed: u64) -> u64 {
        // FNV-1a: stable, unlike the standard library's hashes.
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        self.name().bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, fold)
    }
}

/// A cell's world. Everything in it is killed when it is dropped.
#[derive(Debug)]
pub struct Rig {
    /// Runs what is asynchronous.
    pub runtime: Handle,
    /// The broker itself, without the proxy.
    pub kafka: String,
    /// Which strike is next, from 1.
    pub round: u32,
    /// Which database.
    pub database: Kind,
    /// The relays.
    pub relays: Vec<Relay>,
    /// The consumers, if the whole line is under test.
    pub consumers: Vec<Process>,
    /// How they are started.
    pub start: Start,
    /// The database, as the application sees it.
    pub store: Store,
    /// Its URL.
    pub url: String,
    /// What the writers know.
    pub account: Arc<Account>,
    /// Those who write.
    pub writers: Writers,
    /// What is visible.
    pub reader: Reader,
    /// Source, topic and account.
    pub task: Task,
    /// Where the relays log.
    pub logs: PathBuf,
    /// When it began.
    pub begun: Micros,
    // Ends last, when nobody uses it any more.
    /// What it has for itself.
    pub own: Own,
}

/// How a rig is set up.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What it has for itself.
    pub world: World,
    /// How many relays.
    pub relays: usize,
    /// How many consumers.
    pub consumers: usize,
    /// Whether the relays reach Kafka through the proxy.
    pub behind_proxy: bool,
    /// Whether everybody reaches Postgres through the proxy that cuts at COMMIT.
    pub cut_postgres: bool,
    /// What the writers write.
    pub seed: u64,
    /// A rule that the relays break.
    pub broken: Option<&'static str>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            world: World::Shared,
            relays: 1,
            consumers: 0,
            behind_proxy: false,
            cut_postgres: false,
            seed: 1,
            broken: None,
        }
    }
}

impl Rig {
    /// Starts everything and waits until events flow.
    pub fn set(
        stage: &mut Stage,
        database: Kind,
        publisher: Publisher,
        setting: Setting,
    ) -> Result<Self> {
        stage.mend()?;
        let name = stage.name();
        let (source, topic) = (SourceName::new(&name)?, format!("{name}.happened"));
        let logs = stage.folder.path().join(&name);
        std::fs::create_dir_all(&logs)?;
        let own = Own::make(setting.world, database, &logs)?;
        let direct = own.bootstrap(stage);
        stage.make_topic(&direct, &topic)?;
        let url = match (database, own.create_database()?) {
            (Kind::Sqlite, _) => {
                let folder = own.disk.as_ref().map_or(&*logs, |disk| disk.path());
                format!("sqlite://{}", folder.join("outbox.db").display())
            }
            (Kind::Postgres, Some(url)) => url,
            (Kind::Postgres, None) => {
                let url = stage.postgres()?.create_database()?;
                match setting.cut_postgres {
                    true => stage.cutter()?.url(&url),
                    false => url,
                }
            }
        };
        let runtime = stage.runtime.handle().clone();
        let store = runtime.block_on(async {
            let store = Store::open(&url, 8).await?;
            store.set_up(&source, KEYS).await?;
            Result::Ok(store)
        })?;
        let start = Start {
            kafka: match setting.behind_proxy {
                true => stage.kafka.proxy.address(),
                false => direct.clone(),
            },
            source: format!("{source}={url}"),
            publisher,
            // Small ones, so that a fault meets many transactions. With three copies, or by librdkafka on
            // a busy machine, one takes a tenth of a second, and the relay may not fall behind the
            // writers: what waits there already would count as slow to recover.
            batch_rows: match (setting.world, publisher) {
                (World::ThreeBrokers, _) | (_, Publisher::Rdkafka) => 250,
                _ => 25,
            },
            broken: setting.broken,
        };
        let account = Arc::new(Account::default());
        let task = Task {
            source: source.clone(),
            topic: topic.clone(),
            seed: setting.seed,
            account: account.clone(),
        };
        let mut rig = Self {
            database,
            relays: Vec::new(),
            consumers: Vec::new(),
            writers: Writers::start(&runtime, &store, &task),
            reader: Reader::start(&direct, &topic)?,
            start,
            store,
            url,
            account,
            task,
            kafka: direct,
            runtime,
            round: 0,
            logs,
            begun: SystemClock.now(),
            own,
        };
        for number in 0..setting.relays {
            let relay = rig.start.go(&format!("relay-{number}"), &rig.logs, None)?;
            rig.relays.push(relay);
        }
        if setting.consumers > 0 {
            stage.make_topic(&rig.kafka, &consumer::echo(&rig.task.topic))?;
        }
        rig.start_consumers(setting.consumers)?;
        rig.flows()?;
        Ok(rig)
    }

    /// Starts so many, in the place of any before.
    pub fn start_consumers(&mut self, count: usize) -> Result<()> {
        let all = (0..count).map(|number| consumer::start(self, number, 0));
        self.consumers = all.collect::<Result<_>>()?;
        Ok(())
    }

    /// Waits until an event is visible that is written from now on.
    pub fn flows(&self) -> Result<()> {
        self.visible_since(SystemClock.now(), "events to flow")
            .map(drop)
    }

    /// Waits for the first visible event that was written at `since` or later; when it was seen.
    pub fn visible_since(&self, since: Micros, what: &str) -> Result<Micros> {
        let visible = wait::until(what, self.patience(), || {
            match self.consumers.is_empty() {
                true => Ok(self.reader.first_written_since(since)),
                // What counts at the end of the line. The database may be away just now.
                false => {
                    let first = self.store.first_effect_since(since);
                    Ok(self.runtime.block_on(first).unwrap_or_default())
                }
            }
        });
        visible.with_context(|| self.told())
    }

    /// How long it took from the fault's end to the first visible event of those written since it
    /// began; nothing if it held nobody up.
    pub fn recovered(&self, struck: &Struck) -> Result<Duration> {
        let visible = self.visible_since(struck.begun, "events to flow after the fault")?;
        let micros = visible.saturating_sub(struck.over);
        Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    /// The relay that publishes.
    pub fn owner(&self) -> Result<usize> {
        let owner = wait::until("a relay to own the source", PATIENCE, || {
            Ok(self
                .relays
                .iter()
                .position(|relay| relay.is_owner(&self.runtime)))
        });
        owner.with_context(|| self.told())
    }

    /// One that owns the source while all others stand by; its number.
    pub fn settled(&self) -> Result<usize> {
        let settled = wait::until("one owner and the others standing by", PATIENCE, || {
            let owner = self
                .relays
                .iter()
                .position(|relay| relay.is_owner(&self.runtime));
            let others = self.relays.iter().enumerate();
            let mut others = others.filter(|(number, _)| Some(*number) != owner);
            let calm = others.all(|(_, relay)| relay.is_standby(&self.runtime));
            Ok(owner.filter(|_| calm))
        });
        settled.with_context(|| self.told())
    }

    /// Starts a relay anew in the place of one that is dead.
    pub fn restart(&mut self, number: usize, failpoint: Option<&str>) -> Result<()> {
        let id = self.relay(number)?.id.clone();
        let fresh = self.start.go(&id, &self.logs, failpoint)?;
        *self.relay(number)? = fresh;
        Ok(())
    }

    /// Starts all relays anew but this one.
    pub fn restart_others(&mut self, number: usize) -> Result<()> {
        let mut others = (0..self.relays.len()).filter(|other| *other != number);
        others.try_for_each(|other| self.restart(other, None))
    }

    /// Kills all relays.
    pub fn kill_relays(&mut self) -> Result<()> {
        for relay in &mut self.relays {
            relay.process.kill9()?;
        }
        Ok(())
    }

    /// One of the relays.
    pub fn relay(&mut self, number: usize) -> Result<&mut Relay> {
        self.relays.get_mut(number).context("no such relay")
    }

    /// Has the writers wait if the consumers, slowed by the faults, have fallen far behind them.
    pub fn catch_up(&mut self) -> Result<()> {
        const FAR: i64 = 5_000;
        if self.behind()? > FAR {
            self.drain()?;
            self.start_writers();
        }
        Ok(())
    }

    /// Stops the writers, and waits until everything they committed is visible, and has its effect. How many
    /// rows.
    pub fn drain(&mut self) -> Result<u64> {
        self.runtime.block_on(self.writers.stop())?;
        let rows = self.drain_topic()?;
        if !self.consumers.is_empty() {
            self.drain_consumers(rows)?;
        }
        Ok(rows)
    }

    /// How long to wait for something. Where a rule is broken, that it never comes is what is to be seen.
    pub fn patience(&self) -> Duration {
        match self.start.broken {
            Some(_) => PATIENCE / 6,
            None => PATIENCE,
        }
    }

    /// Waits until everything is visible. How many rows.
    pub fn drain_topic(&self) -> Result<u64> {
        let rows = self.runtime.block_on(self.store.rows(&self.task.topic))?;
        let all = wait::until("everything to be published", self.patience(), || {
            let seen = u64::try_from(self.reader.count())?;
            Ok((seen >= rows).then_some(()))
        });
        if let Err(error) = all {
            let seen = self.reader.count();
            return Err(error.context(format!("{seen} of {rows} rows\n{}", self.told())));
        }
        Ok(rows)
    }

    /// Ends the writers, and when all is done relays and consumers.
    pub fn calm(&mut self) -> Result<()> {
        self.drain()?;
        self.kill_relays()?;
        self.consumers.clear();
        Ok(())
    }

    /// Starts the writers, who were stopped.
    pub fn start_writers(&mut self) {
        self.writers = Writers::start(&self.runtime, &self.store, &self.task);
    }

    /// Has the writers write for a moment.
    pub fn write_some(&mut self) -> Result<()> {
        self.start_writers();
        std::thread::sleep(Duration::from_millis(500));
        self.runtime.block_on(self.writers.stop())
    }

    /// Why the consumers or the relay have stopped, and what a person can do; `None` if they have not.
    pub fn stopped(&self) -> Result<Option<(String, String)>> {
        if !self.consumers.is_empty() {
            let reason = "select max(stopped) from consumer_offset";
            let reason = self.runtime.block_on(self.store.text(reason))?;
            return Ok(reason.map(|reason| (reason, String::new())));
        }
        self.relay_stopped()
    }

    /// Why the first relay has stopped, and what a person can do.
    pub fn relay_stopped(&self) -> Result<Option<(String, String)>> {
        let status = self
            .relays
            .first()
            .and_then(|relay| relay.status(&self.runtime));
        let status = status.filter(|status| status["state"] == "stopped");
        Ok(status.and_then(|status| {
            let text = |name: &str| status[name].as_str().map(str::to_owned);
            Some((text("last_error")?, text("way_out")?))
        }))
    }

    /// How many events have no effect yet.
    pub fn behind(&self) -> Result<i64> {
        let rows = self.runtime.block_on(self.store.rows(&self.task.topic))?;
        let effects = "select cast(count(*) as bigint) from effects";
        Ok(i64::try_from(rows)? - self.runtime.block_on(self.store.number(effects))?)
    }

    /// The sum of the consumer's next offsets: they go on where what is read was handled before.
    fn read(&self) -> Result<i64> {
        let sum = "select cast(coalesce(sum(next_offset), 0) as bigint) from consumer_offset";
        self.runtime.block_on(self.store.number(sum))
    }

    /// Waits until everything has its effect, and the effects' own messages are published.
    fn drain_consumers(&mut self, rows: u64) -> Result<()> {
        let (mut behind, mut read) = (i64::MAX, 0);
        while behind > 0 {
            // As long as there are more of them it may take the time it takes.
            let before = (behind, read);
            let more = wait::until("more effects", self.patience(), || {
                // The database may be away just now.
                behind = self.behind().unwrap_or(before.0);
                read = self.read().unwrap_or(before.1);
                Ok((behind < before.0 || read != before.1 || behind <= 0).then_some(()))
            });
            more.with_context(|| {
                let logs = self.consumers.iter().map(|consumer| consumer.log_tail(8));
                let logs = logs.collect::<Vec<_>>().join("\n");
                format!("{behind} of {rows} events have no effect\n{logs}")
            })?;
        }
        wait::until("everything to be published", PATIENCE, || {
            let done = |relay: &Relay| {
                let status = relay.status(&self.runtime);
                status.is_some_and(|status| status["unpublished_rows"] == 0)
            };
            Ok(self.relays.iter().any(done).then_some(()))
        })
        .with_context(|| self.told())
    }

    /// Whether nobody holds the whole database's write lock.
    pub fn is_writable(&self) -> bool {
        self.runtime.block_on(self.store.is_writable(&self.url))
    }

    /// The ends of the relays' logs.
    pub fn told(&self) -> String {
        let logs = self.relays.iter();
        let logs = logs.map(|relay| format!("{}:\n{}", relay.id, relay.process.log_tail(12)));
        logs.collect::<Vec<_>>().join("\n")
    }

    /// Ends everything and drops the database: a server that crashes looks at every file it has before
    /// it recovers.
    pub fn clear(self, stage: &mut Stage) -> Result<()> {
        let Self {
            relays,
            consumers,
            writers,
            store,
            url,
            runtime,
            database,
            own,
            ..
        } = self;
        drop((relays, consumers, writers));
        runtime.block_on(store.close());
        if database == Kind::Postgres && own.postgres.is_none() {
            let name = url
                .rsplit('/')
                .next()
                .and_then(|rest| rest.split('?').next());
            drop_database(&stage.postgres()?.url("postgres"), name.unwrap_or_default())?;
        }
        Ok(())
    }

    /// Fails if a relay has ended that should run.
    pub fn all_run(&mut self) -> Result<()> {
        for relay in &mut self.relays {
            if !relay.process.is_running() {
                let log = relay.process.log_tail(12);
                bail!("{} has ended by itself:\n{log}", relay.id);
            }
        }
        Ok(())
    }
}
