//! Texts that fit: cut, wrapped, numbers with commas, durations in one word.

use std::time::Duration;

use ratatui::text::Span;

/// Columns of the terminal that the text takes.
pub(super) fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// The text, or its beginning and an ellipsis.
pub(super) fn cut(text: &str, at_most: u16) -> String {
    if width(text) <= at_most {
        return text.to_owned();
    }
    let mut shown = String::new();
    for character in text.chars() {
        shown.push(character);
        if width(&shown) >= at_most {
            shown.pop();
            break;
        }
    }
    shown.push('…');
    shown
}

/// `1,234,567`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A total that is a whole number.
pub(super) fn whole(value: f64) -> String {
    grouped(value as u64)
}

/// `350 ms`, `12 s`, `3 min`, `2 h`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        more => format!("{} h", more / 3600),
    }
}

/// The text in lines of this width, broken at spaces; what more than `lines` would take is cut.
pub(super) fn wrapped(text: &str, at_most: u16, lines: usize) -> Vec<String> {
    let mut rest = text;
    let mut shown = Vec::new();
    while width(rest) > at_most && shown.len() + 1 < lines {
        let fits = |end: &usize| width(&rest[..*end]) <= at_most;
        let spaces = rest.match_indices(' ').map(|(at, _)| at);
        let Some(end) = spaces.take_while(fits).last().filter(|end| *end > 0) else {
            break;
        };
        shown.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    shown.push(cut(rest, at_most));
    shown
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{cut, duration, grouped, wrapped};

    #[test]
    fn texts_are_cut_and_wrapped_to_a_width() {
        assert_eq!(cut("twelve chars", 12), "twelve chars");
        assert_eq!(cut("twelve chars", 8), "twelve …");
        let wrap = |width, lines| wrapped("one two three four", width, lines);
        assert_eq!(wrap(40, 2), ["one two three four"]);
        assert_eq!(wrap(10, 2), ["one two", "three four"]);
        assert_eq!(wrap(8, 2), ["one two", "three f…"]);
        assert_eq!(wrap(2, 3), ["o…"]);
    }

    #[test]
    fn numbers_are_grouped_and_durations_short() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        let of = |millis| duration(Duration::from_millis(millis));
        assert_eq!(
            [350, 12_000, 180_000, 7_500_000].map(of),
            ["350 ms", "12 s", "3 min", "2 h"]
        );
    }
}
