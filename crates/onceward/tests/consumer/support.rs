//! A database with an `effect` table, and a handler that does as it is told.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onceward::consumer::{
    Consumer, ConsumerError, ConsumerOptions, ConsumerStatus, Handle, Handler, HandlerError,
    Handlers,
};
use onceward::schema::SchemaBackend;
use onceward::{ConsumerName, Db, Event, MessageContext, SourceName, Tx};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Sqlite};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::memory::{Log, TOPIC};

#[derive(Debug, Serialize, Deserialize)]
pub struct Ping {
    pub n: i64,
    pub key: String,
}
impl Event for Ping {
    const TYPE: &'static str = "ping.v1";
    const AGGREGATE_TYPE: &'static str = "ping";
    fn aggregate_id(&self) -> String {
        self.key.clone()
    }
}

/// What the handler does with a ping instead of handling it.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Asks for another try, this many times.
    Retry(u32),
    Reject,
    Panic,
    /// A statement fails, and the handler says that all is well.
    SwallowedError,
    /// Takes longer than a handler may.
    Hang,
    /// The same in the database, which can't be told to stop.
    SlowStatement,
    /// The database ends its session, this many times.
    SessionEnded(u32),
    /// The database makes it a victim, this many times.
    Victim(u32),
    /// Locks what a [`rival`](super::commits::rival) waits for, and waits for what that holds, this many times.
    Deadlock(u32),
}

#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<BTreeMap<i64, Fault>>>);

impl Faults {
    pub fn set(&self, n: i64, fault: Fault) {
        self.0.lock().unwrap().insert(n, fault);
    }
    pub fn clear(&self, n: i64) {
        self.0.lock().unwrap().remove(&n);
    }
    fn next(&self, n: i64) -> Option<Fault> {
        let mut faults = self.0.lock().unwrap();
        match faults.get_mut(&n) {
            Some(Fault::Retry(0)) => faults.remove(&n).and(None),
            Some(Fault::SessionEnded(0) | Fault::Victim(0) | Fault::Deadlock(0)) => {
                faults.remove(&n).and(None)
            }
            Some(
                Fault::Retry(left)
                | Fault::SessionEnded(left)
                | Fault::Victim(left)
                | Fault::Deadlock(left),
            ) => {
                *left -= 1;
                faults.get(&n).copied()
            }
            other => other.copied(),
        }
    }
}

impl<B: TestBackend> Handler<B, Ping> for Faults {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        _: &MessageContext,
        ping: Ping,
    ) -> Result<(), HandlerError> {
        sqlx::query("insert into effect (n, message_key) values ($1, $2)")
            .bind(ping.n)
            .bind(ping.key)
            .execute(&mut **tx)
            .await?;
        match self.next(ping.n) {
            None => Ok(()),
            Some(Fault::Retry(_)) => Err(HandlerError::Retry {
                after: None,
                cause: "not now".into(),
            }),
            Some(Fault::SessionEnded(_)) => {
                statement(tx, "select pg_terminate_backend(pg_backend_pid())").await
            }
            Some(Fault::Victim(_)) => {
                let raise = "do $$ begin raise exception 'no' using errcode = '40001'; end $$";
                statement(tx, raise).await
            }
            Some(Fault::Deadlock(_)) => {
                statement(tx, "set local deadlock_timeout = '200ms'").await?;
                statement(tx, "select pg_advisory_xact_lock(1)").await?;
                statement(tx, "select pg_advisory_xact_lock(2)").await
            }
            Some(Fault::Reject) => Err(HandlerError::Reject("never".into())),
            Some(Fault::Panic) => panic!("a handler's panic"),
            Some(Fault::SwallowedError) => {
                let broken = sqlx::query("insert into no_such_table values (1)");
                let _swallowed = broken.execute(&mut **tx).await;
                Ok(())
            }
            Some(Fault::SlowStatement) => statement(tx, B::SLOW).await,
            Some(Fault::Hang) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(())
            }
        }
    }
}

/// Runs a statement; its error is wrapped, as services wrap them.
async fn statement<B: SchemaBackend>(
    tx: &mut Tx<'static, B>,
    text: &'static str,
) -> Result<(), HandlerError> {
    match sqlx::query(text).execute(&mut **tx).await {
        Ok(_) => Ok(()),
        Err(error) => Err(HandlerError::Retry {
            after: None,
            cause: Box::new(onceward::Error::database("a service's statement")(error)),
        }),
    }
}

pub trait TestBackend: SchemaBackend {
    const EFFECT: &'static str;
    /// A statement that takes longer than a unit of work may, and not for ever.
    const SLOW: &'static str;
    fn open() -> impl Future<Output = (Db<Self>, Option<tempfile::TempDir>)> + Send;
}
impl TestBackend for Sqlite {
    const EFFECT: &'static str = "create table effect (id integer primary key autoincrement, \
        n bigint not null, message_key text not null)";
    const SLOW: &'static str = "with recursive slow(n) as \
        (select 1 union all select n + 1 from slow where n < 12000000) select count(*) from slow";
    async fn open() -> (Db<Self>, Option<tempfile::TempDir>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("consumer.db");
        std::fs::File::create(&file).unwrap();
        let url = format!("sqlite://{}", file.display());
        (
            Db::<Self>::open(&url, Default::default()).await.unwrap(),
            Some(folder),
        )
    }
}
impl TestBackend for Postgres {
    const EFFECT: &'static str = "create table effect (id bigint generated always as identity, \
        n bigint not null, message_key text not null)";
    const SLOW: &'static str = "select pg_sleep(2.5)";
    async fn open() -> (Db<Self>, Option<tempfile::TempDir>) {
        let url = tokio::task::spawn_blocking(|| {
            onceward_testkit::postgres::shared()
                .unwrap()
                .create_database()
                .unwrap()
        });
        let url = url.await.unwrap();
        (
            Db::<Self>::open(&url, Default::default()).await.unwrap(),
            None,
        )
    }
}

pub struct World<B: TestBackend> {
    pub db: Db<B>,
    pub log: Log,
    pub faults: Faults,
    _folder: Option<tempfile::TempDir>,
}

impl<B: TestBackend> World<B> {
    pub async fn new(partitions: usize) -> Self {
        let (db, folder) = B::open().await;
        Self::on(db, folder, partitions).await
    }

    /// On a database that is already open.
    pub async fn on(db: Db<B>, folder: Option<tempfile::TempDir>, partitions: usize) -> Self {
        let name = SourceName::new("consumer-test").unwrap();
        onceward::schema::migrate(db.pool(), &name).await.unwrap();
        sqlx::query(B::EFFECT).execute(db.pool()).await.unwrap();
        Self {
            db,
            log: Log::new(partitions),
            faults: Faults::default(),
            _folder: folder,
        }
    }

    pub fn options(&self) -> ConsumerOptions {
        let name = ConsumerName::new("group").unwrap();
        let mut options = ConsumerOptions::new(name, [TOPIC]);
        options.idle_advance_interval = Duration::from_millis(50);
        options.request_interval = Duration::from_millis(50);
        options.retry.first_delay = Duration::from_millis(20);
        options.retry.max_attempts = 4;
        options
    }

    pub fn start(&self) -> Running {
        self.start_with(self.options())
    }

    pub fn start_with(&self, options: ConsumerOptions) -> Running {
        let handlers = Handlers::default().on::<Ping, _>(self.faults.clone());
        self.start_handling(options, handlers)
    }

    pub fn start_handling(&self, options: ConsumerOptions, handlers: Handlers<B>) -> Running {
        let consumer = Consumer::new(self.db.clone(), handlers, self.log.subscriber(), options);
        let handle = consumer.handle();
        let stop = CancellationToken::new();
        let task = tokio::spawn(consumer.run(stop.clone()));
        Running { handle, stop, task }
    }

    /// Numbers in the order of their effects.
    pub async fn effects(&self) -> Vec<i64> {
        sqlx::query_scalar("select n from effect order by id")
            .fetch_all(self.db.pool())
            .await
            .unwrap()
    }

    /// Numbers of one key in the order of their effects.
    pub async fn effects_of(&self, key: &str) -> Vec<i64> {
        sqlx::query_scalar("select n from effect where message_key = $1 order by id")
            .bind(key)
            .fetch_all(self.db.pool())
            .await
            .unwrap()
    }

    /// Waits until each of these took effect, and asserts that none did twice.
    pub async fn all_once(&self, numbers: impl IntoIterator<Item = i64>) {
        let mut wanted: Vec<i64> = numbers.into_iter().collect();
        wanted.sort_unstable();
        until("all effects", async || {
            let mut found = self.effects().await;
            found.sort_unstable();
            let count = found.len();
            let mut single = found.clone();
            single.dedup();
            assert_eq!(single.len(), count, "doubled effects among {found:?}");
            found == wanted
        })
        .await;
    }

    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(self.db.pool())
            .await
            .unwrap()
    }

    /// Waits until a count is reached.
    pub async fn count_reaches(&self, wanted: i64, query: &'static str) {
        until(query, async || self.count(query).await == wanted).await;
    }

    pub async fn execute(&self, statement: &'static str) {
        sqlx::query(statement)
            .execute(self.db.pool())
            .await
            .unwrap();
    }
}

pub struct Running {
    pub handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ConsumerError>>,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Result<(), ConsumerError> {
        self.task.await.unwrap()
    }

    /// Dies in the middle of whatever it does.
    pub async fn kill(self) {
        self.task.abort();
        let _aborted = self.task.await;
    }

    pub async fn until(&self, what: &str, state: impl Fn(&ConsumerStatus) -> bool) {
        until(what, async || state(&self.handle.status())).await;
    }
}

const WAIT: Duration = Duration::from_secs(120);

/// Waits for a state.
#[track_caller]
pub fn until(what: &str, state: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        while !state().await {
            assert!(
                begun.elapsed() < WAIT,
                "{caller}: no {what} within {WAIT:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
