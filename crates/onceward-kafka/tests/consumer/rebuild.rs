//! A state made again from a topic.

use std::path::Path;
use std::sync::Arc;

use onceward::consumer::rebuild::{
    Live, MessageClock, Rebuild, RebuildError, Rebuilt, Shadow, Since, TableDifference, compare,
};
use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Backend, MessageContext, Routing, SourceName, Tx};
use onceward_kafka::{KafkaConfig, KafkaHistory};

use super::bootstrap;
use super::world::{Ping, World};

/// Writes each ping with the number of those before it: the same rows only in the same order.
struct Numbered;
impl<B: Backend> Handler<B, Ping> for Numbered {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        _: &MessageContext,
        ping: Ping,
    ) -> Result<(), HandlerError> {
        let before: i64 = sqlx::query_scalar("select count(*) from effect")
            .fetch_one(&mut **tx)
            .await?;
        sqlx::query("insert into effect (n, message_key) values ($1, $2)")
            .bind(ping.n)
            .bind(before.to_string())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_rebuilt_from_what_the_live_one_has_read_on_sqlite() {
    a_state_is_rebuilt_from_what_the_live_one_has_read(World::sqlite(&bootstrap().await, 3).await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_rebuilt_from_what_the_live_one_has_read_on_postgres() {
    a_state_is_rebuilt_from_what_the_live_one_has_read(
        World::postgres(&bootstrap().await, 3).await,
    )
    .await;
}

async fn a_state_is_rebuilt_from_what_the_live_one_has_read<B: Backend>(world: World<B>) {
    let handlers = Handlers::default().on::<Ping, _>(Numbered);
    let running = world.start_with(world.options(), handlers);
    // One after the other, so that no partition was read to its end before the others.
    for part in 0..7 {
        world.publish(10 * part..10 * (part + 1));
        world.publish_aborted(1_000..1_010);
        world.all_once(0..10 * (part + 1)).await;
    }
    running.stop().await;
    // What it has not read is no part of it.
    world.publish(70..90);

    let folder = tempfile::tempdir().unwrap();
    let (rebuilt, found) = rebuild(&world, &folder.path().join("1"), Since::Beginning)
        .await
        .unwrap();
    assert_eq!((rebuilt.handled_count, rebuilt.refused.len()), (70, 0));
    assert!(found.is_equal(), "{found:#?}");
    assert_eq!((found.live_count, found.rebuilt_count), (70, 70));

    sqlx::query("update effect set n = 999 where n = 3")
        .execute(world.db.pool())
        .await
        .unwrap();
    let (_, found) = rebuild(&world, &folder.path().join("2"), Since::Beginning)
        .await
        .unwrap();
    assert_eq!((found.only_live_count, found.only_rebuilt_count), (1, 1));
    assert_eq!(found.only_live[0].key["n"].as_deref(), Some("999"));
    assert_eq!(found.only_rebuilt[0].key["n"].as_deref(), Some("3"));

    world.delete_records_before(5).await;
    let gone = rebuild(&world, &folder.path().join("3"), Since::Beginning).await;
    let Err(RebuildError::Gone { at, why }) = gone else {
        panic!("{gone:?}");
    };
    assert_eq!((&*at.topic, at.partition), (world.topic.as_str(), 0));
    assert!(why.contains("its log begins at offset 5"), "{why}");
    let later = Since::Time(i64::MAX / 2);
    let (rebuilt, found) = rebuild(&world, &folder.path().join("4"), later)
        .await
        .unwrap();
    assert_eq!((rebuilt.handled_count, found.only_live_count), (0, 70));
    let again = rebuild(&world, &folder.path().join("4"), later).await;
    assert!(matches!(again, Err(RebuildError::Exists(_))), "{again:?}");
}

async fn rebuild<B: Backend>(
    world: &World<B>,
    file: &Path,
    since: Since,
) -> Result<(Rebuilt, TableDifference), RebuildError> {
    let name = SourceName::new("consumer-test").unwrap();
    let shadow = Shadow::create(file, &name, &[]).await?;
    sqlx::query("create table effect (n bigint not null, message_key text not null)")
        .execute(shadow.db.pool())
        .await
        .unwrap();
    let mut live = Live::open(&world.url).await?;
    let topic = world.topic.clone();
    let rebuild = Rebuild {
        db: shadow.db.clone(),
        handlers: Handlers::default().on::<Ping, _>(Numbered),
        routing: Routing::default().with("ping.v1", topic),
        consumer: world.group.clone(),
        clock: Arc::new(MessageClock::default()),
    };
    let history = KafkaHistory::new(&KafkaConfig::plaintext(&world.bootstrap))?;
    let rebuilt = rebuild.run(history, &mut live, since).await?;
    let found = compare(&mut live, shadow.db.pool(), &["effect".to_owned()], &[]).await?;
    shadow.db.close().await;
    Ok((rebuilt, found.into_iter().next().unwrap()))
}
