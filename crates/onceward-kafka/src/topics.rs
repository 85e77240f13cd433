//! Topics as they are wanted, held against those that exist: what would change, and changing it.
//!
//! Nothing is ever deleted, and what would break the order of keys is refused: see [`TopicChange`].

use std::collections::BTreeMap;

use onceward::publisher::BrokerError;

use crate::admin::{Admin, TopicSettings, min_in_sync_of};
use crate::ffi::TopicDescription;

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTopic {
    /// Its name.
    pub name: String,
    /// Number of partitions, from 1.
    pub partitions: i32,
    /// Copies of each partition; `None` makes as many as there are brokers, at most three, and takes an
    /// existing topic as it is.
    pub copies: Option<i32>,
    /// Whether its records have keys, whose order more partitions would break.
    pub keyed: bool,
    /// How long records stay, in milliseconds, -1 for ever; `None` leaves that to the brokers.
    pub retention_ms: Option<i64>,
    /// Whether only the last record of a key stays; `None` leaves that to the brokers.
    pub compacted: Option<bool>,
}

/// What must change for a topic to be as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicChange {
    /// It does not exist: make it.
    Make {
        /// The topic.
        topic: String,
        /// Its partitions.
        partitions: i32,
        /// Their copies.
        copies: i32,
        /// Its settings, by Kafka's names.
        settings: BTreeMap<String, String>,
    },
    /// A setting has another value.
    Set {
        /// The topic.
        topic: String,
        /// Kafka's name of the setting.
        setting: String,
        /// The value it has.
        from: String,
        /// The value it is to have.
        to: String,
    },
    /// It has too few partitions, and either no keys or was drained.
    Grow {
        /// The topic.
        topic: String,
        /// Partitions it has.
        from: i32,
        /// Partitions it is to have.
        to: i32,
        /// Whether it has keys: then the relays of its sources must be told
        /// (`--accept-repartitioned`).
        keyed: bool,
    },
    /// This can't be done, or not safely.
    Refused {
        /// The topic.
        topic: String,
        /// Why, and what to do instead.
        why: String,
    },
}

impl TopicChange {
    /// The topic it is about.
    pub fn topic(&self) -> &str {
        match self {
            Self::Make { topic, .. }
            | Self::Set { topic, .. }
            | Self::Grow { topic, .. }
            | Self::Refused { topic, .. } => topic,
        }
    }
}

/// A topic as it is.
struct Existing {
    description: TopicDescription,
    settings: TopicSettings,
}

impl Admin {
    /// What must change, topic by topic. Keys of `drained` topics may move.
    pub(crate) fn plan_topics(
        &self,
        wanted: &[WantedTopic],
        drained: &[String],
    ) -> Result<Vec<TopicChange>, BrokerError> {
        let names: Vec<String> = wanted.iter().map(|topic| topic.name.clone()).collect();
        let mut found = self.describe(&names)?;
        let there: Vec<String> = found.keys().cloned().collect();
        let mut settings = self.settings(&there)?;
        let copies = i32::try_from(self.copies_wanted()?).unwrap_or(1);
        let changes = wanted.iter().flat_map(|topic| {
            let existing = found.remove(&topic.name).map(|description| Existing {
                description,
                settings: settings.remove(&topic.name).unwrap_or_default(),
            });
            match existing {
                None => vec![making(topic, topic.copies.unwrap_or(copies))],
                Some(existing) => changing(topic, &existing, drained.contains(&topic.name)),
            }
        });
        Ok(changes.collect())
    }

    /// Carries changes out, one after the other; those that are refused are passed over.
    pub(crate) fn apply_topics(&self, changes: &[TopicChange]) -> Result<(), BrokerError> {
        let mut made = Vec::new();
        for change in changes {
            match change {
                TopicChange::Make {
                    topic,
                    partitions,
                    copies,
                    settings,
                } => {
                    let settings = settings.iter().map(|(name, value)| (&**name, &**value));
                    let settings: Vec<(&str, &str)> = settings.collect();
                    self.make(topic, *partitions, *copies, &settings)?;
                    made.push(topic.clone());
                }
                TopicChange::Set {
                    topic, setting, to, ..
                } => self.set(topic, setting, to)?,
                TopicChange::Grow { topic, to, .. } => self.grow(topic, *to)?,
                TopicChange::Refused { .. } => {}
            }
        }
        self.describe_when_made(&made).map(drop)
    }
}

fn making(topic: &WantedTopic, copies: i32) -> TopicChange {
    let min_in_sync = min_in_sync_of(usize::try_from(copies).unwrap_or(1));
    let mut settings = settings_of(topic);
    settings.insert("min.insync.replicas".into(), min_in_sync.to_string());
    TopicChange::Make {
        topic: topic.name.clone(),
        partitions: topic.partitions,
        copies,
        settings,
    }
}

/// The settings that the topic is to have, whatever its copies.
fn settings_of(topic: &WantedTopic) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([(
        "unclean.leader.election.enable".to_owned(),
        "false".to_owned(),
    )]);
    if let Some(retention) = topic.retention_ms {
        settings.insert("retention.ms".into(), retention.to_string());
    }
    if let Some(compacted) = topic.compacted {
        // With a retention too, a compacted topic also forgets by age.
        let policy = match (compacted, topic.retention_ms) {
            (true, Some(0..)) => "compact,delete",
            (true, _) => "compact",
            (false, _) => "delete",
        };
        settings.insert("cleanup.policy".into(), policy.into());
    }
    settings
}

fn changing(topic: &WantedTopic, existing: &Existing, is_drained: bool) -> Vec<TopicChange> {
    let name = || topic.name.clone();
    let refused = |why: String| TopicChange::Refused { topic: name(), why };
    let mut changes = Vec::new();
    let partitions = i32::try_from(existing.description.partitions.len()).unwrap_or(i32::MAX);
    if topic.partitions < partitions {
        changes.push(refused(format!(
            "it has {partitions} partitions and should have {}: Kafka can't take partitions away",
            topic.partitions
        )));
    } else if topic.partitions > partitions && topic.keyed && !is_drained {
        changes.push(refused(format!(
            "it has {partitions} partitions and should have {}: its keys would move, and overtake what is \
             unread of them. Drain it first: stop its writers, wait until the relays have published all \
             of it and every consumer has read it; then say so (--drained {}), and start the relays of \
             its sources once with --accept-repartitioned {}",
            topic.partitions, topic.name, topic.name
        )));
    } else if topic.partitions > partitions {
        changes.push(TopicChange::Grow {
            topic: name(),
            from: partitions,
            to: topic.partitions,
            keyed: topic.keyed,
        });
    }
    let copies = existing.description.partitions.iter();
    let copies = copies.map(|partition| partition.replica_count).min();
    let copies = copies.unwrap_or_default();
    if let Some(wanted) = topic.copies
        && usize::try_from(wanted) != Ok(copies)
    {
        changes.push(refused(format!(
            "it has {copies} copies and should have {wanted}: copies are moved by Kafka's own \
             kafka-reassign-partitions.sh"
        )));
    }
    let mut settings = settings_of(topic);
    // Only raised: more is safer, and somebody's choice.
    let min_in_sync = existing.settings.number("min.insync.replicas");
    let least = i64::try_from(min_in_sync_of(copies)).unwrap_or(1);
    if min_in_sync.unwrap_or_default() < least {
        settings.insert("min.insync.replicas".into(), least.to_string());
    }
    for (setting, to) in settings {
        let from = existing.settings.text(&setting);
        if !is_same(from, &to) {
            changes.push(TopicChange::Set {
                topic: name(),
                from: from.to_owned(),
                setting,
                to,
            });
        }
    }
    changes
}

/// Whether two values mean the same; in a list (`compact,delete`) order means nothing.
fn is_same(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let mut parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
        parts.sort();
        parts
    };
    parts(one) == parts(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::PartitionDescription;

    fn wanted(partitions: i32) -> WantedTopic {
        WantedTopic {
            name: "t".into(),
            partitions,
            copies: None,
            keyed: true,
            retention_ms: None,
            compacted: None,
        }
    }

    fn existing(partitions: i32, copies: usize, settings: &[(&str, &str)]) -> Existing {
        let partition = |partition| PartitionDescription {
            partition,
            leader: Some(1),
            replica_count: copies,
            in_sync_count: copies,
        };
        Existing {
            description: TopicDescription {
                id: "id".into(),
                partitions: (0..partitions).map(partition).collect(),
            },
            settings: TopicSettings::of(settings),
        }
    }

    const SAFE: (&str, &str) = ("unclean.leader.election.enable", "false");

    #[test]
    fn a_topic_as_it_is_wanted_changes_nothing() {
        let settings = [
            SAFE,
            ("min.insync.replicas", "2"),
            ("cleanup.policy", "delete,compact"),
            ("retention.ms", "1000"),
        ];
        let topic = WantedTopic {
            copies: Some(3),
            retention_ms: Some(1_000),
            compacted: Some(true),
            ..wanted(2)
        };
        assert_eq!(changing(&topic, &existing(2, 3, &settings), false), []);
    }

    #[test]
    fn keys_move_only_where_the_topic_was_drained_and_nothing_shrinks() {
        let settings = [SAFE, ("min.insync.replicas", "1")];
        let now = existing(3, 1, &settings);
        let one = |topic: &WantedTopic, drained| match &changing(topic, &now, drained)[..] {
            [change] => change.clone(),
            other => unreachable!("{other:?}"),
        };
        let grown = |keyed| TopicChange::Grow {
            topic: "t".into(),
            from: 3,
            to: 6,
            keyed,
        };
        let TopicChange::Refused { why, .. } = one(&wanted(6), false) else {
            unreachable!("keys would move");
        };
        assert!(why.contains("--drained t"), "{why}");
        assert_eq!(one(&wanted(6), true), grown(true));
        let keyless = WantedTopic {
            keyed: false,
            ..wanted(6)
        };
        assert_eq!(one(&keyless, false), grown(false));
        for (topic, drained) in [
            (wanted(2), true),
            (
                WantedTopic {
                    copies: Some(3),
                    ..wanted(3)
                },
                true,
            ),
        ] {
            assert!(matches!(one(&topic, drained), TopicChange::Refused { .. }));
        }
    }

    #[test]
    fn what_lets_kafka_lose_records_is_mended_and_more_safety_is_left() {
        let unsafe_one = existing(
            1,
            3,
            &[
                ("unclean.leader.election.enable", "true"),
                ("min.insync.replicas", "1"),
            ],
        );
        let changes = changing(&wanted(1), &unsafe_one, false);
        let set: Vec<_> = changes
            .iter()
            .map(|change| match change {
                TopicChange::Set { setting, to, .. } => (setting.as_str(), to.as_str()),
                other => unreachable!("{other:?}"),
            })
            .collect();
        let safer = ("min.insync.replicas", "2");
        assert_eq!(set, [safer, SAFE]);
        let safest = existing(1, 3, &[SAFE, ("min.insync.replicas", "3")]);
        assert_eq!(changing(&wanted(1), &safest, false), []);
    }
}
