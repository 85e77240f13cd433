//! Faults of the database, of the way to it, and of those who write into it.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, bail};
use onceward::{Clock, SystemClock};
use onceward_testkit::cutter::Cut;
use onceward_testkit::postgres::answers;
use onceward_testkit::process::Process;
use onceward_testkit::wait;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::account::End;
use crate::database::{Kind, Store};
use crate::relay::program;
use crate::rig::{PATIENCE, Rig};
use crate::stage::Stage;
use crate::writers::{HELD_KEY, hold, many_at_once, prepare, write_big, write_in_turn};

/// Kills the server and starts it again.
pub(super) fn killed(_: &mut Rig, stage: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    let postgres = stage.postgres()?;
    postgres.kill9()?;
    let begun = SystemClock.now();
    postgres.start_again()?;
    Ok(Struck::since(begun, ""))
}

/// Has the relay read a row in a snapshot that covers ids rolled back since, and crashes the server before
/// it has written down that they are used: it hands them out again.
pub(super) fn crashed_after_rollbacks(
    rig: &mut Rig,
    stage: &mut Stage,
    _: &mut StdRng,
) -> Result<Struck> {
    const TRIES: u32 = 5;
    // Any other commit would make durable what was rolled back before it.
    rig.runtime.block_on(rig.writers.stop())?;
    for consumer in &mut rig.consumers {
        consumer.pause()?;
    }
    let (mut begun, mut reused) = (SystemClock.now(), 0);
    for _ in 0..TRIES {
        let covered = rolled_back_before_a_read(rig)?;
        stage.postgres()?.stop_immediate()?;
        begun = SystemClock.now();
        stage.postgres()?.start_again()?;
        reused = (covered - rig.runtime.block_on(rig.store.number(NEXT_ID))?).max(0);
        // The relay's own writes, a few a second, may come in between.
        if reused > 0 {
            break;
        }
    }
    for consumer in &mut rig.consumers {
        consumer.resume()?;
    }
    rig.start_writers();
    Ok(Struck::since(
        begun,
        format!("{reused} ids given out again"),
    ))
}

/// The id that the next transaction gets.
const NEXT_ID: &str = "select cast(pg_snapshot_xmax(pg_current_snapshot())::text as bigint)";

/// Commits an event and rolls back 400 transactions before the relay reads it; the id behind them.
fn rolled_back_before_a_read(rig: &mut Rig) -> Result<i64> {
    let Store::Postgres(pool) = rig.store.clone() else {
        bail!("only Postgres has transaction ids");
    };
    let owner = rig.owner()?;
    rig.drain_topic()?;
    rig.relay(owner)?.process.pause()?;
    let storm = "do $$ begin for n in 1..400 loop perform pg_current_xact_id(); rollback; \
                 end loop; end $$";
    let covered = rig.runtime.block_on(async {
        hold(&rig.store, &rig.task, Duration::ZERO).await?;
        sqlx::raw_sql(storm).execute(&pool).await?;
        rig.store.number(NEXT_ID).await
    });
    rig.relay(owner)?.process.resume()?;
    rig.drain_topic()?;
    covered
}

/// Freezes the relay while a later transaction writes a key and commits, and then one that has begun before
/// it does the same: both rows are in one batch.
pub(super) fn early_id_late_row(rig: &mut Rig, _: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    let owner = rig.owner()?;
    rig.relay(owner)?.process.pause()?;
    let begun = SystemClock.now();
    let written = write_in_turn(&rig.store, &rig.task);
    let written = rig.runtime.block_on(written);
    rig.relay(owner)?.process.resume()?;
    written?;
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
    let held = Duration::from_micros(u64::try_from(SystemClock.now() - begun)?);
    Ok(Struck::at(now, format!("for {held:.1?}")))
}

/// Prepares a transaction, crashes the server, and commits what it has kept; others flow meanwhile.
pub(super) fn prepared(rig: &mut Rig, stage: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let name = format!("{}-{}", rig.task.source, rig.round);
    let event = rig
        .runtime
        .block_on(prepare(&rig.store, &rig.task, &name))?;
    rig.flows()?;
    let crashes = random.random_bool(0.5);
    if crashes {
        let postgres = stage.postgres()?;
        postgres.kill9()?;
        postgres.start_again()?;
        rig.flows()?;
    }
    let ended = |how: &str| format!("{how} prepared '{name}'");
    let (end, how) = match random.random_bool(0.7) {
        true => (End::Committed, "commit"),
        false => (End::RolledBack, "rollback"),
    };
    rig.runtime.block_on(rig.store.execute(ended(how)))?;
    rig.account.note(&[event], end);
    let crash = if crashes {
        ", the server killed meanwhile"
    } else {
        ""
    };
    Ok(Struck::since(SystemClock.now(), format!("{how}{crash}")))
}

/// Has many transactions open at once, which end in no order.
pub(super) fn many_open(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let count = random.random_range(250..=300);
    let time = Duration::from_millis(random.random_range(500..2_500));
    let begun = SystemClock.now();
    let many = many_at_once(&rig.store, &rig.task, count, time);
    rig.runtime.block_on(many)?;
    Ok(Struck::since(begun, format!("{count} of them")))
}

/// Writes an event that its topic refuses and two behind it; has the relay die at a step of parking or of replay; lets
/// the topic take the event, and asks for the replay.
pub(super) fn poisoned(rig: &mut Rig, stage: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    const LINES: [&str; 6] = [
        "parking",
        "parked",
        "request-taken",
        "replay-publishing",
        "replay-committed",
        "replay-settled",
    ];
    let index = usize::try_from(rig.round.saturating_sub(1))? % LINES.len();
    let line = LINES.get(index).copied().unwrap_or("parked");
    let topic = rig.task.topic.clone();
    stage.limit_records(&topic, "50000")?;
    let owner = rig.owner()?;
    // Alone, as another one would take over what it leaves.
    rig.kill_relays()?;
    rig.restart(owner, Some(line))?;
    for bytes in [100_000, 0, 0] {
        let event = write_big(&rig.store, &rig.task, bytes);
        rig.runtime.block_on(event)?;
    }
    let dies_parking = index < 2;
    if dies_parking {
        dies(rig, owner, line)?;
    }
    let parked = |rig: &Rig, wanted: i64| {
        wait::until("the rows to be parked, or none any more", rig.patience(), || {
            let parked =
                "select cast(count(*) as bigint) from outbox_dead_letter where state = 'parked'";
            let found = rig.runtime.block_on(rig.store.number(parked))?;
            Ok((found == wanted).then_some(()))
        })
        .with_context(|| rig.told())
    };
    parked(rig, 3)?;
    // Nobody else waits for that key.
    rig.flows()?;
    stage.limit_records(&topic, "1048588")?;
    let request = format!(
        "insert into outbox_dead_letter_request (kind, topic, message_key, requested_by, requested_at) \
         values ('replay', '{topic}', '{HELD_KEY}', 'faults', 0)"
    );
    rig.runtime.block_on(rig.store.execute(request))?;
    if !dies_parking {
        dies(rig, owner, line)?;
    }
    let begun = SystemClock.now();
    parked(rig, 0)?;
    rig.restart_others(owner)?;
    Ok(Struck::since(begun, format!("at {line}")))
}

/// Waits until a relay has died at its line, and starts it again.
fn dies(rig: &mut Rig, number: usize, line: &str) -> Result<()> {
    let relay = rig.relay(number)?;
    if relay.process.wait(PATIENCE)?.is_none() {
        bail!(
            "the relay has not died at {line}:\n{}",
            relay.process.log_tail(12)
        );
    }
    rig.restart(number, None)
}

/// Fills the disk for a while, in every other strike over a restart of the relay, and frees it again.
pub(super) fn disk_full(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    rig.own.disk()?.fill()?;
    if rig.database == Kind::Postgres {
        // Else the server writes for long into what it has kept for its log.
        let next_segment = rig.store.execute("select pg_switch_wal()".to_owned());
        let _refused_if_full = rig.runtime.block_on(next_segment);
    }
    let time = Duration::from_millis(random.random_range(250..1_250));
    std::thread::sleep(time);
    let restarts = rig.round.is_multiple_of(2);
    if restarts {
        rig.relay(0)?.process.kill9()?;
        rig.restart(0, None)?;
    }
    std::thread::sleep(time);
    rig.own.disk()?.free()?;
    let mut what = format!("for {:.1?}", time * 2);
    if restarts {
        what.push_str(", the relay killed meanwhile");
    }
    if let Some(server) = &mut rig.own.postgres
        && !(server.is_running() && answers(&server.url("postgres")))
    {
        server.kill9()?;
        server.start_again()?;
        what.push_str(", the server ended");
    }
    Ok(Struck::since(SystemClock.now(), what))
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

/// Kills processes that write beside each other, in the midst of it; what they knew they have written down.
pub(super) fn writers_killed(rig: &mut Rig, _: &mut Stage, random: &mut StdRng) -> Result<Struck> {
    let mut writers = Vec::new();
    for number in 0..3_u64 {
        let journal = rig
            .logs
            .join(format!("writer-{}-{number}.journal", rig.round));
        let mut command = program("onceward-faults")?;
        let seed = random.random_range(0..u64::from(u32::MAX));
        let first_token = (u64::from(rig.round) << 40) + (number << 32);
        command
            .args(["writer", "--url", &rig.url, "--topic", &rig.task.topic])
            .args(["--source", rig.task.source.as_str()])
            .args(["--seed", &seed.to_string()])
            .args(["--first-token", &first_token.to_string()])
            .arg("--journal")
            .arg(&journal);
        File::create(&journal)?;
        let log = rig.logs.join(format!("writer-{number}.log"));
        writers.push((Process::spawn("writer", command, &log)?, journal));
    }
    for (writer, journal) in &mut writers {
        wait::until("the writer to write", PATIENCE, || {
            if !writer.is_running() {
                bail!("the writer has ended:\n{}", writer.log_tail(5));
            }
            Ok((std::fs::metadata(&*journal)?.len() > 200).then_some(()))
        })?;
    }
    for (writer, _) in &mut writers {
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        writer.kill9()?;
    }
    let begun = SystemClock.now();
    for (_, journal) in &writers {
        rig.account.merge(&std::fs::read_to_string(journal)?)?;
    }
    Ok(Struck::since(begun, ""))
}
