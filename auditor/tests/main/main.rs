//! Each broken promise is found and named, on a real Kafka, SQLite and Postgres.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod books;
mod findings;
mod world;
