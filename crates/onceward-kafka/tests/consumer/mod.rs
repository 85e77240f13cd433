//! The consumer on a real Kafka.

mod world;

use std::time::Instant;

use onceward::Backend;
use onceward_testkit::kafka;
use world::{World, until};

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
    assert!(taken < std::time::Duration::from_secs(5), "{taken:?}");
    second.stop().await;
}
