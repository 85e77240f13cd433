//! A database with an outbox, and the rows that the writers take their numbers from.

use std::collections::BTreeMap;

use clap::ValueEnum;
use onceward::schema::migrate;
use onceward::{Micros, SourceName, postgres_options, sqlite_options, sqlite_pool_options};
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Pool, Postgres, Sqlite};

use crate::Result;
use crate::account::Event;
use crate::reader::Sight;

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
    /// What the handlers write. No event is unique in it: a second effect of one must show.
    fn effects_table(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => {
                "create table effects (id integer primary key autoincrement, message_key bigint not \
                 null, number bigint not null, token bigint not null, written bigint not null, \
                 handled bigint not null)"
            }
            Self::Postgres(_) => {
                "create table effects (id bigint generated always as identity primary key, \
                 message_key bigint not null, number bigint not null, token bigint not null, \
                 written bigint not null, handled bigint not null)"
            }
        }
    }

    /// Connects to a database that exists, or to a SQLite file that is made.
    pub async fn open(url: &str, connections: u32) -> Result<Self> {
        let wait = std::time::Duration::from_secs(5);
        Ok(if url.starts_with("sqlite:") {
            let options = sqlite_options(url)?.create_if_missing(true);
            let pool = sqlite_pool_options().max_connections(connections);
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
            sqlx::query(self.effects_table()).execute(pool).await?;
            sqlx::query("create index effects_written on effects (written)").execute(pool).await?;
            for key in 0..keys {
                sqlx::query("insert into numbered values ($1, 0)")
                    .bind(i64::from(key)).execute(pool).await?;
            }
        });
        Ok(())
    }

    /// Whether nobody holds the whole database's write lock, as a process frozen in a transaction of
    /// SQLite does.
    pub async fn is_writable(&self, url: &str) -> bool {
        let ask = async || -> Result<()> {
            let options = sqlite_options(url)?.busy_timeout(std::time::Duration::from_millis(700));
            let mut conn = options.connect().await?;
            sqlx::raw_sql("begin immediate; rollback")
                .execute(&mut conn)
                .await?;
            Ok(conn.close().await?)
        };
        match self {
            Self::Sqlite(_) => ask().await.is_ok(),
            Self::Postgres(_) => true,
        }
    }

    /// One number.
    pub async fn number(&self, sql: &'static str) -> Result<i64> {
        Ok(on!(self, pool => sqlx::query_scalar(sql).fetch_one(pool).await)?)
    }

    /// One text, if there is any.
    pub async fn text(&self, sql: &'static str) -> Result<Option<String>> {
        Ok(on!(self, pool => sqlx::query_scalar(sql).fetch_one(pool).await)?)
    }

    /// Statements of ours, without values of others.
    pub async fn execute(&self, sql: String) -> Result<()> {
        on!(self, pool => { sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await?; });
        Ok(())
    }

    /// The last number of every key.
    pub async fn last_numbers(&self) -> Result<BTreeMap<u32, i64>> {
        let sql = "select message_key, last from numbered";
        let rows: Vec<(i64, i64)> = on!(self, pool => sqlx::query_as(sql).fetch_all(pool).await)?;
        let rows = rows.into_iter();
        rows.map(|(key, last)| Ok((u32::try_from(key)?, last)))
            .collect()
    }

    /// Rows of the outbox that go to `topic`.
    pub async fn rows(&self, topic: &str) -> Result<u64> {
        let sql = "select cast(count(*) as bigint) from outbox where topic = $1";
        let rows: i64 = on!(self, pool => {
            sqlx::query_scalar(sql).bind(topic).fetch_one(pool).await
        })?;
        Ok(u64::try_from(rows)?)
    }

    /// What the consumers' handlers have written, in its order.
    pub async fn effects(&self) -> Result<Vec<Sight>> {
        let sql =
            "select id, message_key, number, token, written, handled from effects order by id";
        type Row = (i64, i64, i64, i64, i64, i64);
        let rows: Vec<Row> = on!(self, pool => sqlx::query_as(sql).fetch_all(pool).await)?;
        let rows = rows.into_iter();
        rows.map(|(offset, key, number, token, written, visible)| {
            let (key, token) = (u32::try_from(key)?, u64::try_from(token)?);
            Ok(Sight {
                partition: 0,
                offset,
                event: Some(Event {
                    key,
                    number,
                    token,
                    written,
                }),
                visible,
            })
        })
        .collect()
    }

    /// When the first effect of an event written at `since` or later was made.
    pub async fn first_effect_since(&self, since: Micros) -> Result<Option<Micros>> {
        let sql = "select min(handled) from effects where written >= $1";
        Ok(on!(self, pool => sqlx::query_scalar(sql).bind(since).fetch_one(pool).await)?)
    }

    /// Closes the connections.
    pub async fn close(&self) {
        on!(self, pool => pool.close().await);
    }
}
