//! Faults of the consuming service.

use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use onceward::{Clock, SystemClock};
use onceward_testkit::process::Process;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::consumer::{group, start};
use crate::rig::{PATIENCE, Rig};
use crate::stage::Stage;

const STOP: Duration = Duration::from_secs(20);
/// After so long without a sign of life a member's partitions go to the others.
const SESSION: Duration = Duration::from_secs(10);

fn one(rig: &mut Rig, number: usize) -> Result<&mut Process> {
    rig.consumers.get_mut(number).context("no such consumer")
}

fn drawn(rig: &Rig, random: &mut StdRng) -> usize {
    random.random_range(0..rig.consumers.len().max(1))
}

/// Kills one at a moment drawn, and starts it again.
pub(super) fn killed(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let number = drawn(rig, random);
    one(rig, number)?.kill9()?;
    let begun = SystemClock.now();
    *one(rig, number)? = start(rig, number, 0)?;
    Ok(Struck::since(begun, ""))
}

/// Has one die within a handler, its transaction open, and starts it again.
pub(super) fn killed_in_a_handler(
    rig: &mut Rig,
    _: &mut Stage,
    random: &mut StdRng,
) -> Result<Struck> {
    let (number, call) = (drawn(rig, random), random.random_range(1..=60));
    one(rig, number)?.kill9()?;
    *one(rig, number)? = start(rig, number, call)?;
    let consumer = one(rig, number)?;
    if consumer.wait(PATIENCE)?.is_none() {
        bail!("it has not died:\n{}", consumer.log_tail(10));
    }
    let begun = SystemClock.now();
    *one(rig, number)? = start(rig, number, 0)?;
    Ok(Struck::since(begun, format!("in call {call}")))
}

/// Stops one in order, which moves its partitions to the others, and starts it again a little later,
/// which moves some back.
pub(super) fn rebalanced(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let number = drawn(rig, random);
    let consumer = one(rig, number)?;
    let stopped = consumer.stop(Signal::SIGTERM, STOP);
    stopped.with_context(|| consumer.log_tail(10))?;
    let begun = SystemClock.now();
    let pause = Duration::from_millis(random.random_range(0..1_500));
    std::thread::sleep(pause);
    *one(rig, number)? = start(rig, number, 0)?;
    Ok(Struck::since(begun, format!("gone for {pause:.1?}")))
}

/// Freezes one until its session has run out and the others have its partitions, and wakes it.
pub(super) fn frozen(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let number = drawn(rig, random);
    loop {
        one(rig, number)?.pause()?;
        // Frozen inside a write transaction it would hold the whole SQLite file until it is killed: that is
        // no guarantee of ours.
        if rig.is_writable() {
            break;
        }
        one(rig, number)?.resume()?;
    }
    let begun = SystemClock.now();
    let time = SESSION + Duration::from_millis(random.random_range(1_000..4_000));
    std::thread::sleep(time);
    one(rig, number)?.resume()?;
    Ok(Struck::at(begun, format!("for {time:.1?}")))
}

/// Stops all, sends the group's offsets or those of the database back to the beginning or deletes the
/// group, and starts all again.
pub(super) fn group_reset(rig: &mut Rig, stage: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    const TO_EARLIEST: [&str; 4] = [
        "--reset-offsets",
        "--to-earliest",
        "--all-topics",
        "--execute",
    ];
    for number in 0..rig.consumers.len() {
        one(rig, number)?.stop(Signal::SIGTERM, STOP)?;
    }
    let (kafka, group) = (rig.kafka.clone(), group(&rig.task.source));
    let ask = |words: &[&str]| {
        let common = ["--bootstrap-server", &kafka, "--group", &group];
        let arguments: Vec<&str> = common.iter().chain(words).copied().collect();
        let tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        stage.kafka.kafka.run_tool(tool, &arguments)
    };
    let begun = SystemClock.now();
    let what = match rig.round % 3 {
        1 => {
            ask(&TO_EARLIEST)?;
            "offsets to the beginning"
        }
        2 => {
            ask(&["--delete"])?;
            "group deleted"
        }
        _ => {
            let back = "update consumer_offset set next_offset = floor_offset, leader_epoch = -1";
            rig.runtime.block_on(rig.store.execute(back.to_owned()))?;
            "the database's offsets to the beginning"
        }
    };
    for number in 0..rig.consumers.len() {
        *one(rig, number)? = start(rig, number, 0)?;
    }
    Ok(Struck::since(begun, what))
}
