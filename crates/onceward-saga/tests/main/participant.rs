//! Commands and cancels commute, on both databases.

use std::sync::Arc;
use std::time::Duration;

use onceward::consumer::{HandlerError, Handlers};
use onceward::{Backend, Clock, Db, Event, MessageContext, SystemClock, Tx};
use onceward_saga::{
    Answer, CANCELLED, EXPIRED, Participant, ParticipantOptions, Performer, SagaBackend, SagaId,
    StepRef, take_part,
};
use sqlx::Postgres;
use uuid::Uuid;

use crate::fixture::{self, begin, count, envelope, handle, on_both, outbox, sent};
use crate::messages::*;

on_both!(
    a_command_is_carried_out_once_and_its_reply_repeated,
    a_cancel_after_success_undoes_it_once,
    a_cancel_that_overtakes_its_command_wins,
    a_refused_command_is_not_undone_and_a_later_try_is_a_new_chance,
    an_expired_command_is_refused_and_an_old_one_that_was_done_is_still_answered,
    what_is_rolled_back_leaves_nothing_behind,
    commands_and_cancels_at_the_same_time_leave_nothing_booked,
);

/// Books seats in a table; seat 0 is always taken.
struct Seats;

impl<B: Backend> Performer<B> for Seats {
    type Command = Book;
    type Done = Booked;
    type Refused = Full;

    async fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Book,
    ) -> Result<Answer<Booked>, HandlerError> {
        if command.seat == 0 && command.at.attempt < 3 {
            return Ok(Answer::Refused("full".into()));
        }
        sqlx::query("insert into seat (saga_id, booked) values ($1, 1)")
            .bind(command.at.saga_id.0)
            .execute(&mut **tx)
            .await?;
        let at = command.at.clone();
        Ok(Answer::Done(Booked {
            at,
            seat: command.seat,
        }))
    }
}

impl<B: Backend> Participant<B> for Seats {
    type Cancel = Free;
    type Cancelled = Freed;

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Book,
    ) -> Result<(), HandlerError> {
        sqlx::query("update seat set booked = booked - 1 where saga_id = $1")
            .bind(command.at.saga_id.0)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

pub async fn seats<B: Backend>(db: &Db<B>) -> Arc<Handlers<B>> {
    // Not a primary key: booked twice would be seen.
    sqlx::query("create table seat (saga_id uuid not null, booked bigint not null)")
        .execute(db.pool())
        .await
        .unwrap();
    let options = ParticipantOptions {
        expire_after: Duration::from_secs(60),
    };
    Arc::new(take_part(Handlers::default(), Seats, outbox(), options))
}

fn at(saga: u128) -> StepRef {
    StepRef::first(SagaId(Uuid::from_u128(saga)), "book")
}
fn book(saga: u128) -> Book {
    Book {
        at: at(saga),
        seat: 12,
    }
}
fn free(saga: u128) -> Free {
    Free {
        at: at(saga),
        reason: "timed out".into(),
    }
}

async fn types<B: Backend>(db: &Db<B>) -> Vec<String> {
    sent(db)
        .await
        .into_iter()
        .map(|(message_type, _)| message_type)
        .collect()
}

const ROWS: &str = "select count(*) from seat";
const BOOKED: &str = "select cast(coalesce(sum(booked), 0) as bigint) from seat";

pub async fn booked_seats<B: Backend>(db: &Db<B>) -> i64 {
    count(db, BOOKED).await
}

async fn a_command_is_carried_out_once_and_its_reply_repeated<B: SagaBackend>(db: Db<B>) {
    let handlers = seats(&db).await;
    for _ in 0..3 {
        handle(&db, &handlers, book(1)).await.unwrap();
    }
    assert_eq!(count(&db, ROWS).await, 1);
    let sent = sent(&db).await;
    assert_eq!(sent.len(), 3);
    let booked = serde_json::to_value(Booked {
        at: at(1),
        seat: 12,
    })
    .unwrap();
    assert!(
        sent.iter()
            .all(|reply| *reply == (Booked::TYPE.to_owned(), booked.clone()))
    );
}

async fn a_cancel_after_success_undoes_it_once<B: SagaBackend>(db: Db<B>) {
    let handlers = seats(&db).await;
    handle(&db, &handlers, book(1)).await.unwrap();
    handle(&db, &handlers, free(1)).await.unwrap();
    assert_eq!(count(&db, BOOKED).await, 0);
    handle(&db, &handlers, free(1)).await.unwrap();
    handle(&db, &handlers, book(1)).await.unwrap();
    assert_eq!((count(&db, ROWS).await, count(&db, BOOKED).await), (1, 0));
    let expected = [Booked::TYPE, Freed::TYPE, Freed::TYPE, Full::TYPE];
    assert_eq!(types(&db).await, expected);
}

async fn a_cancel_that_overtakes_its_command_wins<B: SagaBackend>(db: Db<B>) {
    let handlers = seats(&db).await;
    handle(&db, &handlers, free(1)).await.unwrap();
    handle(&db, &handlers, book(1)).await.unwrap();
    handle(&db, &handlers, book(1)).await.unwrap();
    handle(&db, &handlers, free(1)).await.unwrap();
    assert_eq!(count(&db, ROWS).await, 0);
    let sent = sent(&db).await;
    let refused = serde_json::to_value(Full {
        at: at(1),
        reason: CANCELLED.into(),
    })
    .unwrap();
    assert_eq!(sent[1], (Full::TYPE.to_owned(), refused));
    assert_eq!(
        types(&db).await,
        [Freed::TYPE, Full::TYPE, Full::TYPE, Freed::TYPE]
    );
}

async fn a_refused_command_is_not_undone_and_a_later_try_is_a_new_chance<B: SagaBackend>(
    db: Db<B>,
) {
    let handlers = seats(&db).await;
    let attempt = |attempt| Book {
        at: StepRef { attempt, ..at(1) },
        seat: 0,
    };
    for (n, expected) in [(1, 0), (1, 0), (2, 0), (3, 1), (2, 1), (4, 1)] {
        handle(&db, &handlers, attempt(n)).await.unwrap();
        assert_eq!(count(&db, ROWS).await, expected, "after try {n}");
    }
    let refused_first = Book { at: at(2), seat: 0 };
    handle(&db, &handlers, refused_first).await.unwrap();
    handle(&db, &handlers, free(2)).await.unwrap();
    assert_eq!((count(&db, ROWS).await, count(&db, BOOKED).await), (1, 1));
    assert_eq!(
        types(&db).await.last().map(String::as_str),
        Some(Freed::TYPE)
    );
}

async fn an_expired_command_is_refused_and_an_old_one_that_was_done_is_still_answered<
    B: SagaBackend,
>(
    db: Db<B>,
) {
    let handlers = seats(&db).await;
    let minutes_ago = |n: i64| SystemClock.now() - n * 60_000_000;
    let mut tx = begin(&db).await;
    handlers
        .dispatch(&mut tx, &envelope(&book(1), minutes_ago(2)))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(count(&db, ROWS).await, 0);
    let refused = serde_json::to_value(Full {
        at: at(1),
        reason: EXPIRED.into(),
    })
    .unwrap();
    assert_eq!(sent(&db).await, [(Full::TYPE.to_owned(), refused)]);

    handle(&db, &handlers, book(2)).await.unwrap();
    let mut tx = begin(&db).await;
    handlers
        .dispatch(&mut tx, &envelope(&book(2), minutes_ago(2)))
        .await
        .unwrap();
    // A cancel never expires: it undoes.
    handlers
        .dispatch(&mut tx, &envelope(&free(2), minutes_ago(9)))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        types(&db).await[1..],
        [Booked::TYPE, Booked::TYPE, Freed::TYPE]
    );
    assert_eq!(count(&db, BOOKED).await, 0);
}

async fn what_is_rolled_back_leaves_nothing_behind<B: SagaBackend>(db: Db<B>) {
    let handlers = seats(&db).await;
    let now = SystemClock.now();
    let mut tx = begin(&db).await;
    handlers
        .dispatch(&mut tx, &envelope(&book(1), now))
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    let mut tx = begin(&db).await;
    handlers
        .dispatch(&mut tx, &envelope(&free(2), now))
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(count(&db, "select count(*) from saga_step").await, 0);
    assert_eq!(sent(&db).await, []);
    handle(&db, &handlers, book(2)).await.unwrap();
    assert_eq!(count(&db, BOOKED).await, 1);
}

async fn commands_and_cancels_at_the_same_time_leave_nothing_booked<B: SagaBackend>(db: Db<B>) {
    let handlers = seats(&db).await;
    let sagas = 40_u128;
    let mut running = tokio::task::JoinSet::new();
    for saga in 1..=sagas {
        for copy in 0..4 {
            let (db, handlers) = (db.clone(), Arc::clone(&handlers));
            running.spawn(async move {
                let turn = (saga + copy) % 2 == 0;
                if turn {
                    handle(&db, &handlers, book(saga)).await.unwrap();
                } else {
                    handle(&db, &handlers, free(saga)).await.unwrap();
                }
            });
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    assert_eq!(count(&db, BOOKED).await, 0, "a seat is booked for ever");
    assert_eq!(
        count(&db, "select count(*) from seat where booked < 0").await,
        0
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from saga_step where state = 'cancelled'"
        )
        .await,
        i64::try_from(sagas).unwrap(),
    );
    let types = types(&db).await;
    let freed = types.iter().filter(|t| *t == Freed::TYPE).count();
    assert_eq!(
        (freed, types.len()),
        (80, 160),
        "every message has one reply"
    );
}

/// The second waits for the first, whichever it is: no look-before-insert.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_postgres_the_second_of_command_and_cancel_waits_for_the_first() {
    let db = fixture::postgres().await;
    let handlers = seats(&db).await;
    let now = SystemClock.now();

    let mut first = begin(&db).await;
    handlers
        .dispatch(&mut first, &envelope(&book(1), now))
        .await
        .unwrap();
    let second = spawn(&db, &handlers, free(1));
    somebody_waits_for_a_lock(&db).await;
    first.commit().await.unwrap();
    second.await.unwrap();
    assert_eq!((count(&db, ROWS).await, count(&db, BOOKED).await), (1, 0));

    let mut first = begin(&db).await;
    handlers
        .dispatch(&mut first, &envelope(&free(2), now))
        .await
        .unwrap();
    let second = spawn(&db, &handlers, book(2));
    somebody_waits_for_a_lock(&db).await;
    first.commit().await.unwrap();
    second.await.unwrap();
    assert_eq!(count(&db, ROWS).await, 1, "the second command was refused");

    // The first one dies: the second is the first.
    let mut first = begin(&db).await;
    handlers
        .dispatch(&mut first, &envelope(&free(3), now))
        .await
        .unwrap();
    let second = spawn(&db, &handlers, book(3));
    somebody_waits_for_a_lock(&db).await;
    first.rollback().await.unwrap();
    second.await.unwrap();
    assert_eq!((count(&db, ROWS).await, count(&db, BOOKED).await), (2, 1));
}

fn spawn<E: Event>(
    db: &Db<Postgres>,
    handlers: &Arc<Handlers<Postgres>>,
    message: E,
) -> tokio::task::JoinHandle<()> {
    let (db, handlers) = (db.clone(), Arc::clone(handlers));
    tokio::spawn(async move { handle(&db, &handlers, message).await.unwrap() })
}

pub async fn somebody_waits_for_a_lock(db: &Db<Postgres>) {
    let db = db.clone();
    let waiting = async {
        while count(
            &db,
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
             and datname = current_database()",
        )
        .await
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap();
}
