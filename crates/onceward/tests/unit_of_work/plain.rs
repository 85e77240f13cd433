//! What holds on both databases, and Postgres' own.

use std::time::Duration;

use onceward::schema::SchemaBackend;
use onceward::{
    Db, Error, Event, HINT_CHANNEL, MAX_KEY_BYTES, MessageContext, MessageKind, Outbox, RawMessage,
    SourceName, Tx, UuidV7, WriteError,
};
use sqlx::Postgres;
use sqlx::postgres::PgListener;

use super::{LIMIT, ids, insert, on_postgres, on_sqlite, write};

async fn refusals_panics_and_hangs_write_nothing<B: SchemaBackend>(db: &Db<B>) {
    let refused = db
        .write(async |tx: &mut Tx<'static, B>| {
            insert(tx, 1).await.map_err(|e| e.to_string())?;
            Err::<(), _>("no".to_owned())
        })
        .await;
    assert!(matches!(refused, Err(WriteError::Refused(why)) if why == "no"));
    let panicked = db
        .write(async |tx: &mut Tx<'static, B>| -> Result<(), sqlx::Error> {
            insert(tx, 2).await?;
            panic!("on purpose")
        })
        .await;
    assert!(matches!(panicked, Err(WriteError::Panicked { .. })));
    let hung = db
        .write(async |tx: &mut Tx<'static, B>| -> Result<(), sqlx::Error> {
            insert(tx, 3).await?;
            std::future::pending().await
        })
        .await;
    assert!(matches!(hung, Err(WriteError::TimedOut { limit }) if limit == LIMIT));
    write(db, 4).await.unwrap();
    assert_eq!(ids(db).await, [4]);
}

#[tokio::test]
async fn refusals_panics_and_hangs_write_nothing_on_sqlite() {
    let (_dir, _url, db) = on_sqlite().await;
    refusals_panics_and_hangs_write_nothing(&db).await;
}

#[tokio::test]
async fn refusals_panics_and_hangs_write_nothing_on_postgres() {
    let (_url, db) = on_postgres().await;
    refusals_panics_and_hangs_write_nothing(&db).await;
}

async fn a_write_inside_a_write_is_refused<B: SchemaBackend>(db: &Db<B>) {
    let inner = db.clone();
    let nested = db
        .write(async move |tx: &mut Tx<'static, B>| {
            insert(tx, 1).await?;
            Ok::<_, sqlx::Error>(write(&inner, 2).await)
        })
        .await
        .unwrap();
    assert!(matches!(nested, Err(WriteError::Nested)));
    assert_eq!(ids(db).await, [1]);
}

#[tokio::test]
async fn a_write_inside_a_write_is_refused_on_sqlite() {
    let (_dir, _url, db) = on_sqlite().await;
    a_write_inside_a_write_is_refused(&db).await;
}

#[tokio::test]
async fn a_write_inside_a_write_is_refused_on_postgres() {
    let (_url, db) = on_postgres().await;
    a_write_inside_a_write_is_refused(&db).await;
}

#[tokio::test]
async fn an_error_that_the_closure_swallows_is_not_taken_for_a_commit_on_postgres() {
    let (_url, db) = on_postgres().await;
    write(&db, 1).await.unwrap();
    let swallowed = db
        .write(async |tx: &mut Tx<'static, Postgres>| {
            insert(tx, 2).await?;
            let _duplicate = insert(tx, 1).await;
            Ok::<_, sqlx::Error>(())
        })
        .await;
    assert!(
        matches!(swallowed, Err(WriteError::NotCommitted(_))),
        "{swallowed:?}"
    );
    assert_eq!(ids(&db).await, [1]);
}

#[tokio::test]
async fn two_units_of_work_that_deadlock_both_commit_in_the_end_on_postgres() {
    let (_url, db) = on_postgres().await;
    for id in [1, 2] {
        write(&db, id).await.unwrap();
    }
    // The server looks for deadlocks after 1 s; the writers' own limit must be longer.
    let patient = onceward::OpenOptions {
        write_time_limit: Duration::from_secs(10),
    };
    let db = Db::with_options(db.pool().clone(), patient);
    let locker = |first: i64, second: i64| {
        let db = db.clone();
        async move {
            db.write(async move |tx: &mut Tx<'static, Postgres>| {
                for id in [first, second] {
                    sqlx::query("update thing set parent = null where id = $1")
                        .bind(id)
                        .execute(&mut **tx)
                        .await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok::<_, sqlx::Error>(())
            })
            .await
        }
    };
    let (one, other) = tokio::join!(locker(1, 2), locker(2, 1));
    one.unwrap();
    other.unwrap();
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Said {
    id: String,
}
impl Event for Said {
    const TYPE: &'static str = "test.said.v1";
    const AGGREGATE_TYPE: &'static str = "test";
    fn aggregate_id(&self) -> String {
        self.id.clone()
    }
}

#[tokio::test]
async fn a_hint_follows_a_commit_that_appended_and_no_other_on_postgres() {
    let (url, db) = on_postgres().await;
    let mut listener = PgListener::connect(&url).await.unwrap();
    listener.listen(HINT_CHANNEL).await.unwrap();
    let outbox = Outbox::new(SourceName::new("test").unwrap());
    let appending = async |refuse: bool| {
        let outbox = outbox.clone();
        db.write(async move |tx: &mut Tx<'static, Postgres>| {
            let context = MessageContext::start(&UuidV7);
            let said = Said { id: "1".into() };
            outbox.append::<Postgres, _>(tx, &context, &said).await?;
            if refuse {
                return Err(onceward::Error::NoTransaction);
            }
            Ok(())
        })
        .await
    };
    write(&db, 1).await.unwrap();
    appending(true).await.unwrap_err();
    let silence = tokio::time::timeout(Duration::from_millis(200), listener.recv()).await;
    assert!(silence.is_err(), "nothing was appended");
    appending(false).await.unwrap();
    let hint = tokio::time::timeout(Duration::from_secs(60), listener.recv()).await;
    assert_eq!(hint.unwrap().unwrap().channel(), HINT_CHANNEL);
}

#[tokio::test]
async fn an_impossible_topic_or_a_huge_key_is_refused_and_nothing_is_written() {
    let (_dir, _url, db) = on_sqlite().await;
    let outbox = Outbox::new(SourceName::new("test").unwrap());
    let context = MessageContext::start(&UuidV7);
    let message = |topic: &str, key: Option<String>| RawMessage {
        message_type: "a.v1".into(),
        kind: MessageKind::Event,
        aggregate_type: "a".into(),
        aggregate_id: "1".into(),
        message_key: key,
        topic: Some(topic.to_owned()),
        payload: Vec::new(),
        headers: Default::default(),
    };
    for topic in ["", "..", "with space", "ö", &"x".repeat(250)] {
        let mut tx = db.pool().begin().await.unwrap();
        let refused = outbox.append_raw(&mut tx, &context, message(topic, None));
        assert!(
            matches!(refused.await, Err(Error::InvalidTopic { .. })),
            "{topic}"
        );
        tx.commit().await.unwrap();
    }
    let mut tx = db.pool().begin().await.unwrap();
    let huge = message("a", Some("k".repeat(MAX_KEY_BYTES + 1)));
    let refused = outbox.append_raw(&mut tx, &context, huge).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "a.v1 has a key of 8193 bytes, the limit is 8192"
    );
    tx.commit().await.unwrap();
    let rows: i64 = sqlx::query_scalar("select count(*) from outbox")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(rows, 0);
}
