//! What the outbox costs who writes: an order's transaction with its outbox row and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use onceward::schema::{SchemaBackend, migrate};
use onceward::{Backend, Db, IdGen, MessageContext, OpenOptions, Outbox, SourceName, Tx, UuidV7};
use sqlx::pool::PoolOptions;
use sqlx::{Pool, Postgres, Sqlite};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cli::Options;
use crate::report::{Better, Report};
use crate::source::{Kind, PAYLOAD_BYTES, database, message};
use crate::stage::Stage;

const CLIENTS: u32 = 64;
/// With and without take turns, so that what else the machine does meets both alike.
const TURNS: u32 = 6;
const TOPIC: &str = "bench.written";

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let time = Duration::from_secs(if options.quick { 12 } else { 30 });
    let own = format!("write, own transactions, {CLIENTS} clients, Postgres");
    if options.wants(&own) {
        report.begin_case(&own);
        let (db, outbox) = open::<Postgres>(stage, Kind::Postgres).await?;
        let connect = (*db.pool().connect_options()).clone();
        let pool = PoolOptions::new()
            .max_connections(CLIENTS)
            .min_connections(CLIENTS)
            .connect_with(connect)
            .await?;
        let writer = Arc::new(OwnTransactions { pool, outbox });
        compare(report, &own, writer.clone(), time).await?;
        writer.pool.close().await;
        db.close().await;
    }
    for kind in Kind::ALL {
        let case = format!("write, Db::write, {CLIENTS} clients, {}", kind.label());
        if !options.wants(&case) {
            continue;
        }
        report.begin_case(&case);
        match kind {
            Kind::Postgres => units_of_work::<Postgres>(stage, report, kind, &case, time).await?,
            Kind::Sqlite => units_of_work::<Sqlite>(stage, report, kind, &case, time).await?,
        }
    }
    Ok(())
}

async fn units_of_work<B: Opened>(
    stage: &mut Stage,
    report: &mut Report,
    kind: Kind,
    case: &str,
    time: Duration,
) -> Result<()> {
    let (db, outbox) = open::<B>(stage, kind).await?;
    let writer = Arc::new(UnitsOfWork { db, outbox });
    compare(report, case, writer.clone(), time).await?;
    writer.db.close().await;
    Ok(())
}

/// A database that can be opened by its URL.
pub(crate) trait Opened: SchemaBackend {
    fn open(url: &str) -> impl Future<Output = onceward::Result<Db<Self>>> + Send;
}
impl Opened for Postgres {
    async fn open(url: &str) -> onceward::Result<Db<Self>> {
        Db::<Self>::open(url, OpenOptions::default()).await
    }
}
impl Opened for Sqlite {
    async fn open(url: &str) -> onceward::Result<Db<Self>> {
        Db::<Self>::open(url, OpenOptions::default()).await
    }
}

/// A migrated database with a table of orders.
async fn open<B: Opened>(stage: &mut Stage, kind: Kind) -> Result<(Db<B>, Outbox)> {
    let name = stage.name("write");
    let db = B::open(&database(stage, kind, &name).await?).await?;
    let source = SourceName::new(name)?;
    migrate(db.pool(), &source).await?;
    let table = "create table orders (order_id uuid primary key, user_id text not null, \
         product_id text not null, quantity bigint not null, amount_minor bigint not null, \
         status text not null, created_at bigint not null)";
    sqlx::query(table).execute(db.pool()).await?;
    Ok((db, Outbox::new(source)))
}

/// How orders are committed.
trait Writes: Send + Sync + 'static {
    fn order(&self, number: usize, with_outbox: bool) -> impl Future<Output = Result<()>> + Send;
}

struct OwnTransactions {
    pool: Pool<Postgres>,
    outbox: Outbox,
}

impl Writes for OwnTransactions {
    async fn order(&self, number: usize, with_outbox: bool) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        insert(&mut tx, UuidV7.next(), number).await?;
        if with_outbox {
            let context = MessageContext::start(&UuidV7);
            let message = message(number, TOPIC, PAYLOAD_BYTES);
            self.outbox
                .append_raw::<Postgres>(&mut tx, &context, message)
                .await?;
        }
        Ok(tx.commit().await?)
    }
}

struct UnitsOfWork<B: Backend> {
    db: Db<B>,
    outbox: Outbox,
}

impl<B: Backend> Writes for UnitsOfWork<B> {
    async fn order(&self, number: usize, with_outbox: bool) -> Result<()> {
        let (id, outbox) = (UuidV7.next(), self.outbox.clone());
        let context = MessageContext::start(&UuidV7);
        let work = async move |tx: &mut Tx<'static, B>| {
            insert(tx, id, number).await?;
            if with_outbox {
                let message = message(number, TOPIC, PAYLOAD_BYTES);
                outbox.append_raw::<B>(tx, &context, message).await?;
            }
            Ok::<_, onceward::BoxError>(())
        };
        self.db.write(work).await?;
        Ok(())
    }
}

async fn insert<B: Backend>(
    tx: &mut Tx<'static, B>,
    id: Uuid,
    number: usize,
) -> Result<(), sqlx::Error> {
    let number = i64::try_from(number).unwrap_or(0);
    sqlx::query(
        "insert into orders (order_id, user_id, product_id, quantity, amount_minor, status, \
         created_at) values ($1, $2, 'product_1', 2, 19999, 'pending', $3)",
    )
    .bind(id)
    .bind(format!("user_{}", number % 1_000))
    .bind(number)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Orders a second without the outbox row, with it, and the share that is left.
async fn compare(
    report: &mut Report,
    case: &str,
    writer: Arc<impl Writes>,
    time: Duration,
) -> Result<()> {
    let turn = time / TURNS;
    // Connections, caches.
    hurry(&writer, true, turn / 4).await?;
    let (mut without, mut with) = (0, 0);
    for _ in 0..TURNS / 2 {
        without += hurry(&writer, false, turn).await?;
        with += hurry(&writer, true, turn).await?;
    }
    let seconds = (turn * (TURNS / 2)).as_secs_f64();
    let rate = |count: usize| count as f64 / seconds;
    report.add(case, "without outbox, tx/s", Better::Higher, rate(without));
    report.add(case, "with outbox row, tx/s", Better::Higher, rate(with));
    let left = 100.0 * with as f64 / (without as f64).max(1.0);
    report.add(case, "with, % of without", Better::Higher, left);
    Ok(())
}

/// How many orders all clients commit in `time`.
async fn hurry(writer: &Arc<impl Writes>, with_outbox: bool, time: Duration) -> Result<usize> {
    let next = Arc::new(AtomicUsize::new(0));
    let until = Instant::now() + time;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (writer, next) = (Arc::clone(writer), Arc::clone(&next));
        clients.spawn(async move {
            while Instant::now() < until {
                let number = next.fetch_add(1, Ordering::Relaxed);
                writer.order(number, with_outbox).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        let ended: Result<()> = ended?;
        ended?;
    }
    Ok(next.load(Ordering::Relaxed))
}
