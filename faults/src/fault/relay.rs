//! Faults of the relay's process.

use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use onceward::{Clock, SystemClock};
use onceward_testkit::wait;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::rig::{PATIENCE, Rig};
use crate::stage::Stage;

/// The relay's lines at which it can be killed; see its `failpoint.rs`.
const LINES: &[&str] = &[
    "claimed",
    "opened",
    "progress-read",
    "taken-over",
    "fetched",
    "publishing",
    "committed",
    "mirroring",
    "mirrored",
    "releasing",
];
/// And at which it can freeze and be replaced.
const FREEZING: &[&str] = &[
    "publishing",
    "claimed",
    "opened",
    "committed",
    "progress-read",
    "fetched",
    "taken-over",
    "mirroring",
];

/// Kills the owner and starts it again.
pub(super) fn killed(rig: &mut Rig, _: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    let owner = rig.owner()?;
    rig.relay(owner)?.process.kill9()?;
    let begun = SystemClock.now();
    rig.restart(owner, None)?;
    Ok(Struck::since(begun, ""))
}

/// Has the owner die at a line of the protocol, one after the other.
pub(super) fn killed_at_a_line(
    rig: &mut Rig,
    _: &mut Stage,
    random: &mut StdRng,
) -> Result<Struck> {
    let (line, pass) = drawn(LINES, rig.round, random);
    let owner = rig.owner()?;
    rig.relay(owner)?.process.kill9()?;
    rig.restart(owner, Some(&format!("{line}:{pass}")))?;
    if line == "releasing" {
        rig.owner()?;
        // Its handler is in place when it works.
        rig.relay(owner)?.process.signal(Signal::SIGTERM)?;
    }
    // Beside another relay it may come too late to own anything.
    let alone = rig.relays.len() == 1;
    let relay = rig.relay(owner)?;
    let patience = if alone { PATIENCE } else { PATIENCE / 6 };
    let has_died = relay.process.wait(patience)?.is_some();
    if !has_died && alone {
        bail!(
            "the relay has not died at {line}:{pass}; was it built with its feature failpoints?\n{}",
            relay.process.log_tail(12)
        );
    }
    if !has_died {
        relay.process.kill9()?;
    }
    let begun = SystemClock.now();
    rig.restart(owner, None)?;
    Ok(Struck::since(begun, format!("at {line}, pass {pass}")))
}

/// The line of this round, and at which of its passes.
fn drawn<'l>(lines: &[&'l str], round: u32, random: &mut StdRng) -> (&'l str, u32) {
    let index = usize::try_from(round).unwrap_or(0).saturating_sub(1) % lines.len();
    let line = lines.get(index).copied().unwrap_or("publishing");
    let pass = match line {
        "fetched" | "publishing" | "committed" => random.random_range(1..=6),
        "mirroring" | "mirrored" => random.random_range(1..=2),
        _ => 1,
    };
    (line, pass)
}

/// Freezes the owner; when another one has taken over, it wakes.
pub(super) fn frozen(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let owner = loop {
        let owner = rig.settled()?;
        rig.relay(owner)?.process.pause()?;
        // Frozen inside a write transaction it would hold the whole SQLite file until it is killed:
        // that is no guarantee of ours.
        if rig.is_writable() {
            break owner;
        }
        rig.relay(owner)?.process.resume()?;
    };
    replaced(rig, owner, random, String::new())
}

/// Freezes the owner at a line of the protocol.
pub(super) fn frozen_at_a_line(
    rig: &mut Rig,
    _: &mut Stage,
    random: &mut StdRng,
) -> Result<Struck> {
    for _ in 0..8 {
        let (line, pass) = drawn(FREEZING, rig.round, random);
        let owner = rig.settled()?;
        // Alone, as the other one would be faster: it takes over at once what a killed one held.
        rig.kill_relays()?;
        rig.restart(owner, Some(&format!("{line}:{pass}:stop")))?;
        let is_there = has_frozen(rig, owner) && rig.is_writable();
        rig.restart_others(owner)?;
        if is_there {
            return replaced(rig, owner, random, format!("at {line}, pass {pass}"));
        }
        rig.relay(owner)?.process.kill9()?;
        rig.restart(owner, None)?;
    }
    bail!("no relay froze where it should:\n{}", rig.told())
}

fn has_frozen(rig: &Rig, number: usize) -> bool {
    let Some(relay) = rig.relays.get(number) else {
        return false;
    };
    let stat = format!("/proc/{}/stat", relay.process.pid());
    let frozen = wait::until("the relay to freeze", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&stat)?;
        let state = text
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        Ok((state == Some('T')).then_some(()))
    });
    frozen.is_ok()
}

/// Waits until another one has replaced the frozen relay, and wakes it.
fn replaced(rig: &mut Rig, frozen: usize, random: &mut StdRng, what: String) -> Result<Struck> {
    let begun = SystemClock.now();
    rig.visible_since(begun, "another relay to take over")?;
    std::thread::sleep(Duration::from_millis(random.random_range(0..1_000)));
    rig.relay(frozen)?.process.resume()?;
    Ok(Struck::at(begun, what))
}

/// Kills the owner; the other one takes over.
pub(super) fn killed_beside_another(
    rig: &mut Rig,
    _: &mut Stage,
    _: &mut StdRng,
) -> Result<Struck> {
    let owner = rig.settled()?;
    rig.relay(owner)?.process.kill9()?;
    let begun = SystemClock.now();
    rig.visible_since(begun, "the other relay to take over")?;
    rig.restart(owner, None)?;
    Ok(Struck::at(begun, ""))
}

/// Stops the owner in order; the other one takes over.
pub(super) fn stopped_beside_another(
    rig: &mut Rig,
    _: &mut Stage,
    _: &mut StdRng,
) -> Result<Struck> {
    let owner = rig.settled()?;
    let relay = rig.relay(owner)?;
    relay
        .process
        .stop(Signal::SIGTERM, Duration::from_secs(10))
        .with_context(|| relay.process.log_tail(12))?;
    let begun = SystemClock.now();
    rig.visible_since(begun, "the other relay to take over")?;
    rig.restart(owner, None)?;
    Ok(Struck::at(begun, ""))
}

/// Starts a second relay with the owner's name, which takes the source from it while it works.
pub(super) fn doubled(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let owner = rig.owner()?;
    for number in (0..rig.relays.len()).filter(|number| *number != owner) {
        // It could be faster than the twin.
        rig.relay(number)?.process.kill9()?;
    }
    let id = rig.relay(owner)?.id.clone();
    let twin = rig.start.go(&id, &rig.logs, None)?;
    let begun = SystemClock.now();
    let runtime = rig.runtime.clone();
    // If the two have fenced each other, both wait until the lease ends, and either may be first then.
    let _either_will_do = wait::until("the twin to own the source", PATIENCE / 6, || {
        Ok(twin.is_owner(&runtime).then_some(()))
    });
    std::thread::sleep(Duration::from_millis(random.random_range(0..500)));
    let mut old = std::mem::replace(rig.relay(owner)?, twin);
    old.process.kill9()?;
    rig.restart_others(owner)?;
    Ok(Struck::since(begun, ""))
}
