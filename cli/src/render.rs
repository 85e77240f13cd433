//! Tables, times and ages for people.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use onceward::Micros;
use serde_json::Value;

/// A plain table without borders: it can be read, cut and grepped.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    let numeric: Vec<bool> = (0..headings.len())
        .map(|i| {
            let mut cells = rows
                .iter()
                .filter_map(|r| r.get(i))
                .filter(|c| *c != "-")
                .peekable();
            cells.peek().is_some()
                && cells.all(|c| c.chars().all(|c| c.is_ascii_digit() || c == ','))
        })
        .collect();
    for row in rows {
        table.add_row(row);
    }
    for (column, numeric) in table.column_iter_mut().zip(numeric) {
        column.set_padding((0, 2));
        if numeric {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// RFC 3339 with milliseconds, UTC: for tables.
pub(crate) fn time(at: Micros) -> String {
    Timestamp::from_microsecond(at).map_or_else(
        |_| at.to_string(),
        |t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    )
}

/// RFC 3339 with microseconds, UTC: for JSON.
pub(crate) fn exact_time(at: Micros) -> String {
    Timestamp::from_microsecond(at).map_or_else(
        |_| at.to_string(),
        |t| t.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    )
}

/// `340 ms`, `12.4 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn age(micros: i64) -> String {
    let ms = micros / 1000;
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// `+20 ms`, `+1.913 s`, `+5 min`: exact enough to see what came first.
pub(crate) fn after(micros: i64) -> String {
    let ms = micros / 1000;
    match ms {
        1_000..60_000 => format!("+{}.{:03} s", ms / 1000, ms % 1000),
        _ => format!("+{}", age(micros)),
    }
}

/// `-` for nothing.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// At most `limit` characters, on one line.
pub(crate) fn short(text: &str, limit: usize) -> String {
    let line = text.replace(['\n', '\r', '\t'], " ");
    if line.chars().count() <= limit {
        return line;
    }
    let kept: String = line.chars().take(limit.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// A payload as JSON if it is, as text if it is, else its size.
pub(crate) fn payload(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => serde_json::json!({ "binary_bytes": bytes.len() }),
    })
}

/// Headers and payload of a message, the last part of what is shown of it.
pub(crate) fn contents(headers: &BTreeMap<String, String>, payload: &Value) -> String {
    let mut text = "\nheaders\n".to_owned();
    for (name, value) in headers {
        text.push_str(&format!("  {name}: {value}\n"));
    }
    text.push_str("\npayload\n");
    for line in format!("{payload:#}").lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// A key from Kafka, which may be anything.
pub(crate) fn key(bytes: Option<Vec<u8>>) -> Option<String> {
    bytes.map(|b| String::from_utf8_lossy(&b).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{after, age};

    #[test]
    fn ages_read_like_a_person_says_them() {
        let said = [5_000, 1_240_000, 61_000_000, 7_200_000_000].map(age);
        assert_eq!(said, ["5 ms", "1.2 s", "1 min", "2 h"]);
        let said = [5_000, 1_013_000, 61_000_000].map(after);
        assert_eq!(said, ["+5 ms", "+1.013 s", "+1 min"]);
    }
}
