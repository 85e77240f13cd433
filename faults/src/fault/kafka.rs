//! Faults of Kafka, and of the way to it.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use onceward::{Clock, SystemClock};
use onceward_testkit::proxy::{Fault, api};
use onceward_testkit::wait;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::relay::program;
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

/// Freezes the broker for a while, shorter than its session with the controller.
pub(super) fn frozen(_: &mut Rig, stage: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let kafka = &stage.kafka.kafka;
    kafka.pause()?;
    let begun = SystemClock.now();
    let time = Duration::from_millis(random.random_range(200..1_500));
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

/// Fills the broker's disk until it ends, frees it and starts it again.
pub(super) fn disk_full(rig: &mut Rig, _: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    rig.own.disk()?.fill()?;
    let kafka = rig.own.kafka()?;
    wait::until("the broker to give up", PATIENCE, || {
        Ok((!kafka.is_running()).then_some(()))
    })?;
    kafka.kill9()?;
    let begun = SystemClock.now();
    rig.own.disk()?.free()?;
    rig.own.kafka()?.start_again()?;
    Ok(Struck::since(begun, ""))
}

/// Stops the next of the three brokers in order, and starts it again.
pub(super) fn one_of_three_restarted(
    rig: &mut Rig,
    _: &mut Stage,
    _: &mut StdRng,
) -> Result<Struck> {
    let number = usize::try_from(rig.round)? % 3;
    let begun = SystemClock.now();
    let node = rig.own.broker(number)?;
    node.stop()?;
    node.start_again()?;
    rig.own.cluster()?.wait_in_sync(PATIENCE)?;
    Ok(Struck::at(begun, format!("broker {}", number + 1)))
}

/// Kills one of the three brokers; the third time it does not come back.
pub(super) fn one_of_three_lost(
    rig: &mut Rig,
    _: &mut Stage,
    random: &mut StdRng,
) -> Result<Struck> {
    let number = random.random_range(0..3);
    let for_good = rig.round.is_multiple_of(3);
    let node = rig.own.broker(number)?;
    node.kill9()?;
    let begun = SystemClock.now();
    rig.visible_since(begun, "events to flow by two brokers")?;
    if !for_good {
        rig.own.broker(number)?.start_again()?;
        rig.own.cluster()?.wait_in_sync(PATIENCE)?;
    }
    let how = if for_good { " for good" } else { "" };
    Ok(Struck::at(begun, format!("broker {}{how}", number + 1)))
}

/// Deletes the progress topic, sees the relay stop, and resets the source as its way out says.
pub(super) fn progress_lost(rig: &mut Rig, stage: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    rig.runtime.block_on(rig.writers.stop())?;
    rig.drain_topic()?;
    for relay in &mut rig.relays {
        let stopped = relay.process.stop(Signal::SIGTERM, PATIENCE);
        stopped.with_context(|| relay.process.log_tail(12))?;
    }
    stage.delete_topic(&rig.kafka, &rig.task.source.progress_topic())?;
    rig.restart(0, None)?;
    let (reason, _) = wait::until("the relay to stop", PATIENCE, || rig.relay_stopped())
        .with_context(|| rig.told())?;
    ensure!(reason.contains("progress topic is empty"), "{reason}");
    rig.relay(0)?.process.kill9()?;
    let mut reset = program("onceward")?;
    reset
        .args(["source", "reset", rig.task.source.as_str(), "--yes"])
        .args(["--database", &rig.start.source, "--kafka", &rig.kafka]);
    let reset = reset.output().context("starting onceward")?;
    ensure!(reset.status.success(), "source reset: {reset:?}");
    for number in 0..rig.relays.len() {
        rig.restart(number, None)?;
    }
    rig.start_writers();
    Ok(Struck::since(SystemClock.now(), ""))
}
