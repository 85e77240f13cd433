//! The application: writers that commit and roll back transactions of several events, and keep account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use onceward::schema::SchemaBackend;
use onceward::{Clock, MessageContext, Outbox, RawMessage, SourceName, SystemClock, UuidV7};
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};
use sqlx::pool::PoolOptions;
use sqlx::{AssertSqlSafe, Pool, Transaction};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::Result;
use crate::account::{Account, End, Event};
use crate::database::Store;

/// Keys that every writer writes.
pub const SHARED_KEYS: u32 = 24;
/// Keys of the slow writer alone, behind the shared ones.
pub const SLOW_KEYS: u32 = 4;
/// A key of its own for the transactions of single faults.
pub const HELD_KEY: u32 = SHARED_KEYS + SLOW_KEYS;
/// All keys, but those of [`many_at_once`], which are behind them.
pub const KEYS: u32 = HELD_KEY + 1;
/// Writers of the shared keys.
const WRITERS: u64 = 4;
/// Of a hundred transactions so many are rolled back.
const ROLLED_BACK: u32 = 12;

/// Where the writers write.
#[derive(Debug, Clone)]
pub struct Task {
    /// The source.
    pub source: SourceName,
    /// The topic.
    pub topic: String,
    /// Draws what they write.
    pub seed: u64,
    /// What they tell.
    pub account: Arc<Account>,
}

/// Running writers.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts them; on Postgres one more, which keeps its transactions open for long.
    pub fn start(runtime: &Handle, store: &Store, task: &Task) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for number in 0..=WRITERS {
            let is_slow = number == WRITERS;
            let (stop, task) = (stop.clone(), task.clone());
            match store {
                Store::Sqlite(_) if is_slow => {}
                Store::Sqlite(pool) => {
                    let writer = Writer::new(pool.clone(), task, number, is_slow);
                    tasks.push(runtime.spawn(writer.run(stop)));
                }
                Store::Postgres(pool) => {
                    let writer = Writer::new(pool.clone(), task, number, is_slow);
                    tasks.push(runtime.spawn(writer.run(stop)));
                }
            }
        }
        Self { stop, tasks }
    }

    /// Lets each end its transaction.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await?;
        }
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Writer<B: SchemaBackend> {
    pool: Pool<B>,
    task: Task,
    outbox: Outbox,
    random: StdRng,
    is_slow: bool,
}

/// Writes an event in a transaction that stays open for so long, on Postgres.
pub async fn hold(store: &Store, task: &Task, time: Duration) -> Result<()> {
    match store {
        Store::Sqlite(_) => anyhow::bail!("it would keep every other writer waiting"),
        Store::Postgres(pool) => {
            let writer = Writer::new(pool.clone(), task.clone(), 0, true);
            writer.hold(HELD_KEY, "", time, true).await
        }
    }
}

/// Writes an event with so many bytes beside it, which a topic may refuse.
pub async fn write_big(store: &Store, task: &Task, bytes: usize) -> Result<()> {
    // No compression makes it short.
    let noise = (0_u64..).map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let padding = noise.take(bytes / 16).collect::<String>();
    match store {
        Store::Sqlite(pool) => {
            let writer = Writer::new(pool.clone(), task.clone(), 0, false);
            writer.hold(HELD_KEY, &padding, Duration::ZERO, true).await
        }
        Store::Postgres(pool) => {
            let writer = Writer::new(pool.clone(), task.clone(), 0, false);
            writer.hold(HELD_KEY, &padding, Duration::ZERO, true).await
        }
    }
}

/// Writes an event in a transaction that is prepared under this name and not committed, on Postgres.
pub async fn prepare(store: &Store, task: &Task, name: &str) -> Result<Event> {
    match store {
        Store::Sqlite(_) => anyhow::bail!("only Postgres has prepared transactions"),
        Store::Postgres(pool) => {
            let writer = Writer::new(pool.clone(), task.clone(), 0, false);
            let mut tx = pool.begin().await?;
            let event = writer.write(&mut tx, HELD_KEY, "").await?;
            let prepare = AssertSqlSafe(format!("prepare transaction '{name}'"));
            sqlx::raw_sql(prepare).execute(&mut *tx).await?;
            // The connection has none any more; this only tells it so.
            tx.rollback().await?;
            Ok(event)
        }
    }
}

/// Writes a key in a transaction that begins after another one, which then writes it too, on Postgres.
pub async fn write_in_turn(store: &Store, task: &Task) -> Result<()> {
    let Store::Postgres(pool) = store else {
        anyhow::bail!("only Postgres has transaction ids");
    };
    let writer = Writer::new(pool.clone(), task.clone(), 0, false);
    let mut early = pool.begin().await?;
    sqlx::query("select pg_current_xact_id()")
        .execute(&mut *early)
        .await?;
    let mut late = pool.begin().await?;
    for tx in [&mut late, &mut early] {
        let event = writer.write(tx, HELD_KEY, "").await?;
        sqlx::query("commit").execute(&mut **tx).await?;
        task.account.note(&[event], End::Committed);
    }
    // The connections have none any more; this only tells them so.
    late.rollback().await?;
    early.rollback().await?;
    Ok(())
}

/// Opens so many transactions at once, on Postgres, each with an event of a key of its own; half of them are rolled
/// back, in no order.
pub async fn many_at_once(store: &Store, task: &Task, count: u32, time: Duration) -> Result<()> {
    let Store::Postgres(shared) = store else {
        anyhow::bail!("SQLite has one writer at a time");
    };
    let keys = format!(
        "insert into numbered select generate_series({KEYS}, {}), 0 on conflict do nothing",
        KEYS + count - 1
    );
    store.execute(keys).await?;
    let pool = PoolOptions::<sqlx::Postgres>::new().max_connections(count);
    let pool = pool
        .connect_with((*shared.connect_options()).clone())
        .await?;
    let mut open = tokio::task::JoinSet::new();
    for number in 0..count {
        let writer = Writer::new(pool.clone(), task.clone(), u64::from(number), false);
        open.spawn(async move {
            let pause = time * (number * 7 % count) / count;
            writer.hold(KEYS + number, "", pause, number % 2 == 0).await
        });
    }
    while let Some(ended) = open.join_next().await {
        ended??;
    }
    pool.close().await;
    Ok(())
}

/// Writes until it is killed, for a process of its own; its tokens begin at `first_token`.
pub async fn write_for_ever(store: &Store, task: Task, first_token: u64) -> Result<()> {
    NEXT_TOKEN.store(first_token, Ordering::Relaxed);
    let mut writers = Writers::start(&Handle::current(), store, &task);
    while let Some(task) = writers.tasks.pop() {
        task.await?;
    }
    Ok(())
}

/// Tokens are never used twice: a process that writes beside this one begins elsewhere.
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

impl<B: SchemaBackend> Writer<B> {
    fn new(pool: Pool<B>, task: Task, number: u64, is_slow: bool) -> Self {
        Self {
            pool,
            outbox: Outbox::new(task.source.clone()),
            random: StdRng::seed_from_u64(task.seed.wrapping_add(number)),
            task,
            is_slow,
        }
    }

    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let mut events = Vec::new();
            let end = match self.transaction(&mut events).await {
                Ok(end) => end,
                Err(_) => {
                    // The database is away, or the connection broke before COMMIT was sent.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    End::RolledBack
                }
            };
            self.task.account.note(&events, end);
            let pause = self.random.random_range(8..40);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn transaction(&mut self, events: &mut Vec<Event>) -> Result<End> {
        let (keys, from) = match self.is_slow {
            true => (SLOW_KEYS, SHARED_KEYS),
            false => (SHARED_KEYS, 0),
        };
        let count = self.random.random_range(1..=4);
        let drawn = sample(&mut self.random, usize::try_from(keys)?, count);
        // In one order, so that two writers never wait for each other.
        let mut keys: Vec<usize> = drawn.into_iter().collect();
        keys.sort_unstable();
        let gives_up = self.random.random_ratio(ROLLED_BACK, 100);
        let mut tx = self.pool.begin_with(B::BEGIN).await?;
        for key in keys {
            let key = from + u32::try_from(key)?;
            let event = self.write(&mut tx, key, "").await?;
            events.push(event);
            if self.is_slow {
                let pause = self.random.random_range(20..250);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        if gives_up {
            tx.rollback().await?;
            return Ok(End::RolledBack);
        }
        self.task.account.intend(events);
        Ok(match tx.commit().await {
            Ok(()) => End::Committed,
            Err(_) => End::Unknown,
        })
    }

    /// Writes one event and keeps its transaction open for so long.
    async fn hold(&self, key: u32, padding: &str, time: Duration, commits: bool) -> Result<()> {
        let mut tx = self.pool.begin_with(B::BEGIN).await?;
        let event = self.write(&mut tx, key, padding).await?;
        tokio::time::sleep(time).await;
        let end = match commits {
            false => {
                tx.rollback().await?;
                End::RolledBack
            }
            true => match tx.commit().await {
                Ok(()) => End::Committed,
                Err(_) => End::Unknown,
            },
        };
        self.task.account.note(&[event], end);
        Ok(())
    }

    /// Its payload has `padding` in it, which nobody reads.
    async fn write(&self, tx: &mut Transaction<'_, B>, key: u32, padding: &str) -> Result<Event> {
        // Locks the key's row before the append: that is what order per key asks for.
        let number = sqlx::query_scalar::<_, i64>(
            "update numbered set last = last + 1 where message_key = $1 returning last",
        )
        .bind(i64::from(key))
        .fetch_one(&mut **tx)
        .await?;
        let event = Event {
            key,
            number,
            token: NEXT_TOKEN.fetch_add(1, Ordering::Relaxed),
            written: SystemClock.now(),
        };
        let mut message = RawMessage::of(&event)?.to_topic(&self.task.topic);
        if !padding.is_empty() {
            let mut payload: serde_json::Value = serde_json::from_slice(&message.payload)?;
            payload["padding"] = padding.into();
            message.payload = serde_json::to_vec(&payload)?;
        }
        let context = MessageContext::start(&UuidV7);
        self.outbox.append_raw::<B>(tx, &context, message).await?;
        Ok(event)
    }
}
