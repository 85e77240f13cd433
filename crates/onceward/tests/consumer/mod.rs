//! The consumer loop on real databases, fed from a topic in memory.

mod batches;
mod commits;
mod faults;
mod memory;
mod ordering;
mod support;

/// The same sentences for both databases.
macro_rules! on_both_databases {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name::<sqlx::Sqlite>().await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name::<sqlx::Postgres>().await; })*
        }
    };
}
use on_both_databases;
