//! The world as the order service's clients see it, and what the services have said.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use onceward_saga::SagaBackend;
use sqlx::Row;
use uuid::Uuid;

use super::World;
use super::bus::id_of;

impl<B: SagaBackend> World<B> {
    /// From now on orders are placed with the order service, and it hears what is said about them.
    pub fn open_desk(&mut self) {
        let desk = self.nodes.iter_mut().find(|node| node.name == "order");
        let desk = desk.unwrap();
        desk.topics = desk.handlers.topics(&self.routing);
    }

    /// Places an order at the desk.
    pub async fn place(&self, way: &str, user: &str, product: &str, quantity: i64) -> Uuid {
        let mut order = serde_json::json!({
            "user_id": user, "product_id": product, "quantity": quantity, "amount": 199.99,
        });
        let field = match way {
            "orchestration" => "saga",
            _ => "choreography",
        };
        order[field] = way.into();
        let request = Request::post("/orders").header("traceparent", TRACE);
        let request = request.body(Body::from(order.to_string()));
        let (status, placed) = self.ask("order", request.unwrap()).await;
        assert_eq!(status, 201, "{placed}");
        placed["order_id"].as_str().unwrap().parse().unwrap()
    }

    /// Status and reason of an order, as the desk shows it.
    pub async fn shown(&self, order: Uuid) -> (String, Option<String>) {
        let (_, shown) = self.get("order", &format!("/orders/{order}")).await;
        let text = |name: &str| shown[name].as_str().map(str::to_owned);
        (text("status").unwrap(), text("reason"))
    }

    /// An order's events, as the desk shows them.
    pub async fn events(&self, order: Uuid) -> Vec<Event> {
        let (_, events) = self.get("order", &format!("/orders/{order}/events")).await;
        let items = events["items"].as_array().unwrap().iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        items
            .map(|event| {
                let payload = &event["payload"];
                let about = payload.get("order_id").or(payload.get("orderId"));
                assert_eq!(about, Some(&serde_json::json!(order)));
                let id = text(&event["message_id"]).parse().unwrap();
                (id, text(&event["type"]), text(&event["source"]))
            })
            .collect()
    }

    /// Waits until the deadlines of all choreographed orders have passed, and fires them.
    pub async fn orders_time_out(&mut self) {
        let db = self.nodes[4].db.clone();
        let passing = async {
            let armed = "select count(*) from timer where state = 'armed'";
            while sqlx::query_scalar::<_, i64>(armed)
                .fetch_one(db.pool())
                .await
                .unwrap()
                > 0
            {
                let pause = self.deadlines.fire_due().await.unwrap();
                tokio::time::sleep(pause.min(Duration::from_millis(2))).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), passing)
            .await
            .unwrap();
    }

    /// What was said about an order by all services.
    pub async fn said(&self, order: Uuid) -> Vec<Said> {
        let mut said = Vec::new();
        for node in &self.nodes {
            let rows = sqlx::query(
                "select message_id, message_type, cast(headers as text) as headers from outbox \
                 where message_key = $1 order by seq",
            )
            .bind(order.to_string())
            .fetch_all(node.db.pool())
            .await
            .unwrap();
            said.extend(rows.iter().map(|row| {
                let headers: String = row.try_get("headers").unwrap();
                Said {
                    event: (
                        row.try_get("message_id").unwrap(),
                        row.try_get("message_type").unwrap(),
                        node.name.to_owned(),
                    ),
                    story: id_of(&headers, "correlation-id").unwrap(),
                    cause: id_of(&headers, "causation-id"),
                    is_traced: headers.contains(TRACE),
                }
            }));
        }
        said
    }
}

/// What an order is placed with.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Id, type and source of a message.
pub type Event = (Uuid, String, String);

/// A message about an order.
#[derive(Debug)]
pub struct Said {
    pub event: Event,
    pub story: Uuid,
    pub cause: Option<Uuid>,
    /// Whether it belongs to the trace the order was placed in.
    pub is_traced: bool,
}
