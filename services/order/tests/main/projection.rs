//! The projection: whatever the order of the messages, the same end.

use contracts::{inventory, order as orders, payment};
use onceward::consumer::Handler;
use onceward::{Event, MessageContext, MessageId, Outbox, Tx, UuidV7};
use onceward_saga::SagaBackend;
use onceward_saga::{SagaId, StepRef};
use order::Projection;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Shop, on_postgres, on_sqlite};

const GOOD: &str = r#"{"user_id":"u","product_id":"product_1","quantity":2,"amount":1}"#;

impl<B: SagaBackend> Shop<B> {
    async fn placed(&self) -> Uuid {
        let (_, _, body) = self.post(GOOD, &[]).await;
        body["order_id"].as_str().unwrap().parse().unwrap()
    }

    /// Hands a message to the projection, written at `at` microseconds.
    async fn hear<E: Event>(&self, at: i64, message: E)
    where
        Projection: Handler<B, E>,
    {
        let payload = serde_json::to_vec(&message).unwrap();
        let heard = self.db.write(async move |tx: &mut Tx<'static, B>| {
            let projection = Projection::new(Outbox::new("order".parse().unwrap()));
            let mut context = MessageContext::start(&UuidV7);
            context.caused_at = Some(at);
            context.causation_id = Some(MessageId(Uuid::from_u128(at.try_into().unwrap())));
            context.caused_in = Some("elsewhere".into());
            let message: E = serde_json::from_slice(&payload).unwrap();
            projection.handle(tx, &context, message).await
        });
        heard.await.unwrap();
    }

    async fn shown(&self, id: Uuid) -> (String, Option<String>, Vec<String>) {
        let (_, _, order) = self.get(&format!("/orders/{id}")).await;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let steps = order["steps"].as_array().unwrap();
        (
            text(&order["status"]).unwrap(),
            text(&order["reason"]),
            steps
                .iter()
                .skip(1)
                .map(|step| text(&step["step"]).unwrap())
                .collect(),
        )
    }
}

fn step(order_id: Uuid, name: &str) -> StepRef {
    StepRef {
        saga_id: SagaId(order_id),
        step: name.into(),
        branch: 0,
        attempt: 1,
    }
}

fn release(order_id: Uuid) -> inventory::Release {
    inventory::Release {
        saga: step(order_id, "inventory"),
        order_id,
        product_id: "product_1".into(),
        quantity: 2,
        reason: "timed out".into(),
    }
}

fn cancelled(order_id: Uuid) -> orders::Cancelled {
    orders::Cancelled {
        order_id,
        saga_id: SagaId(order_id),
        reason: "timed out".into(),
    }
}

async fn a_status_never_moves_back<B: SagaBackend>(shop: &Shop<B>) {
    let at = 4_000_000_000_000_000; // after order.created
    let id = shop.placed().await;
    shop.hear(at + 2, release(id)).await;
    let timed_out = Some("timed out".to_owned());
    assert_eq!(
        shop.shown(id).await,
        (
            "cancelling".into(),
            timed_out.clone(),
            vec!["inventory.release".into()]
        )
    );
    shop.hear(at + 3, cancelled(id)).await;
    // Late ones: another compensation, a repeated command, a reply from before.
    shop.hear(
        at + 1,
        payment::Refund {
            saga: step(id, "payment"),
            order_id: id,
            user_id: "u".into(),
            amount_minor: 100,
            reason: "another".into(),
        },
    )
    .await;
    shop.hear(at + 9, release(id)).await;
    let steps = ["payment.refund", "inventory.release", "order.cancelled"]
        .map(String::from)
        .to_vec();
    assert_eq!(shop.shown(id).await, ("failed".into(), timed_out, steps));

    let id = shop.placed().await;
    let completed = orders::Completed {
        order_id: id,
        saga_id: SagaId(id),
    };
    shop.hear(at, completed).await;
    shop.hear(at + 1, release(id)).await;
    shop.hear(at + 2, cancelled(id)).await;
    let (status, reason, _) = shop.shown(id).await;
    assert_eq!((status.as_str(), reason), ("completed", None));
}

#[tokio::test]
async fn a_status_never_moves_back_on_sqlite() {
    a_status_never_moves_back(&on_sqlite().await).await;
}

#[tokio::test]
async fn a_status_never_moves_back_on_postgres() {
    a_status_never_moves_back(&on_postgres().await).await;
}

async fn the_events_of_an_order_tell_what_was_said<B: SagaBackend>(shop: &Shop<B>) {
    let id = shop.placed().await;
    let at = 4_000_000_000_000_000;
    shop.hear(at, release(id)).await;
    shop.hear(at + 1, release(id)).await; // sent again
    let (status, _, events) = shop.get(&format!("/orders/{id}/events")).await;
    assert_eq!(status, 200);
    assert_eq!(events["items"].as_array().unwrap().len(), 2, "{events}");
    let (created, released) = (&events["items"][0], &events["items"][1]);
    let row: (Uuid, String, Vec<u8>) =
        sqlx::query_as("select message_id, topic, payload from outbox")
            .fetch_one(shop.db.pool())
            .await
            .unwrap();
    assert_eq!(created["message_id"], row.0.to_string());
    assert_eq!(created["topic"], row.1);
    assert_eq!(created["source"], "order");
    let payload: Value = serde_json::from_slice(&row.2).unwrap();
    assert_eq!(created["payload"], payload);
    assert_eq!(
        released,
        &json!({
            "message_id": Uuid::from_u128(at.try_into().unwrap()),
            "type": "inventory.release.v1",
            "topic": "inventory.release",
            "source": "elsewhere",
            "at": "2096-10-02T07:06:40.000000Z",
            "payload": release(id),
        })
    );

    // What an older version noted.
    sqlx::query(
        "update order_step set message_id = null, message_type = null, source = null, payload = null",
    )
    .execute(shop.db.pool())
    .await
    .unwrap();
    let (_, _, events) = shop.get(&format!("/orders/{id}/events")).await;
    let old = &events["items"][1];
    assert_eq!(old["topic"], "inventory.release");
    assert_eq!(
        (&old["type"], &old["payload"]),
        (&Value::Null, &Value::Null)
    );

    let (status, _, _) = shop.get(&format!("/orders/{}/events", Uuid::nil())).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn the_events_of_an_order_tell_what_was_said_on_sqlite() {
    the_events_of_an_order_tell_what_was_said(&on_sqlite().await).await;
}

#[tokio::test]
async fn the_events_of_an_order_tell_what_was_said_on_postgres() {
    the_events_of_an_order_tell_what_was_said(&on_postgres().await).await;
}
