//! A database per test, of either kind.

use std::sync::Arc;

use onceward::consumer::{HandlerError, Handlers};
use onceward::{
    Backend, Clock, Db, Envelope, Event, IdGen, MessageId, Micros, OpenOptions, Outbox, SourceName,
    SystemClock, Tx, UuidV7,
};
use onceward_saga::SagaBackend;
use onceward_testkit::postgres;
use sqlx::{Postgres, Row, Sqlite};

/// Defines each case for both databases: the same sentence, twice.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let (db, _folder) = crate::fixture::sqlite().await;
                super::$name(db).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(crate::fixture::postgres().await).await;
            })*
        }
    };
}
pub(crate) use on_both;

pub async fn sqlite() -> (Db<Sqlite>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saga.db");
    std::fs::File::create(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    prepare(&db).await;
    (db, folder)
}

pub async fn postgres() -> Db<Postgres> {
    let url = postgres::shared().unwrap().create_database().unwrap();
    let db = Db::<Postgres>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    prepare(&db).await;
    db
}

async fn prepare<B: SagaBackend>(db: &Db<B>) {
    onceward::schema::migrate(db.pool(), &source())
        .await
        .unwrap();
    onceward_saga::schema::migrate(db.pool()).await.unwrap();
    onceward_saga::schema::migrate(db.pool()).await.unwrap();
    onceward_saga::schema::check(db.pool()).await.unwrap();
}

fn source() -> SourceName {
    SourceName::new("test").unwrap()
}

pub fn outbox() -> Outbox {
    Outbox::new(source())
}

/// `message` as it would come from Kafka, written at `written`.
pub fn envelope<E: Event>(message: &E, written: Micros) -> Envelope {
    Envelope {
        occurred_at: Some(written),
        ..Envelope::of(message, MessageId(UuidV7.next())).unwrap()
    }
}

pub async fn begin<B: Backend>(db: &Db<B>) -> Tx<'static, B> {
    db.pool().begin_with(B::BEGIN).await.unwrap()
}

/// Handles `message`, written just now, in a transaction of its own.
pub async fn handle<B: Backend, E: Event>(
    db: &Db<B>,
    handlers: &Arc<Handlers<B>>,
    message: E,
) -> Result<(), HandlerError> {
    let (handlers, envelope) = (Arc::clone(handlers), envelope(&message, SystemClock.now()));
    let mut tx = begin(db).await;
    handlers.dispatch(&mut tx, &envelope).await?;
    tx.commit().await.unwrap();
    Ok(())
}

/// Handles `messages`, written just now, together in one transaction.
pub async fn handle_batch<B: Backend, E: Event>(
    db: &Db<B>,
    handlers: &Arc<Handlers<B>>,
    messages: Vec<E>,
) -> Result<(), HandlerError> {
    let now = SystemClock.now();
    let envelopes: Vec<_> = messages.iter().map(|one| envelope(one, now)).collect();
    let mut tx = begin(db).await;
    let all: Vec<&Envelope> = envelopes.iter().collect();
    handlers.dispatch_batch(&mut tx, &all).await?;
    tx.commit().await.unwrap();
    Ok(())
}

/// Handles `messages` one after the other, each in a transaction of its own.
pub async fn handle_in_turn<B: Backend, E: Event>(
    db: &Db<B>,
    handlers: &Arc<Handlers<B>>,
    messages: Vec<E>,
) -> Result<(), HandlerError> {
    for message in messages {
        handle(db, handlers, message).await?;
    }
    Ok(())
}

/// Types and payloads in the outbox, in order.
pub async fn sent<B: Backend>(db: &Db<B>) -> Vec<(String, serde_json::Value)> {
    sqlx::query("select message_type, payload from outbox order by seq")
        .fetch_all(db.pool())
        .await
        .unwrap()
        .iter()
        .map(|row| {
            let payload: Vec<u8> = row.try_get("payload").unwrap();
            (
                row.try_get("message_type").unwrap(),
                serde_json::from_slice(&payload).unwrap(),
            )
        })
        .collect()
}

pub async fn count<B: Backend>(db: &Db<B>, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(db.pool()).await.unwrap()
}
