//! The headers of a record, written straight into the records' arena.

use std::collections::BTreeMap;

use onceward::publisher::{EncodedHeaders, HeaderWriter};
use onceward::source::OutboxRow;
use onceward::{Micros, SourceName, header};

/// Writes headers; remembers what one record has in common with the next.
pub(super) struct HeaderForm {
    /// Those that are the same for every record of the source.
    constant: EncodedHeaders,
    time: TimeText,
}

impl HeaderForm {
    pub(super) fn of(source: &SourceName) -> Self {
        Self {
            constant: EncodedHeaders::of([
                (
                    header::CE_SPECVERSION,
                    header::CE_SPECVERSION_VALUE.as_bytes(),
                ),
                (header::CE_SOURCE, source.as_str().as_bytes()),
                (header::HEADER_FORMAT, header::FORMAT.as_bytes()),
            ]),
            time: TimeText::default(),
        }
    }

    pub(super) fn write(
        &mut self,
        out: &mut HeaderWriter<'_>,
        row: &OutboxRow,
        position: i64,
        previous: i64,
    ) {
        out.add_encoded(&self.constant);
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        let id = row.message_id.0.hyphenated().encode_lower(&mut id);
        out.add(header::CE_ID, id.as_bytes());
        out.add(header::CE_TYPE, row.message_type().as_bytes());
        if let Some(time) = self.time.of(row.occurred_at) {
            out.add(header::CE_TIME, time);
        }
        out.add(header::CE_SUBJECT, row.aggregate_id().as_bytes());
        out.add(header::AGGREGATE_TYPE, row.aggregate_type().as_bytes());
        let mut digits = itoa::Buffer::new();
        out.add(header::POSITION, digits.format(position).as_bytes());
        out.add(
            header::PREVIOUS_POSITION,
            digits.format(previous).as_bytes(),
        );
        stored(out, row.headers());
    }
}

/// Copies the row's own headers. Written by `append`, which refuses our names; a row somebody wrote
/// by hand may hold anything, and a header that can't be read is no reason to withhold the message.
fn stored(out: &mut HeaderWriter<'_>, json: &str) {
    let mark = out.mark();
    if plain(out, json).is_some() {
        return;
    }
    out.back_to(mark);
    let parsed: BTreeMap<String, String> = serde_json::from_str(json).unwrap_or_default();
    for (name, value) in parsed {
        if is_free(&name) {
            out.add(&name, value.as_bytes());
        }
    }
}

/// Names that the relay writes itself are left out.
fn is_free(name: &str) -> bool {
    !(name.starts_with("ce_") || (name.starts_with("onceward-") && name != header::KIND))
}

/// The form `append` writes: `{"name":"value",…}`, names ascending, nothing escaped, no blanks. `None`
/// for anything else, which is left to the JSON parser.
fn plain(out: &mut HeaderWriter<'_>, json: &str) -> Option<()> {
    let mut rest = json.strip_prefix('{')?;
    if rest == "}" {
        return Some(());
    }
    let mut before = "";
    loop {
        let (name, after) = text(rest)?;
        let (value, after) = text(after.strip_prefix(':')?)?;
        if name <= before {
            return None;
        }
        if is_free(name) {
            out.add(name, value.as_bytes());
        }
        before = name;
        rest = match after.as_bytes() {
            b"}" => return Some(()),
            [b',', ..] => after.get(1..)?,
            _ => return None,
        };
    }
}

/// A quoted text without escapes, and what follows it.
fn text(json: &str) -> Option<(&str, &str)> {
    let inner = json.strip_prefix('"')?;
    let end = inner
        .bytes()
        .position(|byte| matches!(byte, b'"' | b'\\') || byte < b' ')?;
    let (text, rest) = inner.split_at_checked(end)?;
    Some((text, rest.strip_prefix('"')?))
}

/// `2026-01-31T12:00:00.000001Z`; within one second only the fraction is written anew.
#[derive(Default)]
struct TimeText {
    second: Option<i64>,
    text: Vec<u8>,
}

impl TimeText {
    /// `None` outside the years 0 to 9999.
    fn of(&mut self, at: Micros) -> Option<&[u8]> {
        let (second, mut fraction) = (at.div_euclid(1_000_000), at.rem_euclid(1_000_000));
        if self.second != Some(second) {
            let time = jiff::Timestamp::from_microsecond(at).ok()?;
            self.text = format!("{time:.6}").into_bytes();
            self.second = Some(second);
            return Some(&self.text);
        }
        // Before its end, a `Z`.
        for digit in self.text.iter_mut().rev().skip(1).take(6) {
            *digit = b'0' + u8::try_from(fraction % 10).unwrap_or(0);
            fraction /= 10;
        }
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onceward::publisher::Records;

    fn written(json: &str) -> Vec<(String, String)> {
        let mut records = Records::new(0);
        let to = records.add_destination("t".into(), 0);
        records.push(to, None, b"", |headers| stored(headers, json));
        let record = records.get(0).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pairs = record.headers();
        pairs.map(|(n, v)| (n.to_owned(), text(v))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |text: &&str| String::from(*text);
        expected.iter().map(|(n, v)| (own(n), own(v))).collect()
    }

    #[test]
    fn stored_headers_are_copied_without_our_names() {
        let json =
            r#"{"a":"1","ce_id":"x","onceward-kind":"event","onceward-position":"9","z":"ä"}"#;
        let expected = pairs(&[("a", "1"), ("onceward-kind", "event"), ("z", "ä")]);
        assert_eq!(written(json), expected);
        assert!(written("{}").is_empty());
    }

    #[test]
    fn what_append_does_not_write_is_read_as_json() {
        // Blanks, escapes, order, a name twice: the last one counts.
        let json = r#" { "b" : "1\n\u0041", "a":"0","a":"2" } "#;
        assert_eq!(written(json), pairs(&[("a", "2"), ("b", "1\nA")]));
        for unreadable in [
            "",
            "{",
            "[]",
            r#"{"a":1}"#,
            r#"{"a":"1",}"#,
            r#"{"a":"1"}x"#,
        ] {
            assert!(written(unreadable).is_empty(), "{unreadable}");
        }
    }

    #[test]
    fn times_within_a_second_differ_in_their_fraction_only() {
        let mut time = TimeText::default();
        for (at, expected) in [
            (1_769_860_800_000_001, "2026-01-31T12:00:00.000001Z"),
            (1_769_860_800_987_654, "2026-01-31T12:00:00.987654Z"),
            (1_769_860_801_000_000, "2026-01-31T12:00:01.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(time.of(at), Some(expected.as_bytes()));
        }
        assert_eq!(time.of(i64::MAX), None);
    }
}
