//! Topics as code: the file that says how they should be.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use onceward::is_topic_name;
use onceward_kafka::WantedTopic;
use serde::Deserialize;

use crate::outcome::usage;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What a topic has that does not say otherwise.
    #[serde(default)]
    defaults: Topic,
    topics: BTreeMap<String, Topic>,
}

/// What is said of a topic, or of all.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Topic {
    partitions: Option<i32>,
    replication: Option<i32>,
    keyed: Option<bool>,
    retention: Option<String>,
    compaction: Option<bool>,
}

/// Reads a file; every problem is told at once.
pub(crate) fn read(file: &Path) -> Result<Vec<WantedTopic>> {
    let place = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| usage(format!("can't read {place}: {error}")))?;
    parse(&text).map_err(|problems| usage(format!("{place}: {}", problems.join("; "))))
}

fn parse(text: &str) -> Result<Vec<WantedTopic>, Vec<String>> {
    let file: File = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
    let mut problems = Vec::new();
    if file.topics.is_empty() {
        problems.push("it names no topics".to_owned());
    }
    let mut wanted = Vec::new();
    for (name, topic) in &file.topics {
        match topic.wanted(name, &file.defaults) {
            Ok(topic) => wanted.push(topic),
            Err(why) => problems.push(format!("topic {name}: {why}")),
        }
    }
    if problems.is_empty() {
        Ok(wanted)
    } else {
        Err(problems)
    }
}

impl Topic {
    fn wanted(&self, name: &str, defaults: &Self) -> Result<WantedTopic, String> {
        let problem = |text: &str| Err(text.to_owned());
        if !is_topic_name(name) {
            return problem("Kafka does not allow this name");
        }
        if name.starts_with("outbox.progress.") {
            return problem("the relay alone makes its progress topics");
        }
        let Some(partitions) = self.partitions.or(defaults.partitions) else {
            return problem("partitions are missing");
        };
        let copies = self.replication.or(defaults.replication);
        let keyed = self.keyed.or(defaults.keyed).unwrap_or(true);
        let compacted = self.compaction.or(defaults.compaction);
        if !(1..=10_000).contains(&partitions) {
            return problem("partitions must be 1 to 10000");
        }
        if copies.is_some_and(|copies| !(1..=10).contains(&copies)) {
            return problem("replication must be 1 to 10");
        }
        if compacted == Some(true) && !keyed {
            return problem("compaction needs keys");
        }
        let retention = self.retention.as_ref().or(defaults.retention.as_ref());
        Ok(WantedTopic {
            name: name.to_owned(),
            partitions,
            copies,
            keyed,
            retention_ms: retention.map(|text| retention_ms(text)).transpose()?,
            compacted,
        })
    }
}

/// `30m`, `12h`, `7d` or `forever`, in milliseconds as Kafka has them.
fn retention_ms(text: &str) -> Result<i64, String> {
    if text == "forever" {
        return Ok(-1);
    }
    let wrong =
        || format!("retention {text:?} is not like \"30m\", \"12h\", \"7d\" or \"forever\"");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let minutes = match unit {
        'm' => 1,
        'h' => 60,
        'd' => 24 * 60,
        _ => return Err(wrong()),
    };
    let number = text
        .strip_suffix(unit)
        .and_then(|number| number.parse::<u32>().ok());
    let number = number.filter(|number| *number > 0).ok_or_else(wrong)?;
    Ok(i64::from(number) * minutes * 60_000)
}

#[cfg(test)]
mod tests {
    use super::{parse, retention_ms};

    #[test]
    fn a_topic_has_the_defaults_where_it_says_nothing_itself() {
        let topics = parse(
            "[defaults]\npartitions = 6\nretention = \"7d\"\n\
             [topics]\na = {}\n\
             b = { partitions = 1, replication = 3, retention = \"forever\", compaction = true }\n",
        )
        .unwrap();
        let [a, b] = &topics[..] else {
            unreachable!("{topics:?}")
        };
        assert_eq!((a.partitions, a.copies, a.keyed), (6, None, true));
        assert_eq!((a.retention_ms, a.compacted), (Some(604_800_000), None));
        assert_eq!((b.partitions, b.copies), (1, Some(3)));
        assert_eq!((b.retention_ms, b.compacted), (Some(-1), Some(true)));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let problems = parse(
            "[topics]\n\"not a topic\" = {}\na = {}\nb = { partitions = 0 }\n\
             c = { partitions = 1, retention = \"a week\" }\n\
             d = { partitions = 1, keyed = false, compaction = true }\n\
             \"outbox.progress.order\" = { partitions = 1 }\n",
        )
        .unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:#?}");
        for unknown in ["[topics]\na = { partition = 1 }", "[topic]\n", "[topics]\n"] {
            assert_eq!(parse(unknown).unwrap_err().len(), 1, "{unknown}");
        }
        for wrong in ["", "d", "0d", "-1d", "7 d", "7w", "7ö"] {
            assert!(retention_ms(wrong).is_err(), "{wrong}");
        }
        assert_eq!(retention_ms("90m"), Ok(5_400_000));
    }
}
