//! A record on its way into the database: envelope, identity, and how it is stored.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::error_text::clean;
use super::{Record, TopicPartition};
use crate::{Coordinates, Envelope, Error, MessageKind, Micros, Result, header};

/// What the inbox dedupes on, within one consumer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub ce_source: String,
    pub ce_id: String,
}

/// Longest `ce_source` or `ce_id` that is indexed, in bytes: Postgres refuses long index entries.
const MAX_ID_BYTES: usize = 500;

/// A record, ready to be handled or stored.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub at: TopicPartition,
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub envelope: Envelope,
    pub identity: Identity,
    /// Why no handler may see it.
    pub defect: Option<String>,
    /// Size in memory, roughly.
    pub bytes: usize,
}

impl Entry {
    /// Never fails: what can't be used becomes a defect.
    pub(super) fn new(record: Record, topic_id: &str) -> Self {
        let bytes = record.bytes();
        let mut defect = record.defect;
        let text = |name: &str| -> Result<Option<String>, String> {
            let Some((_, value)) = record.headers.iter().find(|(n, _)| n == name) else {
                return Ok(None);
            };
            match std::str::from_utf8(value) {
                Ok(text) if !text.contains('\0') => Ok(Some(text.to_owned())),
                _ => Err(format!("header {name} is not text")),
            }
        };
        let mut read = |name: &str| {
            text(name).unwrap_or_else(|why| {
                defect.get_or_insert(why);
                None
            })
        };
        let ce_id = read(header::CE_ID);
        let source = read(header::CE_SOURCE);
        let message_type = read(header::CE_TYPE);
        let format = read(header::HEADER_FORMAT);
        let envelope = Envelope {
            message_id: ce_id.as_deref().and_then(|id| id.parse().ok()),
            kind: read(header::KIND).as_deref().and_then(kind),
            aggregate_id: read(header::CE_SUBJECT),
            occurred_at: read(header::CE_TIME).as_deref().and_then(micros),
            correlation_id: read(header::CORRELATION_ID).and_then(|id| id.parse().ok()),
            causation_id: read(header::CAUSATION_ID).and_then(|id| id.parse().ok()),
            traceparent: read(header::TRACEPARENT),
            tracestate: read(header::TRACESTATE),
            coordinates: Coordinates {
                topic: record.at.topic.to_string(),
                partition: record.at.partition,
                offset: record.offset,
            },
            ce_id,
            source,
            message_type,
            message_key: record.key,
            payload: record.payload,
            headers: record.headers,
        };
        if let Some(format) = format.filter(|format| header::is_newer(format)) {
            defect.get_or_insert_with(|| {
                format!(
                    "its header format {format} is newer than {}, which this program knows; upgrade \
                     it, then replay",
                    header::FORMAT
                )
            });
        }
        let identity = match (&envelope.source, &envelope.ce_id) {
            (Some(source), Some(id))
                if !source.is_empty()
                    && !id.is_empty()
                    && source.len() <= MAX_ID_BYTES
                    && id.len() <= MAX_ID_BYTES =>
            {
                Identity {
                    ce_source: source.clone(),
                    ce_id: id.clone(),
                }
            }
            _ => Identity {
                ce_source: String::new(),
                ce_id: format!("{topic_id}/{}/{}", record.at.partition, record.offset),
            },
        };
        Self {
            at: record.at,
            offset: record.offset,
            leader_epoch: record.leader_epoch,
            envelope,
            identity,
            defect,
            bytes,
        }
    }

    /// An entry as it was stored in `inbox_waiting` or `inbox_dead_letter`.
    pub(super) fn restored(
        at: &TopicPartition,
        offset: i64,
        identity: Identity,
        key: Option<Vec<u8>>,
        headers: &str,
        payload: Vec<u8>,
    ) -> Result<Self> {
        let (headers, defect) = decode_headers(headers)?;
        let record = Record {
            at: at.clone(),
            offset,
            leader_epoch: None,
            key: key.map(Bytes::from),
            payload: payload.into(),
            headers,
            defect,
        };
        Ok(Self {
            identity,
            ..Self::new(record, "")
        })
    }

    /// `message_type` as it may be stored.
    pub(super) fn stored_type(&self) -> Option<String> {
        let message_type = self.envelope.message_type.as_deref()?;
        Some(clean(message_type, MAX_ID_BYTES))
    }

    /// The `headers` column: a JSON array of `[name, base64]`, with the defect as a last element
    /// of one.
    pub(super) fn stored_headers(&self) -> String {
        let mut list: Vec<Vec<String>> = self
            .envelope
            .headers
            .iter()
            .map(|(name, value)| vec![clean(name, usize::MAX), STANDARD.encode(value)])
            .collect();
        list.extend(self.defect.iter().map(|d| vec![clean(d, 1_000)]));
        serde_json::to_string(&list).unwrap_or_else(|_| "[]".to_owned())
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        self.envelope.message_key.as_deref()
    }
}

/// Header names with their values.
pub(super) type HeaderList = Vec<(String, Bytes)>;

pub(super) fn decode_headers(stored: &str) -> Result<(HeaderList, Option<String>)> {
    let corrupt = |reason: String| Error::Corrupt {
        what: "headers",
        reason,
    };
    let list: Vec<Vec<String>> =
        serde_json::from_str(stored).map_err(|e| corrupt(e.to_string()))?;
    let (mut headers, mut defect) = (Vec::new(), None);
    for element in list {
        match <[String; 2]>::try_from(element) {
            Ok([name, value]) => {
                let value = STANDARD.decode(value).map_err(|e| corrupt(e.to_string()))?;
                headers.push((name, value.into()));
            }
            Err(other) => defect = other.into_iter().next(),
        }
    }
    Ok((headers, defect))
}

fn kind(text: &str) -> Option<MessageKind> {
    [MessageKind::Event, MessageKind::Command, MessageKind::Reply]
        .into_iter()
        .find(|kind| kind.as_str() == text)
}

fn micros(text: &str) -> Option<Micros> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_microsecond())
}

/// `now` plus a delay.
pub(super) fn later(now: Micros, delay: Duration) -> Micros {
    now.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(headers: Vec<(&str, &[u8])>) -> Record {
        Record {
            at: TopicPartition {
                topic: "t".into(),
                partition: 3,
            },
            offset: 7,
            leader_epoch: None,
            key: None,
            payload: Bytes::new(),
            headers: headers
                .into_iter()
                .map(|(n, v)| (n.to_owned(), Bytes::copy_from_slice(v)))
                .collect(),
            defect: None,
        }
    }

    #[test]
    fn a_record_without_a_usable_id_is_known_by_its_coordinates() {
        let long = [b'x'; 501];
        for headers in [
            vec![],
            vec![("ce_id", &b"1"[..])],
            vec![("ce_id", &b""[..]), ("ce_source", &b"s"[..])],
            vec![("ce_id", &long[..]), ("ce_source", &b"s"[..])],
            vec![("ce_id", &b"a\0b"[..]), ("ce_source", &b"s"[..])],
        ] {
            let entry = Entry::new(record(headers), "id");
            assert_eq!(entry.identity.ce_source, "");
            assert_eq!(entry.identity.ce_id, "id/3/7");
        }
    }

    proptest! {
        /// Anybody who may write to a topic chooses these bytes.
        #[test]
        fn whatever_the_headers_are_a_record_has_an_identity_and_survives_storage(
            headers in prop::collection::vec((name(), value()), 0..8),
        ) {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            let entry = Entry::new(record(headers.collect()), "id");
            let Identity { ce_source, ce_id } = &entry.identity;
            prop_assert!(!ce_id.is_empty() && ce_id.len() <= MAX_ID_BYTES);
            prop_assert!(ce_source.len() <= MAX_ID_BYTES);
            prop_assert!(!ce_id.contains('\0') && !ce_source.contains('\0'));
            prop_assert!(entry.stored_type().is_none_or(|text| !text.contains('\0')));
            let stored = entry.stored_headers();
            prop_assert!(!stored.contains('\0'));
            let (found, defect) = decode_headers(&stored).unwrap();
            prop_assert_eq!(found.len(), entry.envelope.headers.len());
            for ((_, found), (_, sent)) in found.iter().zip(&entry.envelope.headers) {
                prop_assert_eq!(found, sent);
            }
            prop_assert_eq!(defect.is_some(), entry.defect.is_some());
        }
    }

    fn name() -> impl Strategy<Value = String> {
        let ours = [
            header::CE_ID,
            header::CE_SOURCE,
            header::CE_TYPE,
            header::CE_SUBJECT,
            header::CE_TIME,
            header::HEADER_FORMAT,
            header::KIND,
            header::CORRELATION_ID,
            header::CAUSATION_ID,
            header::TRACEPARENT,
        ];
        let ours = prop::sample::select(ours.map(str::to_owned).to_vec());
        prop_oneof![4 => ours, 1 => any::<String>()]
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}"
                .prop_map(String::into_bytes),
            "[0-9]{1,40}".prop_map(String::into_bytes),
            (490_usize..510).prop_map(|length| vec![b'x'; length]),
            "-?[0-9]{1,9}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
                .prop_map(String::into_bytes),
        ]
    }

    #[test]
    fn a_record_of_a_newer_format_is_handled_by_nobody_until_the_upgrade() {
        for (format, newer) in [("1", false), ("2", true), ("99", true), ("soon", false)] {
            let entry = Entry::new(record(vec![("onceward-format", format.as_bytes())]), "id");
            assert_eq!(
                entry.defect.is_some(),
                newer,
                "{format}: {:?}",
                entry.defect
            );
        }
    }

    #[test]
    fn a_header_that_is_not_text_is_a_defect_and_survives_storage() {
        let entry = Entry::new(record(vec![("ce_type", b"\xff"), ("x", b"\xfe")]), "id");
        assert_eq!(entry.defect.as_deref(), Some("header ce_type is not text"));
        let (headers, defect) = decode_headers(&entry.stored_headers()).unwrap();
        assert_eq!((headers, defect), (entry.envelope.headers, entry.defect));
    }
}
