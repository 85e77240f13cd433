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

/// Stops all, deletes the group or sends its offsets back to the beginning, and starts all again.
pub(super) fn group_reset(rig: &mut Rig, stage: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    for number in 0..rig.consumers.len() {
        one(rig, number)?.stop(Signal::SIGTERM, STOP)?;
    }
    let (kafka, group) = (rig.kafka.clone(), group(&rig.task.source));
    let common = ["--bootstrap-server", &kafka, "--group", &group];
    let (what, more): (_, &[&str]) = match rig.round % 2 {
        1 => (
            "offsets to the beginning",
            &[
                "--reset-offsets",
                "--to-earliest",
                "--all-topics",
                "--execute",
            ],
        ),
        _ => ("group deleted", &["--delete"]),
    };
    let arguments: Vec<&str> = common.iter().chain(more).copied().collect();
    let tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let begun = SystemClock.now();
    stage.kafka.kafka.run_tool(tool, &arguments)?;
    for number in 0..rig.consumers.len() {
        *one(rig, number)? = start(rig, number, 0)?;
    }
    Ok(Struck::since(begun, what))
}
