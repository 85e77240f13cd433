//! Messages that are handled together have the effect of each in turn, on both databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onceward::consumer::{HandlerError, Handlers};
use onceward::{Db, Event, MessageContext, UuidV7};
use onceward_saga::{SagaBackend, SagaDefinition, SagaId, Sagas, Started, StepRef};
use sqlx::Row;
use uuid::Uuid;

use crate::fixture::{begin, handle, handle_batch, handle_in_turn, on_both, outbox, sent};
use crate::messages::*;
use crate::participant::{booked_seats, seats};

on_both!(
    sagas_move_together_as_they_do_in_turn,
    sagas_begin_together_and_each_subject_once,
    one_impossible_reply_refuses_the_batch_and_changes_nothing,
    commands_are_carried_out_together_as_they_are_in_turn,
);

/// Not a size that one statement has: 4 + 2 + 1.
const SAGAS: i64 = 7;

fn definition() -> SagaDefinition {
    trip(Duration::from_secs(60), 1, false)
}

/// Starts sagas of these subjects, by their seats.
async fn start<B: SagaBackend>(
    db: &Db<B>,
    subjects: &[String],
) -> (Arc<Handlers<B>>, Vec<Started>) {
    let sagas = Sagas::new(outbox()).with(definition());
    let context = MessageContext::start(&UuidV7);
    let trips: Vec<_> = (0..)
        .take(subjects.len())
        .map(|seat| Trip { seat })
        .collect();
    let begun = subjects.iter().zip(&trips);
    let begun: Vec<_> = begun
        .map(|(subject, trip)| (&context, subject.as_str(), trip))
        .collect();
    let mut tx = begin(db).await;
    let started = sagas.start_all(&mut tx, &definition(), &begun).await;
    tx.commit().await.unwrap();
    let handlers = Handlers::default()
        .on::<Booked, _>(sagas.clone())
        .on::<Full, _>(sagas.clone())
        .on::<Printed, _>(sagas);
    (Arc::new(handlers), started.unwrap())
}

fn booked(id: SagaId, seat: i64) -> Booked {
    let at = StepRef::first(id, "book");
    Booked { at, seat }
}
fn full(id: SagaId) -> Full {
    let (at, reason) = (StepRef::first(id, "book"), "full".to_owned());
    Full { at, reason }
}
fn printed(id: SagaId) -> Printed {
    let at = StepRef::first(id, "print");
    Printed { at }
}

/// What a saga came to: status, version, log, timers, messages about it.
type CameTo = (String, i64, Vec<String>, Vec<String>, Vec<String>);

async fn came_to<B: SagaBackend>(db: &Db<B>, saga_id: SagaId) -> CameTo {
    let one = "select status, version from saga_instance where saga_id = $1";
    let log = "select kind || ' ' || coalesce(step, '-') || ' ' || seq from saga_event \
               where saga_id = $1 order by seq";
    let timers = "select name || ' ' || state from timer where owner_id = $1 order by name";
    let row = sqlx::query(one).bind(saga_id.0).fetch_one(db.pool()).await;
    let row = row.unwrap();
    let list = async |statement: &'static str| -> Vec<String> {
        let found = sqlx::query_scalar(statement).bind(saga_id.0);
        found.fetch_all(db.pool()).await.unwrap()
    };
    let messages = sent(db).await.into_iter().filter(|(_, payload)| {
        let about = payload.pointer("/at/saga_id");
        about.and_then(|id| id.as_str()) == Some(&saga_id.0.to_string())
    });
    (
        row.try_get(0).unwrap(),
        row.try_get(1).unwrap(),
        list(log).await,
        list(timers).await,
        messages.map(|(message_type, _)| message_type).collect(),
    )
}

async fn sagas_move_together_as_they_do_in_turn<B: SagaBackend>(db: Db<B>) {
    let names = |prefix: &str| {
        (0..SAGAS)
            .map(|n| format!("{prefix} {n}"))
            .collect::<Vec<_>>()
    };
    let ids = |prefix: &str| {
        let all = names(prefix).into_iter();
        all.map(|subject| definition().saga_id(&subject))
            .collect::<Vec<_>>()
    };
    let (together, in_turn) = (ids("together"), ids("in turn"));
    start(&db, &names("together")).await;
    let (handlers, _) = start(&db, &names("in turn")).await;
    // Of the last one the seat is refused; the first one's answer comes three times.
    let seats = |ids: &[SagaId]| {
        let order = [0, 1, 0, 2, 3, 4, 5, 0].map(|n| (n, ids[n]));
        order
            .map(|(n, id)| booked(id, i64::try_from(n).unwrap()))
            .to_vec()
    };
    let refused = |ids: &[SagaId]| vec![full(ids[6]), full(ids[6])];
    let tickets = |ids: &[SagaId]| ids[..3].iter().map(|id| printed(*id)).collect::<Vec<_>>();

    handle_batch(&db, &handlers, seats(&together))
        .await
        .unwrap();
    handle_batch(&db, &handlers, refused(&together))
        .await
        .unwrap();
    handle_batch(&db, &handlers, tickets(&together))
        .await
        .unwrap();
    handle_in_turn(&db, &handlers, seats(&in_turn))
        .await
        .unwrap();
    handle_in_turn(&db, &handlers, refused(&in_turn))
        .await
        .unwrap();
    handle_in_turn(&db, &handlers, tickets(&in_turn))
        .await
        .unwrap();
    let mut statuses = BTreeMap::new();
    for (one, other) in together.iter().zip(&in_turn) {
        let (one, other) = (came_to(&db, *one).await, came_to(&db, *other).await);
        assert_eq!(one, other);
        *statuses.entry(one.0).or_insert(0) += 1;
    }
    let expected = [("compensated", 1), ("completed", 3), ("running", 3)];
    assert_eq!(
        statuses,
        expected.map(|(name, n)| (name.to_owned(), n)).into()
    );
    // The last word of each is there once.
    let ended = sent(&db)
        .await
        .into_iter()
        .filter(|(known, _)| known == Ended::TYPE);
    assert_eq!(ended.count(), 8);
}

async fn sagas_begin_together_and_each_subject_once<B: SagaBackend>(db: Db<B>) {
    let subjects = ["a", "b", "a", "c"].map(str::to_owned);
    let (_, first) = start(&db, &subjects).await;
    let id = |subject: &str| definition().saga_id(subject);
    let new = |subject| Started::First(id(subject));
    let known = |subject| Started::Already(id(subject));
    assert_eq!(first, [new("a"), new("b"), known("a"), new("c")]);
    let (_, again) = start(&db, &["c", "d"].map(str::to_owned)).await;
    assert_eq!(again, [known("c"), new("d")]);
    let commands = sent(&db)
        .await
        .into_iter()
        .map(|(_, payload)| payload["seat"].clone());
    assert_eq!(commands.collect::<Vec<_>>(), [0, 1, 3, 1]);
}

async fn one_impossible_reply_refuses_the_batch_and_changes_nothing<B: SagaBackend>(db: Db<B>) {
    let subjects = ["a", "b"].map(str::to_owned);
    let (handlers, _) = start(&db, &subjects).await;
    let ids = subjects.map(|subject| definition().saga_id(&subject));
    let before = (came_to(&db, ids[0]).await, came_to(&db, ids[1]).await);
    let stranger = SagaId(Uuid::from_u128(7));
    let batch = vec![booked(ids[0], 0), booked(stranger, 0), booked(ids[1], 1)];
    let refused = handle_batch(&db, &handlers, batch).await;
    assert!(
        matches!(refused, Err(HandlerError::Reject(_))),
        "{refused:?}"
    );
    let after = (came_to(&db, ids[0]).await, came_to(&db, ids[1]).await);
    assert_eq!(after, before);
}

async fn commands_are_carried_out_together_as_they_are_in_turn<B: SagaBackend>(db: Db<B>) {
    let handlers = seats(&db).await;
    // Seat 0 is taken at the first two tries.
    let book = |saga: u128, seat: i64, attempt: i32| Book {
        at: StepRef {
            attempt,
            ..StepRef::first(SagaId(Uuid::from_u128(saga)), "book")
        },
        seat,
    };
    let free = |saga: u128| Free {
        at: StepRef::first(SagaId(Uuid::from_u128(saga)), "book"),
        reason: "timed out".into(),
    };
    let commands = |first: u128| {
        let seats = [
            (0, 12, 1),
            (1, 0, 1),
            (0, 12, 1),
            (2, 14, 1),
            (1, 0, 3),
            (3, 15, 1),
            (4, 16, 1),
        ];
        seats
            .map(|(saga, seat, attempt)| book(first + saga, seat, attempt))
            .to_vec()
    };
    for first in [100, 200] {
        // One is cancelled before it comes.
        handle(&db, &handlers, free(first + 2)).await.unwrap();
    }
    let before = sent(&db).await.len();
    handle_batch(&db, &handlers, commands(100)).await.unwrap();
    let between = sent(&db).await.len();
    handle_in_turn(&db, &handlers, commands(200)).await.unwrap();
    let replies = sent(&db).await.into_iter().skip(before);
    let replies: Vec<_> = replies
        .map(|(message_type, mut payload)| {
            payload["at"]["saga_id"] = "any".into();
            (message_type, payload)
        })
        .collect();
    let (together, in_turn) = replies.split_at(between - before);
    assert_eq!(together, in_turn);
    let types: Vec<&str> = together
        .iter()
        .map(|(message_type, _)| message_type.as_str())
        .collect();
    let (yes, no) = (Booked::TYPE, Full::TYPE);
    assert_eq!(types, [yes, no, yes, no, yes, yes, yes]);
    assert_eq!(booked_seats(&db).await, 8);
}
