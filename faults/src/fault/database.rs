//! Faults of the database, of the way to it, and of those who write into it.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, bail};
use onceward::{Clock, SystemClock};
use onceward_testkit::cutter::Cut;
use onceward_testkit::process::Process;
use onceward_testkit::wait;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::database::Store;
use crate::relay::program;
use crate::rig::{PATIENCE, Rig};
use crate::stage::Stage;
use crate::writers::hold;

/// Kills the server and starts it again.
pub(super) fn killed(_: &mut Rig, stage: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    let postgres = stage.postgres()?;
    postgres.kill9()?;
    let begun = SystemClock.now();
    postgres.start_again()?;
    Ok(Struck::since(begun, ""))
}

/// Rolls back many transactions, whose ids the relay's snapshots then cover, and crashes the server
/// before it has written down that they are used: it hands them out again.
pub(super) fn crashed_after_rollbacks(
    rig: &mut Rig,
    stage: &mut Stage,
    random: &mut StdRng,
) -> Result<Struck> {
    let Store::Postgres(pool) = &rig.store else {
        bail!("only Postgres has transaction ids");
    };
    let storm = "do $$ begin for n in 1..400 loop perform pg_current_xact_id(); rollback; \
                 end loop; end $$";
    rig.runtime
        .block_on(sqlx::raw_sql(storm).execute(pool))
        .context("rolling back")?;
    // The relay has to take a snapshot behind them.
    std::thread::sleep(Duration::from_millis(random.random_range(0..60)));
    let postgres = stage.postgres()?;
    postgres.stop_immediate()?;
    let begun = SystemClock.now();
    postgres.start_again()?;
    Ok(Struck::since(begun, ""))
}

/// Keeps a transaction open that has written an event; those of others flow meanwhile.
pub(super) fn kept_open(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let time = Duration::from_millis(random.random_range(1_000..4_000));
    let (store, task) = (rig.store.clone(), rig.task.clone());
    let begun = SystemClock.now();
    let held = rig
        .runtime
        .spawn(async move { hold(&store, &task, time).await });
    // Half-way it must have held nobody up.
    std::thread::sleep(time / 2);
    let now = SystemClock.now();
    rig.visible_since(now, "events to flow past an open transaction")?;
    rig.runtime.block_on(held)??;
    Ok(Struck {
        begun: now,
        over: now,
        what: format!(
            "for {:.1?}",
            Duration::from_micros(u64::try_from(SystemClock.now() - begun)?)
        ),
    })
}

/// Cuts the connection of whoever commits next: before the server sees it, or before its answer.
pub(super) fn cut_at_commit(_: &mut Rig, stage: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let cutter = stage.cutter()?;
    let (cut, what) = match random.random_bool(0.5) {
        true => (Cut::Before, "before it"),
        false => (Cut::After, "before its answer"),
    };
    cutter.cut_next(cut);
    wait::until("a COMMIT to be cut", PATIENCE, || {
        Ok(cutter.has_cut().then_some(()))
    })?;
    Ok(Struck::since(SystemClock.now(), what))
}

/// Kills a process that writes, in the midst of it; what it knew it has written down.
pub(super) fn writer_killed(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let journal = rig.logs.join(format!("writer-{}.journal", rig.round));
    let mut command = program("onceward-faults")?;
    command
        .args(["writer", "--url", &rig.url, "--topic", &rig.task.topic])
        .args(["--source", rig.task.source.as_str()])
        .args([
            "--seed",
            &random.random_range(0..u64::from(u32::MAX)).to_string(),
        ])
        .args(["--first-token", &(u64::from(rig.round) << 40).to_string()])
        .arg("--journal")
        .arg(&journal);
    File::create(&journal)?;
    let mut writer = Process::spawn("writer", command, &rig.logs.join("writer.log"))?;
    wait::until("the writer to write", PATIENCE, || {
        if !writer.is_running() {
            bail!("the writer has ended:\n{}", writer.log_tail(5));
        }
        Ok((std::fs::metadata(&journal)?.len() > 200).then_some(()))
    })?;
    std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
    writer.kill9()?;
    let begun = SystemClock.now();
    rig.account.merge(&std::fs::read_to_string(&journal)?)?;
    Ok(Struck::since(begun, ""))
}
