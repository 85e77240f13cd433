//! A second, independent decoder of the progress record.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use uuid::Uuid;

/// The newest form this reader knows: changes, to be added to an earlier record.
const FORMAT: u64 = 2;

/// The last row a source has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRow {
    /// Its sequence number.
    pub seq: i64,
    /// Its message id.
    pub message_id: Uuid,
}

/// What an auditor needs of a progress record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressView {
    /// The outbox it belongs to.
    pub source_id: Uuid,
    /// Raised by reset.
    pub epoch: i64,
    /// The cursor, as JSON.
    pub cursor: Value,
    /// Rows published.
    pub position: i64,
    /// Rows published or parked.
    pub passed: i64,
    /// Wrapping sum of the message ids passed.
    pub id_sum: u128,
    /// The last row passed.
    pub last: Option<LastRow>,
    /// Topic → partition → position of the last record there.
    pub partitions: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Offset of the record that tells of all partitions, if this one tells only what changed since.
    pub builds_on: Option<i64>,
    /// Offset of this record in the progress topic.
    pub offset: i64,
}

impl ProgressView {
    /// Decodes the value of a record of `outbox.progress.<source>`.
    pub fn decode(value: &[u8], offset: i64) -> Result<Self> {
        let json: Value = serde_json::from_slice(value).context("progress is not JSON")?;
        let format = json["format"].as_u64().context("format is missing")?;
        ensure!(
            format <= FORMAT,
            "progress has form {format}, this auditor knows up to {FORMAT}"
        );
        let number = |name: &str| {
            let value = json[name].as_i64();
            value.with_context(|| format!("{name} is missing"))
        };
        let last = match &json["last"] {
            Value::Null => None,
            row => Some(LastRow {
                seq: row["seq"].as_i64().context("last.seq is missing")?,
                message_id: uuid(&row["message_id"])?,
            }),
        };
        let mut partitions = BTreeMap::new();
        match &json["partitions"] {
            Value::Object(topics) => {
                for (topic, of_topic) in topics {
                    let mut positions = BTreeMap::new();
                    for (partition, position) in of_topic.as_object().into_iter().flatten() {
                        let position = position.as_i64().context("a position is not a number")?;
                        positions.insert(partition.parse()?, position);
                    }
                    partitions.insert(topic.clone(), positions);
                }
            }
            other => bail!("partitions is {other}, not an object"),
        }
        Ok(Self {
            source_id: uuid(&json["source_id"])?,
            epoch: number("epoch")?,
            cursor: json["cursor"].clone(),
            position: number("position")?,
            passed: number("passed")?,
            id_sum: u128::from_str_radix(json["id_sum"].as_str().unwrap_or("0"), 16)?,
            last,
            partitions,
            builds_on: json["partitions_since"].as_i64(),
            offset,
        })
    }

    /// Adds the partitions that have not changed since `earlier`, which stands where this builds on.
    pub fn build_on(&mut self, earlier: Self) -> Result<()> {
        ensure!(
            self.builds_on == Some(earlier.offset) && earlier.builds_on.is_none(),
            "progress builds on offset {:?}, where there is none to build on",
            self.builds_on
        );
        for (topic, positions) in earlier.partitions {
            let known = self.partitions.entry(topic).or_default();
            for (partition, position) in positions {
                known.entry(partition).or_insert(position);
            }
        }
        Ok(())
    }
}

fn uuid(value: &Value) -> Result<Uuid> {
    value
        .as_str()
        .context("an id is missing")?
        .parse()
        .context("an id is not a UUID")
}

#[cfg(test)]
mod tests {
    use super::ProgressView;

    #[test]
    fn a_progress_record_is_read_as_it_is_written() {
        let text = br#"{"format":1,"source_id":"01920000-0000-7000-8000-000000000001","epoch":2,
            "cursor":{"seq":7},"position":5,"passed":6,"id_sum":"00","last":{"seq":7,
            "message_id":"01920000-0000-7000-8000-000000000007"},
            "partitions":{"order.created":{"0":3,"2":5}}}"#;
        let view = ProgressView::decode(text, 40).unwrap();
        assert_eq!((view.epoch, view.position, view.passed), (2, 5, 6));
        assert_eq!(view.partitions["order.created"][&2], 5);
        assert_eq!(view.last.unwrap().seq, 7);
        assert_eq!(view.builds_on, None);
    }

    #[test]
    fn changes_are_added_to_what_they_build_on() {
        let record = |more: &str, partitions: &str, offset| {
            let text = format!(
                r#"{{"format":2,"source_id":"01920000-0000-7000-8000-000000000001","epoch":0,
                "cursor":{{"seq":7}},"position":9,"passed":9,"id_sum":"00","last":null{more},
                "partitions":{partitions}}}"#
            );
            ProgressView::decode(text.as_bytes(), offset).unwrap()
        };
        let full = record("", r#"{"a":{"0":3,"2":5},"b":{"0":1}}"#, 40);
        let mut view = record(
            r#","partitions_since":40"#,
            r#"{"a":{"2":9},"c":{"0":8}}"#,
            44,
        );
        view.build_on(full.clone()).unwrap();
        let of = |topic: &str| view.partitions[topic].clone();
        assert_eq!(of("a"), [(0, 3), (2, 9)].into());
        assert_eq!((of("b"), of("c")), ([(0, 1)].into(), [(0, 8)].into()));

        let mut elsewhere = record(r#","partitions_since":41"#, "{}", 44);
        assert!(elsewhere.build_on(full).is_err());
    }

    #[test]
    fn a_newer_form_is_refused() {
        let error = ProgressView::decode(br#"{"format":3}"#, 0).unwrap_err();
        assert!(error.to_string().contains("knows up to 2"), "{error}");
    }
}
