//! Whose fault a database error is, and what a panic says.

use std::any::Any;
use std::error::Error as StdError;

/// The database's error among an error and its sources.
pub(crate) fn database_error<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e sqlx::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<sqlx::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether the database chose this unit of work as the victim of a deadlock or of a serialization
/// failure: nothing of it was committed, and the same may succeed at once. Looks through the
/// error's sources.
///
/// For [`Db::write_with`](crate::Db::write_with), with an error type of your own:
/// `db.write_with(onceward::is_victim, async |tx| …)`.
pub fn is_victim<E: StdError + 'static>(error: &E) -> bool {
    database_error(error).is_some_and(is_victim_code)
}

/// `serialization_failure` or `deadlock_detected`.
pub(crate) fn is_victim_code(error: &sqlx::Error) -> bool {
    is_deadlock(error) || has_code(error, "40001")
}

/// `deadlock_detected`.
pub(crate) fn is_deadlock(error: &sqlx::Error) -> bool {
    has_code(error, "40P01")
}

/// `query_canceled`: by `statement_timeout`, or by somebody.
pub(crate) fn is_cancelled(error: &sqlx::Error) -> bool {
    has_code(error, "57014")
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    let its = error.as_database_error().and_then(|e| e.code());
    its.is_some_and(|its| its == code)
}

/// Whether the error is the connection's, the server's or the concurrency's fault and not that of
/// the one who asked: the same may succeed later.
pub fn is_transient(error: &sqlx::Error) -> bool {
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

/// What a panic was given to say.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
