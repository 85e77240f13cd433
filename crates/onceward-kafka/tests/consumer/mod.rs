//! The consumer on a real Kafka.

mod rebuild;
mod world;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use onceward::consumer::{ConsumerState, Handler, HandlerError, Handlers, LossRefused};
use onceward::schema::SchemaBackend;
use onceward::{Backend, Db, MessageContext, Tx};
use onceward_kafka::KafkaConfig;
use onceward_testkit::kafka;
use onceward_testkit::ports::Port;
use onceward_testkit::process::Process;
use onceward_testkit::proxy::Proxy;
use rdkafka::message::OwnedHeaders;
use sqlx::{Postgres, Sqlite};
use world::{Effect, Ping, Running, header};
pub use world::{World, joins, trouble_of, until};

async fn bootstrap() -> String {
    let broker = tokio::task::spawn_blocking(kafka::shared).await.unwrap();
    broker.unwrap().bootstrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_takes_effect_once_on_sqlite() {
    each_record_takes_effect_once(World::sqlite(&bootstrap().await, 3).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_takes_effect_once_on_postgres() {
    each_record_takes_effect_once(World::postgres(&bootstrap().await, 3).await).await;
}

async fn each_record_takes_effect_once<B: Backend>(world: World<B>) {
    world.publish(0..100);
    let running = world.start(world.options());
    world.all_once(0..100).await;
    world.publish(100..300);
    world.all_once(0..300).await;
    // 300 records, and in each partition two markers, which no reader is given.
    until("offset behind the markers", async || {
        world.next_offsets().await == 300 + 2 * 3
    })
    .await;
    assert_eq!(running.handle.status().lag(), 0);
    running.stop().await;
    // Another one goes on where this one stopped.
    world.publish(300..400);
    let running = world.start(world.options());
    world.all_once(0..400).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_stops_leaves_its_partitions_to_others_at_once() {
    let world = World::sqlite(&bootstrap().await, 2).await;
    let member = |name: &str| {
        let mut options = world.options();
        options.instance_id = Some(name.to_owned());
        options
    };
    let first = world.start(member("one"));
    first.until("assignment", |s| s.partitions.len() == 2).await;
    let begun = Instant::now();
    first.stop().await;
    let stopped = begun.elapsed();
    let second = world.start(member("two"));
    second
        .until("assignment", |s| s.partitions.len() == 2)
        .await;
    let taken = begun.elapsed();
    println!("stopped after {stopped:?}, taken over after {taken:?}");
    // The session time-out, after which a member that has not left is given up, is 10 s.
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_instances_come_and_go_in_the_middle_of_batches_and_nothing_is_doubled() {
    let world = World::postgres(&bootstrap().await, 6).await;
    let member = |name: &str| {
        let mut options = world.options();
        options.instance_id = Some(name.to_owned());
        options.max_batch_records = 20;
        options
    };
    world.publish(0..1_000);
    let one = world.start(member("one"));
    until("first effects", async || !world.effects().await.is_empty()).await;
    let two = world.start(member("two"));
    world.publish(1_000..2_000);
    two.until("assignment", |s| s.partitions.len() == 3).await;
    let three = world.start(member("three"));
    world.publish(2_000..3_000);
    three.until("assignment", |s| s.partitions.len() == 2).await;
    // Dies in the middle; its successor has the same static id.
    two.kill().await;
    world.publish(3_000..4_000);
    let two = world.start(member("two"));
    world.all_once(0..4_000).await;
    // The last rebalance may still be under way when the last effect is there.
    until("all six partitions held", async || {
        let held = [&one, &two, &three].map(|running| running.handle.status().partitions.len());
        held.iter().sum::<usize>() == 6
    })
    .await;
    for running in [one, two, three] {
        running.stop().await;
    }
}

/// A loop that stands still for a second has its partitions paused. Given away and assigned again
/// meanwhile, they must be read on.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_were_paused_when_a_rebalance_came_are_read_on() {
    let world = World::postgres(&bootstrap().await, 4).await;
    let mut options = world.options();
    options.max_batch_records = 5;
    world.publish(0..300);
    let one = world.start(options.clone());
    until("first effects", async || !world.effects().await.is_empty()).await;
    let mut blocking = world.db.pool().begin().await.unwrap();
    sqlx::query("lock table effect in access exclusive mode")
        .execute(&mut *blocking)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let two = world.start(options);
    two.until("assignment", |s| s.partitions.len() == 2).await;
    one.until("assignment", |s| s.partitions.len() == 2).await;
    blocking.rollback().await.unwrap();
    world.all_once(0..300).await;
    for running in [one, two] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_started_without_kafka_reads_as_soon_as_kafka_is_there() {
    let world = World::sqlite(&bootstrap().await, 2).await;
    world.publish(0..10);
    let port = Port::take().unwrap();
    let running = world.start_by(KafkaConfig::plaintext(format!(
        "127.0.0.1:{}",
        port.number()
    )));
    // The outage itself: librdkafka reports each failed connection, some hundred until its end.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(running.handle.status().trouble.is_some());
    let begun = Instant::now();
    let _kafka = Proxy::start(port.number(), &world.bootstrap).unwrap();
    world.all_once(0..10).await;
    let taken = begun.elapsed();
    println!("first effects {taken:?} after Kafka was there");
    // Looking into each of those reports took 120 ms and more, one after the other.
    assert!(taken < Duration::from_secs(8), "{taken:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_in_kafka_decide_nothing() {
    let world = World::sqlite(&bootstrap().await, 3).await;
    world.publish(0..200);
    let running = world.start(world.options());
    world.all_once(0..200).await;
    running.stop().await;
    // Kafka forgets the group altogether.
    let (bootstrap, group) = (world.bootstrap.clone(), world.group.to_string());
    let deleted = tokio::task::spawn_blocking(move || {
        kafka::shared().unwrap().run_tool(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            &[
                "--bootstrap-server",
                &bootstrap,
                "--delete",
                "--group",
                &group,
            ],
        )
    });
    deleted.await.unwrap().unwrap();
    world.publish(200..300);
    let running = world.start(world.options());
    world.all_once(0..300).await;
    running.stop().await;
    // The database's offsets are set back: everything is delivered again and skipped.
    sqlx::query("update consumer_offset set next_offset = 0")
        .execute(world.db.pool())
        .await
        .unwrap();
    world.publish(300..301);
    let running = world.start(world.options());
    world.all_once(0..301).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_stops_loudly_until_the_loss_is_accepted_on_sqlite() {
    made_anew(World::sqlite(&bootstrap().await, 1).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_stops_loudly_until_the_loss_is_accepted_on_postgres() {
    made_anew(World::postgres(&bootstrap().await, 1).await).await;
}

async fn made_anew<B: Backend>(world: World<B>) {
    let poison = |key: &str| (key.to_owned(), b"no headers".to_vec(), OwnedHeaders::new());
    world.publish_raw([poison("a")].into_iter());
    world.publish(0..10);
    let running = world.start(world.options());
    world.all_once(0..10).await;
    running.stop().await;
    world.delete_topic().await;
    until("new topic", async || world.try_make_topic(1).await).await;
    // A dead letter at the offset of the old topic's.
    world.publish_raw([poison("b")].into_iter());
    world.publish(10..100);
    let running = world.start(world.options());
    running.until("stop", |s| s.stopped().count() == 1).await;
    let status = running.handle.status();
    let reason = status.partitions[0].stopped.clone().unwrap();
    assert!(reason.contains("made anew"), "{reason}");
    assert_eq!(world.effects().await.len(), 10);
    world.accept_loss().await.unwrap();
    world.all_once(0..100).await;
    let letters = onceward::consumer::dead_letter::list(world.db.pool(), None, false, 100);
    assert_eq!(letters.await.unwrap().len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_gone_unread_stop_their_partition_until_the_loss_is_accepted() {
    let world = World::sqlite(&bootstrap().await, 1).await;
    world.publish(0..10);
    let running = world.start(world.options());
    world.all_once(0..10).await;
    running.stop().await;
    world.publish(10..50);
    world.delete_records_before(30).await;
    let running = world.start(world.options());
    running.until("stop", |s| s.stopped().count() == 1).await;
    let status = running.handle.status();
    let reason = status.partitions[0].stopped.clone().unwrap();
    assert!(reason.contains("gone from the log"), "{reason}");
    world.accept_loss().await.unwrap();
    running
        .until("to go on", |s| s.stopped().count() == 0)
        .await;
    // The marker of the first transaction took an offset too.
    let wanted: Vec<i64> = (0..10).chain(29..50).collect();
    until("the rest", async || {
        world.effects().await.into_keys().eq(wanted.iter().copied())
    })
    .await;
    let again = world.accept_loss().await.unwrap_err();
    assert!(matches!(again, LossRefused::NotStopped(_)), "{again}");
    running.stop().await;
}

/// A log that an unclean election cut: the stored offset lies beyond the end of the epoch that its
/// record was written in, and other records stand there now.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_under_the_consumer_stops_its_partition_until_the_loss_is_accepted() {
    let start = tokio::task::spawn_blocking(kafka::Kafka::start);
    let mut kafka = start.await.unwrap().unwrap();
    let world = World::sqlite(&kafka.bootstrap(), 1).await;
    world.publish(0..10);
    let running = world.start(world.options());
    world.all_once(0..10).await;
    running.stop().await;
    // Another leader epoch begins.
    let restart = tokio::task::spawn_blocking(move || kafka.restart().map(|()| kafka));
    let _kafka = restart.await.unwrap().unwrap();
    world.publish(10..50);
    let running = world.start(world.options());
    world.all_once(0..50).await;
    running.stop().await;
    world.publish(50..60);
    // As if those up to 50 had been read from the old leader, which alone had them.
    sqlx::query("update consumer_offset set leader_epoch = 0")
        .execute(world.db.pool())
        .await
        .unwrap();
    let running = world.start(world.options());
    running.until("stop", |s| s.stopped().count() == 1).await;
    let status = running.handle.status();
    let reason = status.partitions[0].stopped.clone().unwrap();
    assert!(reason.contains("truncation"), "{reason}");
    world.accept_loss().await.unwrap();
    world.all_once(0..60).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_the_groups_own_stops_loudly() {
    let world = World::sqlite(&bootstrap().await, 1).await;
    world.publish(0..10);
    let running = world.start(world.options());
    world.all_once(0..10).await;
    running.stop().await;
    let other = World::sqlite(&world.bootstrap, 1).await;
    let running = other.start(world.options());
    running.until("stop", |s| s.stopped().count() == 1).await;
    let status = running.handle.status();
    let reason = status.partitions[0].stopped.clone().unwrap();
    assert!(reason.contains("belongs to database"), "{reason}");
    assert!(other.effects().await.is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_from_kafka_ends_as_dead_letters_and_the_rest_goes_on() {
    let world = World::sqlite(&bootstrap().await, 1).await;
    let bare = rdkafka::message::OwnedHeaders::new;
    let typed = || header(bare(), "ce_type", "ping.v1");
    let binary = bare().insert(rdkafka::message::Header {
        key: "ce_type",
        value: Some(&[0xff_u8, 0][..]),
    });
    let poison = [
        ("a".to_owned(), b"no headers".to_vec(), bare()),
        ("b".to_owned(), b"{".to_vec(), typed()),
        (
            "c".to_owned(),
            b"{}".to_vec(),
            header(bare(), "ce_type", "ping.v9"),
        ),
        ("d".to_owned(), b"{}".to_vec(), binary),
        ("e".to_owned(), vec![b'x'; 900_000], typed()),
    ];
    world.publish_raw(poison.into_iter());
    world.publish(0..10);
    let running = world.start(world.options());
    world.all_once(0..10).await;
    let letters = onceward::consumer::dead_letter::list(world.db.pool(), None, false, 100);
    assert_eq!(letters.await.unwrap().len(), 5);
    running.stop().await;
}

/// The fifth message is the end.
struct Deadly;

impl<B: Backend> Handler<B, Ping> for Deadly {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        ping: Ping,
    ) -> Result<(), HandlerError> {
        if ping.n == 5 {
            std::process::abort();
        }
        Effect.handle(tx, context, ping).await
    }
}

/// Tells this program, started again to run one test, that it is the consumer which dies: of which world.
const CONSUMER_OF: &str = "ONCEWARD_TEST_CONSUMER_OF";

async fn a_message_ends_the_process<B: SchemaBackend>(
    test: &str,
    open: impl AsyncFnOnce(&str) -> Db<B>,
    make: impl AsyncFnOnce() -> World<B>,
) {
    if let Ok(place) = std::env::var(CONSUMER_OF) {
        let world = World::<B>::at(&place, open).await;
        let mut options = world.options();
        // The next process is the same member: it need not wait for this one's session to end.
        options.instance_id = Some("deadly".to_owned());
        let handlers = Handlers::default().on::<Ping, _>(Deadly);
        let _running = world.start_with(options, handlers);
        return std::future::pending().await;
    }
    let world = make().await;
    world.publish(0..40);
    let letters = async || {
        let letters = onceward::consumer::dead_letter::list(world.db.pool(), None, false, 100);
        letters.await.unwrap()
    };
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("consumer.log");
    let mut deaths = 0;
    loop {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]);
        command.env(CONSUMER_OF, world.place());
        let consumer = Mutex::new(Process::spawn("consumer", command, &log).unwrap());
        until("death or a dead letter", async || {
            !consumer.lock().unwrap().is_running() || !letters().await.is_empty()
        })
        .await;
        if !letters().await.is_empty() {
            let others = || (0..40).filter(|n| n % 10 != 5);
            until("the others", async || {
                world.effects().await.into_keys().eq(others())
            })
            .await;
            break;
        }
        deaths += 1;
        let log = consumer.lock().unwrap().log_tail(20);
        assert!(deaths <= 8, "it goes on and on: {log}");
    }
    // Three as the first one, and one or two among others before.
    assert!(deaths >= 3, "{deaths}");
    let letters = letters().await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("ended the process"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_the_process_each_time_becomes_a_dead_letter_on_sqlite() {
    let test =
        "consumer::a_message_that_ends_the_process_each_time_becomes_a_dead_letter_on_sqlite";
    let open = async |url: &str| Db::<Sqlite>::open(url, Default::default()).await.unwrap();
    let make = async || World::sqlite(&bootstrap().await, 1).await;
    a_message_ends_the_process(test, open, make).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_the_process_each_time_becomes_a_dead_letter_on_postgres() {
    let test =
        "consumer::a_message_that_ends_the_process_each_time_becomes_a_dead_letter_on_postgres";
    let open = async |url: &str| Db::<Postgres>::open(url, Default::default()).await.unwrap();
    let make = async || World::postgres(&bootstrap().await, 1).await;
    a_message_ends_the_process(test, open, make).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_partitions_waits_in_peace_and_takes_over() {
    let world = World::sqlite(&bootstrap().await, 1).await;
    let one = world.start(world.options());
    one.until("assignment", |s| s.partitions.len() == 1).await;
    let two = world.start(world.options());
    two.until("membership", |s| s.state == ConsumerState::Running)
        .await;
    world.publish(0..50);
    world.all_once(0..50).await;
    let (first, second) = (one.handle.status(), two.handle.status());
    assert_eq!(first.partitions.len() + second.partitions.len(), 1);
    assert_eq!((first.trouble, second.trouble), (None, None));
    let (owner, spare) = match first.partitions.len() {
        1 => (one, two),
        _ => (two, one),
    };
    owner.stop().await;
    world.publish(50..100);
    world.all_once(0..100).await;
    spare.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_instance_id_say_so_and_double_nothing() {
    let world = World::sqlite(&bootstrap().await, 2).await;
    let mut options = world.options();
    options.instance_id = Some("same".to_owned());
    options.max_batch_records = 10;
    let one = world.start(options.clone());
    one.until("assignment", |s| s.partitions.len() == 2).await;
    world.publish(0..300);
    let two = world.start(options);
    let tells = |running: &Running| {
        let trouble = running.handle.status().trouble.unwrap_or_default();
        trouble.contains("same instance id")
    };
    until("a word about it", async || tells(&one) || tells(&two)).await;
    world.publish(300..600);
    world.all_once(0..600).await;
    // The other one has it now; without a rival nothing is wrong any more.
    one.stop().await;
    two.until("end of trouble", |s| {
        s.partitions.len() == 2 && s.trouble.is_none()
    })
    .await;
    two.stop().await;
}
