//! Whose fault a database error is.

/// Whether the error is the connection's, the server's or the concurrency's fault and not the
/// message's: the whole batch is rolled back and run again, and no attempt is used.
pub(super) fn is_batch_fault(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            // Postgres: five characters of SQLSTATE. SQLite: the extended result code as a number,
            // its lowest byte being the primary code.
            if code.len() == 5 {
                matches!(
                    &code[..],
                    // serialization failure, deadlock, lock time-out, idle in transaction
                    "40001" | "40P01" | "55P03" | "25P03" | "25006"
                ) || ["08", "53", "57", "58", "XX"]
                    .iter()
                    .any(|class| code.starts_with(class))
            } else {
                let primary = code.parse::<i32>().map(|n| n & 0xff);
                // BUSY, LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB
                matches!(primary, Ok(5 | 6 | 7 | 8 | 10 | 11 | 13 | 14 | 15 | 26))
            }
        }),
        _ => false,
    }
}

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
