//! Times as people and clients see them.

use onceward::Micros;

/// RFC 3339 in UTC with microseconds: `2026-01-31T12:00:00.000001Z`.
pub fn iso_time(micros: Micros) -> String {
    jiff::Timestamp::from_microsecond(micros)
        .map_or_else(|_| micros.to_string(), |time| format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use super::iso_time;

    #[test]
    fn a_time_has_all_its_microseconds() {
        assert_eq!(iso_time(1_000_001), "1970-01-01T00:00:01.000001Z");
        assert_eq!(iso_time(0), "1970-01-01T00:00:00.000000Z");
    }
}
