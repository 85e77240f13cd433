//! Faults of Kafka, and of the way to it.

use std::time::Duration;

use onceward::{Clock, SystemClock};
use onceward_testkit::proxy::{Fault, api};
use rand::RngExt;
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::rig::{PATIENCE, Rig};
use crate::stage::Stage;

/// Kills the broker and starts it again.
pub(super) fn killed(_: &mut Rig, stage: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    let kafka = &mut stage.kafka.kafka;
    kafka.kill9()?;
    let begun = SystemClock.now();
    kafka.start_again()?;
    Ok(Struck::since(begun, ""))
}

/// Freezes the broker for a while.
pub(super) fn frozen(_: &mut Rig, stage: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let kafka = &stage.kafka.kafka;
    kafka.pause()?;
    let begun = SystemClock.now();
    let time = Duration::from_millis(random.random_range(200..3_000));
    std::thread::sleep(time);
    kafka.resume()?;
    Ok(Struck::since(begun, format!("for {time:.1?}")))
}

/// Holds a commit, cuts its connection, and lets it arrive within the next transaction, between two of
/// that one's records.
pub(super) fn commit_arrives_late(
    _: &mut Rig,
    stage: &mut Stage,
    _: &mut StdRng,
) -> Result<Struck> {
    let proxy = &stage.kafka.proxy;
    let late = proxy.on(api::END_TXN, Fault::Hold);
    late.wait(PATIENCE)?;
    let begun = SystemClock.now();
    proxy.on(api::PRODUCE, Fault::Delay(Duration::ZERO));
    let next = proxy.on(api::PRODUCE, Fault::Hold);
    late.cut()?;
    next.wait(PATIENCE)?;
    // What came before it must have arrived, else the late one finds nothing to commit.
    std::thread::sleep(Duration::from_millis(150));
    late.release()?;
    // Long enough for the broker to do what it says.
    std::thread::sleep(Duration::from_millis(150));
    next.release()?;
    proxy.disarm();
    Ok(Struck::since(begun, ""))
}

/// One request of a kind is cut off, or its answer lost.
pub(super) fn once(stage: &mut Stage, api_key: i16, fault: Fault) -> Result<Struck> {
    let hit = stage.kafka.proxy.on(api_key, fault);
    hit.wait(PATIENCE)?;
    Ok(Struck::since(SystemClock.now(), ""))
}

/// One request of a kind arrives later.
pub(super) fn delayed(stage: &mut Stage, api_key: i16, random: &mut StdRng) -> Result<Struck> {
    let time = Duration::from_millis(random.random_range(50..1_500));
    let hit = stage.kafka.proxy.on(api_key, Fault::Delay(time));
    hit.wait(PATIENCE)?;
    let begun = SystemClock.now();
    std::thread::sleep(time);
    Ok(Struck::since(begun, format!("by {time:.1?}")))
}
