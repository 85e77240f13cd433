//! Timers fire once, never early, and against replies the first commit wins.

use std::sync::Arc;
use std::time::Duration;

use onceward::consumer::Handlers;
use onceward::{Backend, Clock, Db, Event, MessageContext, SystemClock, UuidV7};
use onceward_saga::inspect::{self, SagaFilter};
use onceward_saga::{
    Fired, SagaBackend, SagaDefinition, SagaError, SagaId, SagaStatus, Sagas, Started, StepRef,
    TimerOptions, TimerRunner,
};
use sqlx::Postgres;
use tokio_util::sync::CancellationToken;

use crate::fixture::{self, begin, count, envelope, handle, on_both, outbox, sent};
use crate::messages::*;
use crate::participant::somebody_waits_for_a_lock;

on_both!(
    a_saga_is_started_once_and_shown_with_all_its_events_and_timers,
    timers_fire_once_with_two_runners_and_never_early,
    a_timer_is_at_most_a_tenth_of_a_second_late,
    timers_due_together_fire_side_by_side,
    a_reply_disarms_the_deadline_and_a_fired_deadline_outdoes_the_reply,
    a_timer_that_cannot_fire_holds_up_no_other,
    a_timer_survives_its_runner,
    a_saga_of_a_version_nobody_has_here_waits_for_one_who_has,
);

const DEADLINE: &str = "deadline/book/0/1";

fn sagas(deadline: Duration) -> (Sagas, SagaDefinition) {
    let definition = trip(deadline, 1, false);
    (Sagas::new(outbox()).with(definition.clone()), definition)
}

async fn start<B: SagaBackend>(
    db: &Db<B>,
    (sagas, definition): &(Sagas, SagaDefinition),
    subject: &str,
) -> Started {
    let mut tx = begin(db).await;
    let context = MessageContext::start(&UuidV7);
    let started = sagas
        .start(&mut tx, &context, definition, subject, &Trip { seat: 1 })
        .await
        .unwrap();
    tx.commit().await.unwrap();
    started
}

async fn a_saga_of_a_version_nobody_has_here_waits_for_one_who_has<B: SagaBackend>(db: Db<B>) {
    let trips = sagas(Duration::ZERO);
    let id = trips.1.saga_id("a");
    start(&db, &trips, "a").await;
    let older = Sagas::new(outbox());
    let refused = Handlers::default().on::<Booked, _>(older.clone());
    let refused = handle(&db, &Arc::new(refused), booked(id)).await;
    // A dead letter, which is replayed later, and a timer that stays armed.
    let why = onceward::error_chain(&refused.unwrap_err());
    assert!(why.contains("no definition trip version 1"), "{why}");
    let mut tx = begin(&db).await;
    let fired = older.fire(&mut tx, id, DEADLINE).await;
    assert!(matches!(
        fired,
        Err(SagaError::UnknownDefinition { version: 1, .. })
    ));
    tx.rollback().await.unwrap();
    let armed = "select count(*) from timer where state = 'armed'";
    assert_eq!(count(&db, armed).await, 1);
    assert_eq!(status(&db, id).await, SagaStatus::Running);

    let handlers = Handlers::default().on::<Booked, _>(trips.0);
    handle(&db, &Arc::new(handlers), booked(id)).await.unwrap();
    assert_eq!(sent(&db).await.len(), 2, "it went on");
}

fn booked(saga_id: SagaId) -> Booked {
    Booked {
        at: StepRef::first(saga_id, "book"),
        seat: 1,
    }
}

async fn status<B: Backend>(db: &Db<B>, saga_id: SagaId) -> SagaStatus {
    inspect::show(db.pool(), saga_id)
        .await
        .unwrap()
        .unwrap()
        .summary
        .status
}

async fn when<F: Future<Output = bool>>(what: &str, mut state: impl FnMut() -> F) {
    let reached = async {
        while !state().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), reached)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within 120 s"));
}

async fn a_saga_is_started_once_and_shown_with_all_its_events_and_timers<B: SagaBackend>(
    db: Db<B>,
) {
    let trips = sagas(Duration::from_secs(60));
    let id = trips.1.saga_id("a");
    assert_eq!(start(&db, &trips, "a").await, Started::First(id));
    assert_eq!(start(&db, &trips, "a").await, Started::Already(id));
    let mut twins = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (db, trips) = (db.clone(), trips.clone());
        twins.spawn(async move { start(&db, &trips, "b").await });
    }
    let started = twins.join_all().await;
    assert_eq!(
        started
            .iter()
            .filter(|s| matches!(s, Started::First(_)))
            .count(),
        1
    );
    assert_eq!(sent(&db).await.len(), 2, "one command per saga");

    let handlers = Arc::new(Handlers::default().on::<Booked, _>(trips.0.clone()));
    for _ in 0..2 {
        handle(&db, &handlers, booked(id)).await.unwrap();
    }
    let shown = inspect::show(db.pool(), id).await.unwrap().unwrap();
    let kinds: Vec<&str> = shown
        .events
        .iter()
        .map(|event| event.kind.as_str())
        .collect();
    assert_eq!(
        kinds,
        ["started", "step_commanded", "step_done", "step_commanded"]
    );
    assert_eq!(shown.summary.version, 4);
    assert!(shown.events[2].caused_by.is_some());
    let timers: Vec<(&str, &str)> = shown
        .timers
        .iter()
        .map(|t| (t.name.as_str(), t.state.as_str()))
        .collect();
    assert_eq!(
        timers,
        [(DEADLINE, "disarmed"), ("deadline/print/0/1", "armed")]
    );

    let filter = |status| SagaFilter {
        status: Some(status),
        ..SagaFilter::default()
    };
    let running = inspect::list(db.pool(), &filter(SagaStatus::Running))
        .await
        .unwrap();
    assert_eq!(running.len(), 2);
    assert_eq!(
        inspect::list(db.pool(), &filter(SagaStatus::Stuck))
            .await
            .unwrap(),
        []
    );
    let about = SagaFilter {
        subject: Some("b".into()),
        limit: 1,
        ..SagaFilter::default()
    };
    assert_eq!(inspect::list(db.pool(), &about).await.unwrap().len(), 1);
    let counts = inspect::count_open(db.pool()).await.unwrap();
    assert_eq!(counts, [(SagaStatus::Running, 2)]);

    let stranger = booked(SagaId(uuid::Uuid::nil()));
    assert!(
        handle(&db, &handlers, stranger).await.is_err(),
        "an unknown saga is refused"
    );
}

async fn timers_fire_once_with_two_runners_and_never_early<B: SagaBackend>(db: Db<B>) {
    let trips = sagas(Duration::from_millis(300));
    let stop = CancellationToken::new();
    let mut runners = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let runner = TimerRunner::new(db.clone(), trips.0.clone(), TimerOptions::default());
        runners.spawn(runner.run(stop.clone()));
    }
    let sagas = 40;
    for n in 0..sagas {
        start(&db, &trips, &n.to_string()).await;
    }
    const FIRED: &str = "select count(*) from timer where state = 'fired'";
    when("all timers fire", || async {
        count(&db, FIRED).await == sagas
    })
    .await;
    stop.cancel();
    runners.join_all().await;

    let early = "select count(*) from timer where finished_at < fire_at";
    assert_eq!(count(&db, early).await, 0);
    let passed = "select count(*) from saga_event where kind = 'deadline_passed'";
    assert_eq!(count(&db, passed).await, sagas);
    let types: Vec<String> = sent(&db).await.into_iter().map(|(t, _)| t).collect();
    for (message_type, expected) in [(Book::TYPE, sagas), (Free::TYPE, sagas)] {
        let found = types.iter().filter(|t| *t == message_type).count();
        assert_eq!(i64::try_from(found).unwrap(), expected, "{message_type}");
    }
    let (half, most) = lateness(&db).await;
    println!("40 timers at once were late by {half} us (median), {most} us (most)");
}

/// One after the other, so that none waits for another; the median, because the machine that runs
/// the tests may be busy.
async fn a_timer_is_at_most_a_tenth_of_a_second_late<B: SagaBackend>(db: Db<B>) {
    let trips = sagas(Duration::from_millis(30));
    let stop = CancellationToken::new();
    let runner = TimerRunner::new(db.clone(), trips.0.clone(), TimerOptions::default());
    let runner = tokio::spawn(runner.run(stop.clone()));
    for n in 0..9 {
        start(&db, &trips, &n.to_string()).await;
        when("the timer fires", || async {
            count(&db, "select count(*) from timer where state = 'armed'").await == 0
        })
        .await;
    }
    stop.cancel();
    runner.await.unwrap();
    let (half, most) = lateness(&db).await;
    println!("single timers were late by {half} us (median), {most} us (most)");
    assert!(
        half <= 100_000,
        "half of the timers were late by more than {half} us"
    );
}

/// Forty at the same moment, twice: the second time the connections are open and warm.
async fn timers_due_together_fire_side_by_side<B: SagaBackend>(db: Db<B>) {
    let trips = sagas(Duration::from_secs(600));
    let stop = CancellationToken::new();
    let runner = TimerRunner::new(db.clone(), trips.0.clone(), TimerOptions::default());
    let runner = tokio::spawn(runner.run(stop.clone()));
    for round in ["first", "second"] {
        for n in 0..40 {
            start(&db, &trips, &format!("{round} {n}")).await;
        }
        let soon = SystemClock.now() + 300_000;
        let together = "update timer set fire_at = $1 where state = 'armed' and name = $2";
        sqlx::query(together)
            .bind(soon)
            .bind(DEADLINE)
            .execute(db.pool())
            .await
            .unwrap();
        when("all timers fire", || async {
            count(&db, "select count(*) from timer where state = 'armed'").await == 0
        })
        .await;
        let (half, most) = lateness(&db).await;
        println!("40 timers at once, {round} round: {half} us (median), {most} us (most) late");
        assert!(most < 5_000_000, "a timer was {most} us late");
        let early = "select count(*) from timer where finished_at < fire_at";
        assert_eq!(count(&db, early).await, 0);
        sqlx::query("delete from timer")
            .execute(db.pool())
            .await
            .unwrap();
    }
    stop.cancel();
    runner.await.unwrap();
    let passed = "select count(*) from saga_event where kind = 'deadline_passed'";
    assert_eq!(count(&db, passed).await, 80, "each once");
}

/// Median and maximum, in microseconds.
async fn lateness<B: Backend>(db: &Db<B>) -> (i64, i64) {
    let late: Vec<i64> =
        sqlx::query_scalar("select finished_at - fire_at as late from timer order by late")
            .fetch_all(db.pool())
            .await
            .unwrap();
    (late[late.len() / 2], late[late.len() - 1])
}

async fn a_reply_disarms_the_deadline_and_a_fired_deadline_outdoes_the_reply<B: SagaBackend>(
    db: Db<B>,
) {
    let trips = sagas(Duration::from_millis(1));
    let handlers = Arc::new(Handlers::default().on::<Booked, _>(trips.0.clone()));
    let (first, second) = (trips.1.saga_id("1"), trips.1.saga_id("2"));
    start(&db, &trips, "1").await;
    start(&db, &trips, "2").await;

    handle(&db, &handlers, booked(first)).await.unwrap();
    let mut tx = begin(&db).await;
    when_due(&mut tx, &trips.0, second).await;
    let fired = trips.0.fire(&mut tx, first, DEADLINE).await.unwrap();
    assert_eq!(fired, Fired::NotArmed);
    tx.commit().await.unwrap();
    assert_eq!(status(&db, first).await, SagaStatus::Running);

    handle(&db, &handlers, booked(second)).await.unwrap();
    assert_eq!(status(&db, second).await, SagaStatus::Compensating);
    let shown = inspect::show(db.pool(), second).await.unwrap().unwrap();
    assert_eq!(
        shown.events.last().map(|e| e.kind.as_str()),
        Some("late_reply")
    );
    assert_eq!(shown.summary.reason.as_deref(), Some("timed out"));
}

async fn when_due<B: SagaBackend>(
    tx: &mut onceward::Tx<'static, B>,
    sagas: &Sagas,
    saga_id: SagaId,
) {
    let fires = async {
        while sagas.fire(tx, saga_id, DEADLINE).await.unwrap() == Fired::NotArmed {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), fires)
        .await
        .unwrap();
}

async fn a_timer_that_cannot_fire_holds_up_no_other<B: SagaBackend>(db: Db<B>) {
    let trips = sagas(Duration::from_millis(1));
    start(&db, &trips, "good").await;
    start(&db, &trips, "bad").await;
    let bad = trips.1.saga_id("bad");
    sqlx::query("update saga_event set body = '{}' where saga_id = $1")
        .bind(bad.0)
        .execute(db.pool())
        .await
        .unwrap();
    // The bad one comes first.
    sqlx::query("update timer set fire_at = 1 where owner_id = $1")
        .bind(bad.0)
        .execute(db.pool())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let options = TimerOptions {
        batch: 1,
        ..TimerOptions::default()
    };
    let runner =
        tokio::spawn(TimerRunner::new(db.clone(), trips.0.clone(), options).run(stop.clone()));
    let good = trips.1.saga_id("good");
    when("the good one fires", || async {
        status(&db, good).await == SagaStatus::Compensating
    })
    .await;
    stop.cancel();
    runner.await.unwrap();
    let armed = count(&db, "select count(*) from timer where state = 'armed'").await;
    assert_eq!(
        armed, 1,
        "the bad one is still there for an operator to see"
    );
}

async fn a_timer_survives_its_runner<B: SagaBackend>(db: Db<B>) {
    let trips = sagas(Duration::from_millis(20));
    start(&db, &trips, "1").await;
    let id = trips.1.saga_id("1");
    // Fired, and died before the commit.
    let mut tx = begin(&db).await;
    when_due(&mut tx, &trips.0, id).await;
    tx.rollback().await.unwrap();
    assert_eq!(status(&db, id).await, SagaStatus::Running);
    let mut runner = TimerRunner::new(db.clone(), trips.0.clone(), TimerOptions::default());
    runner.fire_due().await.unwrap();
    assert_eq!(status(&db, id).await, SagaStatus::Compensating);
    assert_eq!(sent(&db).await.len(), 2);
}

/// On SQLite there is one writer, and nobody can hold a saga's lock beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_postgres_a_timer_that_waits_for_its_saga_holds_up_no_other() {
    let db: Db<Postgres> = fixture::postgres().await;
    let trips = sagas(Duration::from_secs(600));
    for n in 0..20 {
        start(&db, &trips, &n.to_string()).await;
    }
    let mut reply = begin(&db).await;
    sqlx::query("update saga_instance set version = version where subject = '0'")
        .execute(&mut *reply)
        .await
        .unwrap();
    // The locked one is the first that is due.
    sqlx::query(
        "update timer set fire_at = case when owner_id = $1 then 1 else 2 end where state = 'armed'",
    )
    .bind(trips.1.saga_id("0").0)
    .execute(db.pool())
    .await
    .unwrap();
    let stop = CancellationToken::new();
    let runner = TimerRunner::new(db.clone(), trips.0.clone(), TimerOptions::default());
    let runner = tokio::spawn(runner.run(stop.clone()));
    somebody_waits_for_a_lock(&db).await;
    when("the others fire", || async {
        count(&db, "select count(*) from timer where state = 'fired'").await == 19
    })
    .await;
    // One that comes later is not held up either.
    start(&db, &trips, "later").await;
    sqlx::query("update timer set fire_at = 3 where owner_id = $1")
        .bind(trips.1.saga_id("later").0)
        .execute(db.pool())
        .await
        .unwrap();
    when("a later one fires", || async {
        status(&db, trips.1.saga_id("later")).await == SagaStatus::Compensating
    })
    .await;
    assert_eq!(status(&db, trips.1.saga_id("0")).await, SagaStatus::Running);
    reply.rollback().await.unwrap();
    when("the locked one fires", || async {
        status(&db, trips.1.saga_id("0")).await == SagaStatus::Compensating
    })
    .await;
    stop.cancel();
    runner.await.unwrap();
}

/// Reply and deadline at the same time: the second waits for the first and then sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_postgres_of_reply_and_deadline_the_first_commit_wins() {
    let db: Db<Postgres> = fixture::postgres().await;
    let trips = sagas(Duration::from_millis(1));
    let handlers = Arc::new(Handlers::default().on::<Booked, _>(trips.0.clone()));
    let (first, second) = (trips.1.saga_id("1"), trips.1.saga_id("2"));
    start(&db, &trips, "1").await;
    start(&db, &trips, "2").await;

    // The reply is there first.
    let mut reply = begin(&db).await;
    let message = envelope(&booked(first), SystemClock.now());
    handlers.dispatch(&mut reply, &message).await.unwrap();
    let firing = {
        let (db, sagas) = (db.clone(), trips.0.clone());
        tokio::spawn(async move {
            let mut tx = begin(&db).await;
            let fired = sagas.fire(&mut tx, first, DEADLINE).await.unwrap();
            tx.commit().await.unwrap();
            fired
        })
    };
    somebody_waits_for_a_lock(&db).await;
    reply.commit().await.unwrap();
    assert_eq!(firing.await.unwrap(), Fired::NotArmed);
    assert_eq!(status(&db, first).await, SagaStatus::Running);

    // The deadline is there first.
    let mut firing = begin(&db).await;
    when_due(&mut firing, &trips.0, second).await;
    let reply = {
        let (db, handlers) = (db.clone(), Arc::clone(&handlers));
        tokio::spawn(async move { handle(&db, &handlers, booked(second)).await.unwrap() })
    };
    somebody_waits_for_a_lock(&db).await;
    firing.commit().await.unwrap();
    reply.await.unwrap();
    assert_eq!(status(&db, second).await, SagaStatus::Compensating);
    assert_eq!(
        count(
            &db,
            "select count(*) from saga_event where kind = 'late_reply'"
        )
        .await,
        1
    );
}
