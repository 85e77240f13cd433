//! A database with an outbox, and the rows that the writers take their numbers from.

use std::collections::BTreeMap;

use clap::ValueEnum;
use onceward::schema::migrate;
use onceward::{SourceName, postgres_options, sqlite_options};
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolOptions;
use sqlx::{Pool, Postgres, Sqlite};

use crate::Result;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];

    /// As in a cell's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// A pool of either database.
#[derive(Debug, Clone)]
pub enum Store {
    /// SQLite.
    Sqlite(Pool<Sqlite>),
    /// Postgres.
    Postgres(Pool<Postgres>),
}

/// The same sqlx code for both.
macro_rules! on {
    ($store:expr, $pool:ident => $body:expr) => {
        match $store {
            Store::Sqlite($pool) => $body,
            Store::Postgres($pool) => $body,
        }
    };
}

impl Store {
    /// Connects to a database that exists, or to a SQLite file that is made.
    pub async fn open(url: &str, connections: u32) -> Result<Self> {
        let wait = std::time::Duration::from_secs(5);
        Ok(if url.starts_with("sqlite:") {
            let options = sqlite_options(url)?.create_if_missing(true);
            let pool = PoolOptions::new().max_connections(connections);
            Self::Sqlite(pool.acquire_timeout(wait).connect_with(options).await?)
        } else {
            let pool = PoolOptions::new().max_connections(connections);
            let pool = pool.acquire_timeout(wait);
            Self::Postgres(pool.connect_with(postgres_options(url)?).await?)
        })
    }

    /// The outbox, and `keys` keys whose last number is 0.
    pub async fn set_up(&self, source: &SourceName, keys: u32) -> Result<()> {
        on!(self, pool => {
            migrate(pool, source).await?;
            sqlx::query("create table numbered (message_key bigint primary key, last bigint not null)")
                .execute(pool).await?;
            for key in 0..keys {
                sqlx::query("insert into numbered values ($1, 0)")
                    .bind(i64::from(key)).execute(pool).await?;
            }
        });
        Ok(())
    }

    /// One number.
    pub async fn number(&self, sql: &'static str) -> Result<i64> {
        Ok(on!(self, pool => sqlx::query_scalar(sql).fetch_one(pool).await)?)
    }

    /// The last number of every key.
    pub async fn last_numbers(&self) -> Result<BTreeMap<u32, i64>> {
        let sql = "select message_key, last from numbered";
        let rows: Vec<(i64, i64)> = on!(self, pool => sqlx::query_as(sql).fetch_all(pool).await)?;
        let rows = rows.into_iter();
        rows.map(|(key, last)| Ok((u32::try_from(key)?, last)))
            .collect()
    }

    /// Rows of the outbox.
    pub async fn rows(&self) -> Result<u64> {
        let rows = self.number("select cast(count(*) as bigint) from outbox");
        Ok(u64::try_from(rows.await?)?)
    }

    /// Closes the connections.
    pub async fn close(&self) {
        on!(self, pool => pool.close().await);
    }
}
