//! Group commit: several units of work in one SQLite transaction, each in its own savepoint.
//!
//! ```text
//!            ┌── SAVEPOINT ─ closure ─┬─ Ok ──▶ RELEASE ─────────────┐
//! BEGIN ─────┤                        └─ Err ─▶ ROLLBACK TO, RELEASE ┤── next member …
//! IMMEDIATE  └──────────◀───────────────────────────────────────────┘
//!                │ the transaction is gone, or one of these fails        │ no more members
//!                ▼                                                       ▼
//!        drop the connection, rerun every member alone ◀─ refused ─── COMMIT ─▶ answer all
//! ```
//! Going on after the transaction is gone would commit the later members at once and then again.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::gate::CommitGate;
use super::job::{Failure, Job, Ran};
use super::lane::{Lane, commit, not_committed, note_group};
use super::writer::{Options, note_waiting};
use crate::{Backend, Error, Tx};

/// Pause between groups. Without it other processes starve: SQLite's lock is not fair, and the
/// writer would take it again before a process that polls for it looks (a one-row write elsewhere:
/// p99 532 ms without the pause, 3.4 ms with it).
const PAUSE: Duration = Duration::from_micros(500);
/// Most members of a group.
const MAX_MEMBERS: usize = 1_000;
/// A group that is this old takes no further member: its first ones wait for the answer, and other
/// processes for the lock.
const MAX_AGE: Duration = Duration::from_millis(20);

struct Member<B: Backend> {
    job: Box<dyn Job<B>>,
    ran: Ran,
}

/// Runs groups until no more jobs can come.
pub(super) async fn work<B: Backend>(
    options: Options<B>,
    limit: Duration,
    mut jobs: Receiver<Box<dyn Job<B>>>,
) {
    let mut lane: Option<Lane<B>> = None;
    let mut ended: Option<Instant> = None;
    while let Some(first) = jobs.recv().await {
        note_waiting(jobs.len());
        // This thread does nothing else, and tokio's timers are too coarse for half a millisecond.
        if let Some(rest) = ended.and_then(|at| PAUSE.checked_sub(at.elapsed())) {
            thread::sleep(rest);
        }
        let current = match lane.take() {
            Some(lane) => lane,
            None => new_lane(&options, limit),
        };
        lane = run_group(current, first, &mut jobs, &options).await;
        ended = Some(Instant::now());
    }
    if let Some(lane) = lane {
        lane.pool.close().await;
    }
}

fn new_lane<B: Backend>(options: &Options<B>, limit: Duration) -> Lane<B> {
    let gate = Arc::new(CommitGate::default());
    Lane {
        pool: B::gated_pool(options.clone(), &gate),
        gate: Some(gate),
        limit,
    }
}

/// Runs `first` and whoever waits behind it. Gives the lane back if it can be used again.
async fn run_group<B: Backend>(
    lane: Lane<B>,
    first: Box<dyn Job<B>>,
    jobs: &mut Receiver<Box<dyn Job<B>>>,
    options: &Options<B>,
) -> Option<Lane<B>> {
    let mut tx = match lane.pool.begin_with(B::BEGIN).await {
        Ok(tx) => tx,
        Err(error) => {
            refuse_waiting(first, jobs, error);
            return None;
        }
    };
    let begun = Instant::now();
    let gate = lane.gate.clone().unwrap_or_default();
    gate.begun();

    let mut members = Vec::new();
    let mut next = Some(first);
    let mut intact = run(&mut tx, "savepoint unit").await;
    while let Some(mut job) = next.take() {
        if !intact {
            // It was taken for a savepoint that failed.
            let ran = Ran::Refused { rerun: true };
            members.push(Member { job, ran });
            break;
        }
        let ran = job.run(&mut tx, lane.limit).await;
        let kept = matches!(ran, Ran::Done { .. }) || run(&mut tx, "rollback to unit").await;
        members.push(Member { job, ran });
        let full = members.len() >= MAX_MEMBERS || begun.elapsed() >= MAX_AGE;
        if kept && !gate.lost() && !full {
            next = jobs.try_recv().ok();
        }
        // Each statement is a change of threads there and back: one for both.
        let released = match next {
            Some(_) => run(&mut tx, "release unit; savepoint unit").await,
            None => kept && run(&mut tx, "release unit").await,
        };
        intact = released && !gate.lost();
    }
    if !intact {
        drop(tx);
        return rerun_alone(lane, members, options).await;
    }
    note_group(u32::try_from(members.len()).unwrap_or(u32::MAX), begun);
    // CRASH: died before COMMIT is durable = nothing of any member happened; after = all of them
    // did, and no caller has heard.
    match commit(tx, Some(&gate)).await {
        Ok(()) => {
            members.into_iter().for_each(answer);
            Some(lane)
        }
        Err(error) if B::refuses_commit(&error) => rerun_alone(lane, members, options).await,
        Err(error) => {
            for member in members {
                let said = Error::database("commit")(copy(&error));
                match member.ran {
                    Ran::Done { .. } => member.job.fail(Failure::CommitUnknown(said)),
                    // It may have been about rows of a member of which nobody knows.
                    Ran::Refused { .. } => member.job.fail(Failure::NotCommitted(said)),
                    Ran::TimedOut(_) | Ran::Panicked(_) => answer(member),
                }
            }
            discard(lane).await;
            None
        }
    }
}

/// Whether it went well. If it did not, the transaction can't be trusted any more.
async fn run<B: Backend>(tx: &mut Tx<'static, B>, savepoint: &'static str) -> bool {
    let ran = sqlx::query(savepoint).execute(&mut **tx).await;
    if let Err(error) = &ran {
        tracing::debug!(%error, savepoint, "savepoint failed");
    }
    ran.is_ok()
}

fn answer<B: Backend>(member: Member<B>) {
    match member.ran {
        Ran::Done { .. } | Ran::Refused { .. } => member.job.answer(),
        Ran::TimedOut(limit) => member.job.fail(Failure::TimedOut(limit)),
        Ran::Panicked(message) => member.job.fail(Failure::Panicked(message)),
    }
}

/// Nothing of the group is committed. Whoever returned runs again, alone: a refusal too, because it
/// may have been about rows of a member that now fails.
async fn rerun_alone<B: Backend>(
    lane: Lane<B>,
    members: Vec<Member<B>>,
    options: &Options<B>,
) -> Option<Lane<B>> {
    let limit = lane.limit;
    discard(lane).await;
    let mut lane = None;
    for member in members {
        if matches!(member.ran, Ran::TimedOut(_) | Ran::Panicked(_)) {
            answer(member);
            continue;
        }
        let current = lane.take().unwrap_or_else(|| new_lane(options, limit));
        let left = current.run_alone(member.job).await;
        if left.broken {
            discard(current).await;
        } else {
            lane = Some(current);
        }
    }
    lane
}

/// Closes a connection whose state nobody knows; what it had open is rolled back by that.
async fn discard<B: Backend>(lane: Lane<B>) {
    lane.pool.close().await;
}

/// No transaction could be begun: everybody who waits by now is told, instead of each waiting for
/// the same lock in turn.
fn refuse_waiting<B: Backend>(
    first: Box<dyn Job<B>>,
    jobs: &mut Receiver<Box<dyn Job<B>>>,
    error: sqlx::Error,
) {
    let waiting = jobs.len();
    for _ in 0..waiting {
        if let Ok(job) = jobs.try_recv() {
            job.fail(not_committed("begin", copy(&error)));
        }
    }
    first.fail(not_committed("begin", error));
}

/// The same failure once more; `sqlx::Error` can't be cloned.
fn copy(error: &sqlx::Error) -> sqlx::Error {
    sqlx::Error::Protocol(error.to_string())
}
