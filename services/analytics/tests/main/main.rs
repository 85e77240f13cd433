//! What is shown does not depend on the order in which messages come, nor on the database.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use analytics::{DEFINITION, Facts, handlers};
use axum::body::Body;
use axum::http::Request;
use contracts::{inventory, order, payment};
use onceward::consumer::{HandlerError, Handlers};
use onceward::schema::SchemaBackend;
use onceward::{Db, Envelope, Event, IdGen, MessageId, Micros, OpenOptions, UuidV7};
use onceward_saga::{SagaId, StepRef};
use onceward_testkit::postgres;
use serde_json::{Value, json};
use skeleton::App;
use sqlx::{Postgres, Sqlite};
use tower::ServiceExt;
use uuid::Uuid;

const SECOND: Micros = 1_000_000;

struct Shop<B: SchemaBackend> {
    app: App<B>,
    handlers: Handlers<B>,
}

impl<B: SchemaBackend> Shop<B> {
    async fn new(db: Db<B>) -> Self {
        skeleton::migrate(&DEFINITION, db.pool()).await.unwrap();
        let app = App::new(db, DEFINITION.source().unwrap());
        let handlers = handlers(Facts::new(app.outbox().clone()));
        Self { app, handlers }
    }

    async fn hear(&self, envelope: &Envelope) {
        let mut tx = self.app.db().pool().begin_with(B::BEGIN).await.unwrap();
        self.handlers.dispatch(&mut tx, envelope).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let service = analytics::service(&self.app);
        let limits = skeleton::Limits::default();
        let router = skeleton::assemble(&DEFINITION, &self.app, service.routes, limits).unwrap();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1_000_000)
            .await
            .unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

/// `message`, written `after` a point in time.
fn written<E: Event>(message: &E, at: Micros) -> Envelope {
    Envelope {
        occurred_at: Some(at),
        ..Envelope::of(message, MessageId(UuidV7.next())).unwrap()
    }
}

/// Two orders that end well after 1 and 3 seconds, one that is undone after 2, one that is open.
fn story(from: Micros) -> Vec<Envelope> {
    let mut told = Vec::new();
    for (seconds, minor, completed) in [(1, 500, true), (3, 700, true), (2, 900, false)] {
        let (order_id, end) = (UuidV7.next(), from + seconds * SECOND);
        told.push(written(&created(order_id, minor), from));
        let saga_id = SagaId(order_id);
        let saga = StepRef::first(saga_id, "step");
        if completed {
            told.push(written(&order::Completed { order_id, saga_id }, end));
            continue;
        }
        let reason = "payment declined".to_owned();
        let failed = payment::Failed {
            saga: saga.clone(),
            order_id,
            reason: reason.clone(),
        };
        told.push(written(&failed, from + SECOND));
        told.push(written(&inventory::Released { saga, order_id }, end));
        let cancelled = order::Cancelled {
            order_id,
            saga_id,
            reason,
        };
        told.push(written(&cancelled, end));
    }
    told.push(written(&created(UuidV7.next(), 1), from));
    told
}

fn created(order_id: Uuid, amount_minor: i64) -> order::Created {
    order::Created {
        order_id,
        user_id: "user_123".into(),
        product_id: "product_1".into(),
        quantity: 1,
        amount_minor,
    }
}

async fn messages_in_any_order_add_up_to_the_same<B: SchemaBackend>(forth: Shop<B>, back: Shop<B>) {
    // Two minutes ago, at the beginning of a minute.
    let now = forth.app.clock().now();
    let from = now - now.rem_euclid(60 * SECOND) - 120 * SECOND;
    let story = story(from);
    for envelope in &story {
        forth.hear(envelope).await;
    }
    for envelope in story.iter().rev() {
        back.hear(envelope).await;
    }
    let (status, all) = forth.get("/analytics?window=all").await;
    assert_eq!(
        (status, &all),
        (200, &back.get("/analytics?window=all").await.1)
    );
    let minute = all["minutes"][0]["messages"].clone();
    assert_eq!(all["messages"], minute, "all of it was said in one minute");
    let expected = json!({
        "placed": 4, "completed": 2, "cancelled": 1, "revenue_minor": 1_200,
        "conversion": 2.0 / 3.0, "compensation_rate": 1.0 / 3.0,
        "duration_ms": {"p50": 2_000.0, "p95": 3_000.0},
        "messages": {
            "order.created": 4, "order.completed": 2, "order.cancelled": 1,
            "payment.failed": 1, "inventory.released": 1,
        },
    });
    for (field, expected) in expected.as_object().unwrap() {
        assert_eq!(&all[field], expected, "{field}");
    }

    // What can't be added up is refused, and spoils nothing.
    for minor in [i64::MAX, -1] {
        let beyond = written(&created(UuidV7.next(), minor), from);
        let mut tx = forth.app.db().pool().begin_with(B::BEGIN).await.unwrap();
        let refused = forth.handlers.dispatch(&mut tx, &beyond).await;
        assert!(matches!(refused, Err(HandlerError::Reject(_))));
        tx.rollback().await.unwrap();
    }
    assert_eq!(forth.get("/analytics?window=all").await, (200, all));

    let (_, hour) = forth.get("/analytics").await;
    assert_eq!(
        (&hour["placed"], &hour["window_seconds"]),
        (&json!(4), &json!(3_600))
    );
    let (_, short) = forth.get("/analytics?window=30s").await;
    assert_eq!(
        (&short["placed"], &short["completed"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(
        (&short["conversion"], &short["duration_ms"]),
        (&Value::Null, &Value::Null)
    );
    for path in [
        "/analytics?window=0s",
        "/analytics?window=1w",
        "/analytics?color=red",
    ] {
        assert_eq!(forth.get(path).await.0, 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_any_order_add_up_to_the_same_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |name: &str| {
        let path = folder.path().join(name);
        std::fs::File::create(&path).unwrap();
        let url = format!("sqlite://{}", path.display());
        Shop::new(
            Db::<Sqlite>::open(&url, OpenOptions::default())
                .await
                .unwrap(),
        )
        .await
    };
    messages_in_any_order_add_up_to_the_same(open("1.db").await, open("2.db").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_any_order_add_up_to_the_same_on_postgres() {
    let open = async || {
        let url = postgres::shared().unwrap().create_database().unwrap();
        Shop::new(
            Db::<Postgres>::open(&url, OpenOptions::default())
                .await
                .unwrap(),
        )
        .await
    };
    messages_in_any_order_add_up_to_the_same(open().await, open().await).await;
}
