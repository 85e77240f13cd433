//! Which topic a message type goes to.

use std::collections::BTreeMap;

/// Message type → topic. Without an entry the topic is the type without its version:
/// `order.created.v1` → `order.created`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    topics: BTreeMap<String, String>,
}

impl Routing {
    /// Routes `message_type` to `topic` instead of the default.
    #[must_use]
    pub fn with(mut self, message_type: impl Into<String>, topic: impl Into<String>) -> Self {
        self.topics.insert(message_type.into(), topic.into());
        self
    }

    /// The topic of a message type.
    pub fn topic<'a>(&'a self, message_type: &'a str) -> &'a str {
        self.topics
            .get(message_type)
            .map_or_else(|| default_topic(message_type), String::as_str)
    }
}

/// Whether Kafka allows a topic of this name: 1 to 249 letters, digits, dots, underscores and
/// hyphens, but not `.` or `..` (Kafka's `Topic.validate`).
pub fn is_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn default_topic(message_type: &str) -> &str {
    match message_type.rsplit_once(".v") {
        Some((topic, version))
            if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()) =>
        {
            topic
        }
        _ => message_type,
    }
}

#[cfg(test)]
mod tests {
    use super::Routing;

    #[test]
    fn the_default_topic_is_the_type_without_its_version() {
        let routing = Routing::default().with("a.b.v2", "elsewhere");
        assert_eq!(routing.topic("order.created.v1"), "order.created");
        assert_eq!(routing.topic("order.vetoed"), "order.vetoed");
        assert_eq!(routing.topic("a.b.v2"), "elsewhere");
    }
}
