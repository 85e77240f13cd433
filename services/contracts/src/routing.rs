//! Which topic each message goes to: presets, and files of one's own.
//!
//! Consumers refuse types that they do not know, so each message type has a topic of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use onceward::{Event, Routing, is_topic_name};
use serde::Deserialize;

use crate::{customer, delivery, inventory, message_types, order, payment, pipeline};

/// Topics of a preset that are not the default ones: message type, topic.
type Preset = &'static [(&'static str, &'static str)];

/// The presets by name.
pub const PRESETS: [(&str, Preset); 3] = [
    ("default", &[]),
    ("request-reply", REQUEST_REPLY),
    ("pipeline", PIPELINE),
];

/// Commands are requests, and a payment succeeds.
const REQUEST_REPLY: Preset = &[
    (customer::Release::TYPE, "customer.release.request"),
    (inventory::Reserve::TYPE, "inventory.reserve.request"),
    (inventory::Release::TYPE, "inventory.release.request"),
    (payment::Process::TYPE, "payment.process.request"),
    (payment::Completed::TYPE, "payment.succeeded"),
    (payment::Refund::TYPE, "payment.refund.request"),
    (delivery::Schedule::TYPE, "delivery.schedule.request"),
    (delivery::Cancel::TYPE, "delivery.cancel.request"),
];

/// The facts of the pipeline have the bare names, and who can't be told apart from them is a saga's.
const PIPELINE: Preset = &[
    (pipeline::OrderCreated::TYPE, "order_created"),
    (pipeline::OrderTimedOut::TYPE, "order_timed_out"),
    (pipeline::OrderPaid::TYPE, "order_paid"),
    (pipeline::PaymentFailed::TYPE, "payment_failed"),
    (pipeline::PaymentRefunded::TYPE, "payment_refunded"),
    (pipeline::InventoryReserved::TYPE, "inventory_reserved"),
    (pipeline::InventoryFailed::TYPE, "inventory_failed"),
    (pipeline::InventoryReleased::TYPE, "inventory_released"),
    (pipeline::OrderShipped::TYPE, "order_shipped"),
    (pipeline::ShipmentReturned::TYPE, "shipment_returned"),
    (pipeline::OrderDelivered::TYPE, "order_delivered"),
    (pipeline::DeliveryFailed::TYPE, "delivery_failed"),
    (pipeline::DeliveryCancelled::TYPE, "delivery_cancelled"),
    (order::Created::TYPE, "saga.order.created"),
    (payment::Failed::TYPE, "saga.payment.failed"),
    (payment::Refunded::TYPE, "saga.payment.refunded"),
    (inventory::Reserved::TYPE, "saga.inventory.reserved"),
    (inventory::Failed::TYPE, "saga.inventory.failed"),
    (inventory::Released::TYPE, "saga.inventory.released"),
    (delivery::Failed::TYPE, "saga.delivery.failed"),
    (delivery::Cancelled::TYPE, "saga.delivery.cancelled"),
];

/// Why there is no routing.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// No preset is called so, and no such file can be read.
    #[error(
        "{name} is neither a preset ({}) nor a file that can be read",
        preset_names()
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// What became of reading it as a file.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML with a table `[topics]`.
    #[error("{} is no routing file", file.display())]
    NoRouting {
        /// The file.
        file: PathBuf,
        /// Where it is wrong.
        #[source]
        source: toml::de::Error,
    },
    /// Services can't work with this routing; all that is wrong with it.
    #[error("{}", problems.join("; "))]
    Unfit {
        /// One sentence each.
        problems: Vec<String>,
    },
}

/// A file of routes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Message type, topic; the others keep their default topics.
    topics: BTreeMap<String, String>,
}

/// The routing of the preset that is called so, or of the file at this path:
///
/// ```toml
/// [topics]
/// "order.created.v1" = "acme.orders.new"
/// ```
///
/// # Errors
/// Neither is there, or the routing is unfit: it names an unknown message type or a topic that Kafka does not
/// allow, or two types do not get topics that Kafka can tell apart.
pub fn read(name: &str) -> Result<Routing, RoutingError> {
    if let Some((_, topics)) = PRESETS.into_iter().find(|(preset, _)| *preset == name) {
        return Ok(routing(topics.iter().copied()));
    }
    let file = PathBuf::from(name);
    let text = std::fs::read_to_string(&file).map_err(|source| RoutingError::Unknown {
        name: name.to_owned(),
        source,
    })?;
    let read: Result<File, _> = toml::from_str(&text);
    let File { topics } = read.map_err(|source| RoutingError::NoRouting { file, source })?;
    let problems = problems(&topics);
    match problems.is_empty() {
        true => Ok(routing(topics)),
        false => Err(RoutingError::Unfit { problems }),
    }
}

fn routing<S: Into<String>>(topics: impl IntoIterator<Item = (S, S)>) -> Routing {
    let with = |routing: Routing, (known, topic)| routing.with(known, topic);
    topics.into_iter().fold(Routing::default(), with)
}

fn preset_names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

/// All that is wrong with these topics, beside the default ones of the other types.
fn problems(topics: &BTreeMap<String, String>) -> Vec<String> {
    let known: BTreeSet<&str> = message_types().collect();
    let mut problems = Vec::new();
    for (asked, topic) in topics {
        if !known.contains(&**asked) {
            let nearest = known
                .iter()
                .min_by_key(|known| strsim::levenshtein(known, asked));
            problems.push(format!(
                "{asked} is no message type; the nearest is {}",
                nearest.unwrap_or(&"")
            ));
        }
        if !is_topic_name(topic) {
            problems.push(format!("Kafka does not allow the topic name {topic:?}"));
        }
    }
    let routing = routing(topics.clone());
    // Kafka's names of metrics have `_` for `.`, so it holds the two for the same.
    let mut taken: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for known in known {
        let topic = routing.topic(known);
        match taken.insert(topic.replace('.', "_"), (known, topic)) {
            None => {}
            Some((other, same)) if same == topic => problems.push(format!(
                "{other} and {known} both go to {topic}: each message type needs a topic of its own"
            )),
            Some((_, like)) => problems.push(format!(
                "Kafka refuses {topic} beside {like}: in the names of its metrics . and _ are the same"
            )),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(text: &str) -> Result<Routing, RoutingError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path().to_str().unwrap())
    }

    #[test]
    fn every_preset_is_fit() {
        for (name, topics) in PRESETS {
            let topics = topics
                .iter()
                .map(|(known, to)| (known.to_string(), to.to_string()));
            assert_eq!(problems(&topics.collect()), [""; 0], "{name}");
        }
        let routing = read("request-reply").unwrap();
        assert_eq!(routing.topic("payment.completed.v1"), "payment.succeeded");
        assert_eq!(routing.topic("payment.failed.v1"), "payment.failed");
    }

    #[test]
    fn a_file_routes_what_it_names_and_leaves_the_rest() {
        let routing = of_file("[topics]\n\"order.created.v1\" = \"acme.orders\"\n").unwrap();
        assert_eq!(routing.topic("order.created.v1"), "acme.orders");
        assert_eq!(routing.topic("order.completed.v1"), "order.completed");
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let unfit = of_file(
            "[topics]\n\"order.create.v1\" = \"a\"\n\"order.created.v1\" = \"two words\"\n\
             \"payment.failed.v1\" = \"payment.refunded\"\n\"payment.refund.v1\" = \"payment_process\"\n",
        );
        let told = unfit.unwrap_err().to_string();
        for part in [
            "order.create.v1 is no message type; the nearest is order.created.v1",
            "Kafka does not allow the topic name \"two words\"",
            "payment.failed.v1 and payment.refunded.v1 both go to payment.refunded",
            "Kafka refuses payment_process beside payment.process",
        ] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        let told = read("piepline").unwrap_err().to_string();
        assert!(
            told.contains("(default, request-reply, pipeline)"),
            "{told}"
        );
        assert!(of_file("topics = 1").is_err());
    }
}
