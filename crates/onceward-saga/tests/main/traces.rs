//! What a saga sends by itself belongs to the trace it was started in.

use std::time::Duration;

use onceward::trace::{self, Bridge, TraceParent};
use onceward::{MessageContext, UuidV7};
use onceward_saga::{Fired, Sagas};
use tracing::Span;

use crate::fixture::{self, begin, outbox};
use crate::messages::*;

/// Each span's id is one more than its parent's. Only what has a trace gets into one.
struct Counting;

impl Bridge for Counting {
    fn join(&self, _: &Span, parent: Option<TraceParent>, _: Option<&str>) -> Option<TraceParent> {
        parent.map(|parent| TraceParent {
            span_id: parent.span_id + 1,
            ..parent
        })
    }

    fn link(&self, _: &Span, _: TraceParent) {}
}

#[tokio::test]
async fn what_a_timer_sends_continues_the_trace_that_the_saga_was_started_in() {
    assert!(trace::install(Counting));
    let (db, _dir) = fixture::sqlite().await;
    let definition = trip(Duration::from_millis(1), 1, false);
    let sagas = Sagas::new(outbox()).with(definition.clone());
    let parent = "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01";
    let context = MessageContext::start(&UuidV7).traced(Some(parent.to_owned()));

    let mut tx = begin(&db).await;
    let trip = Trip { seat: 1 };
    let started = sagas.start(&mut tx, &context, &definition, "a", &trip);
    started.await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = begin(&db).await;
    let due = async {
        let id = definition.saga_id("a");
        while sagas.fire(&mut tx, id, "deadline/book/0/1").await.unwrap() == Fired::NotArmed {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), due)
        .await
        .unwrap();
    tx.commit().await.unwrap();

    let parents: Vec<String> =
        sqlx::query_scalar("select headers ->> 'traceparent' from outbox order by seq")
            .fetch_all(db.pool())
            .await
            .unwrap();
    let child = |id: &str| parent.replace("0000000000000001", id);
    // The append's own span; then that of the timer and that of its append.
    let expected = [child("0000000000000002"), child("0000000000000003")];
    assert_eq!(parents, expected);
}
