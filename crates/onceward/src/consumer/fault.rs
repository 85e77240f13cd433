//! Errors as text.

/// The error with its sources in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    clean(&text, 4_000)
}

/// Text that both databases can store: no NUL, at most `limit` bytes.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    if text.len() > limit {
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
