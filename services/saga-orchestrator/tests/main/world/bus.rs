//! The bus: what a service says goes to all that handle it, in an order nobody has promised, more than once.

use bytes::Bytes;
use contracts::order;
use onceward::{
    Clock, Coordinates, CorrelationId, Envelope, Event, IdGen, MessageId, SystemClock, UuidV7,
};
use onceward_saga::SagaBackend;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use super::{Node, World};

/// How unkind the bus is.
#[derive(Debug, Clone, Copy)]
pub struct Unkindness {
    /// Every message is delivered so many times.
    pub copies: usize,
    /// Every delivery is handled and rolled back once before it counts.
    pub crashes: bool,
    /// Which message comes next, of all that could.
    pub seed: u64,
}

pub(super) const KIND: Unkindness = Unkindness {
    copies: 1,
    crashes: false,
    seed: 0,
};

impl<B: SagaBackend> World<B> {
    pub fn is(&mut self, unkindness: Unkindness) {
        self.unkindness = unkindness;
        self.rng = StdRng::seed_from_u64(unkindness.seed);
    }

    /// A customer's order, as the order service would say it.
    pub fn order(&mut self, user_id: &str, product_id: &str, quantity: i64, minor: i64) -> Uuid {
        let order_id = UuidV7.next();
        let created = order::Created {
            order_id,
            user_id: user_id.into(),
            product_id: product_id.into(),
            quantity,
            amount_minor: minor,
        };
        let payload = serde_json::to_vec(&created).unwrap();
        let envelope = envelope(
            UuidV7.next(),
            order::Created::TYPE,
            "order.created",
            payload,
        );
        self.enqueue("order", envelope);
        order_id
    }

    pub fn stop(&mut self, service: &'static str) {
        self.down.insert(service);
    }
    pub fn start(&mut self, service: &'static str) {
        self.down.remove(service);
    }
    /// The service works, and nobody hears of it.
    pub fn cut_off(&mut self, service: &'static str) {
        self.mute.insert(service);
    }
    pub fn reconnect(&mut self, service: &'static str) {
        self.mute.remove(service);
    }

    /// Delivers until nothing is left that could be.
    pub async fn settle(&mut self) {
        self.settle_up_to(usize::MAX).await;
    }

    /// Delivers so many messages, or all there are; how many it did.
    pub async fn settle_up_to(&mut self, most: usize) -> usize {
        for delivered in 0..most {
            self.publish().await;
            let ready: Vec<_> = self
                .queues
                .iter()
                .filter(|((_, topic), queue)| !queue.is_empty() && !self.is_held(topic))
                .map(|(key, _)| key.clone())
                .collect();
            if ready.is_empty() {
                return delivered;
            }
            let key = &ready[self.rng.random_range(0..ready.len())];
            let envelope = self.queues.get_mut(key).unwrap().pop_front().unwrap();
            self.deliver(&envelope).await;
        }
        most
    }

    fn is_held(&self, topic: &str) -> bool {
        let concerned = |node: &&Node<B>| node.topics.contains(topic);
        self.nodes
            .iter()
            .filter(concerned)
            .any(|node| self.down.contains(node.name))
    }

    async fn deliver(&mut self, envelope: &Envelope) {
        let topic = envelope.coordinates.topic.as_str();
        for node in self.nodes.iter().filter(|node| node.topics.contains(topic)) {
            if self.unkindness.crashes {
                let mut tx = node.db.pool().begin_with(B::BEGIN).await.unwrap();
                node.handlers.dispatch(&mut tx, envelope).await.unwrap();
                tx.rollback().await.unwrap();
            }
            let mut tx = node.db.pool().begin_with(B::BEGIN).await.unwrap();
            node.handlers.dispatch(&mut tx, envelope).await.unwrap();
            tx.commit().await.unwrap();
            self.delivered += 1;
        }
    }

    /// What the relay does: new outbox rows go onto the bus.
    async fn publish(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if self.mute.contains(node.name) {
                continue;
            }
            let rows = sqlx::query(
                "select seq, message_id, message_type, topic, message_key, payload, \
                 cast(headers as text) as headers \
                 from outbox where seq > $1 order by seq",
            )
            .bind(node.published)
            .fetch_all(node.db.pool())
            .await
            .unwrap();
            let name = node.name;
            for row in rows {
                self.nodes[index].published = row.try_get("seq").unwrap();
                let key: Option<String> = row.try_get("message_key").unwrap();
                let message_type: String = row.try_get("message_type").unwrap();
                let topic: String = row.try_get("topic").unwrap();
                let payload: Vec<u8> = row.try_get("payload").unwrap();
                assert!(key.is_some(), "{message_type} has a key");
                assert!(self.topics.contains(&topic), "{topic}");
                let id: Uuid = row.try_get("message_id").unwrap();
                let mut envelope = envelope(id, &message_type, &topic, payload);
                let headers: String = row.try_get("headers").unwrap();
                envelope.correlation_id = id_of(&headers, "correlation-id").map(CorrelationId);
                envelope.traceparent = text_of(&headers, "traceparent");
                envelope.source = Some(name.to_owned());
                self.enqueue(name, envelope);
            }
        }
    }

    fn enqueue(&mut self, source: &'static str, envelope: Envelope) {
        let topic = envelope.coordinates.topic.clone();
        let queue = self.queues.entry((source, topic)).or_default();
        for _ in 0..self.unkindness.copies {
            queue.push_back(envelope.clone());
        }
    }
}

/// One of the headers of an outbox row.
fn text_of(headers: &str, name: &str) -> Option<String> {
    let headers: Value = serde_json::from_str(headers).unwrap();
    headers[name].as_str().map(str::to_owned)
}

/// An id among them.
pub(super) fn id_of(headers: &str, name: &str) -> Option<Uuid> {
    text_of(headers, name).map(|id| id.parse().unwrap())
}

fn envelope(id: Uuid, message_type: &str, topic: &str, payload: Vec<u8>) -> Envelope {
    Envelope {
        message_id: Some(MessageId(id)),
        ce_id: Some(id.to_string()),
        source: None,
        message_type: Some(message_type.to_owned()),
        kind: None,
        aggregate_id: None,
        occurred_at: Some(SystemClock.now()),
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        tracestate: None,
        coordinates: Coordinates {
            topic: topic.to_owned(),
            partition: 0,
            offset: 0,
        },
        message_key: None,
        payload: Bytes::from(payload),
        headers: Vec::new(),
    }
}
