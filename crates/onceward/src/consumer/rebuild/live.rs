//! The live database, in one snapshot: nothing is locked, and everything may go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use sqlx::{
    ConnectOptions, Connection as _, PgConnection, Postgres, Row, Sqlite, SqliteConnection,
};

use super::compare::{Columns, Rows};
use super::history::{Order, Stand};
use crate::consumer::TopicPartition;
use crate::source::DatabaseKind;
use crate::{
    ConsumerName, DatabaseUrl, Error, Result, connect_trouble, postgres_options, sqlite_options,
};

/// A service's database, as it stood when it was first asked. Reading is all it does, so a user
/// with the right `SELECT` is enough.
///
/// The snapshot is held until this is dropped: meanwhile Postgres removes no dead rows anywhere in
/// the database, and a SQLite file's log grows with what is written.
#[derive(Debug)]
pub struct Live(Connection);

#[derive(Debug)]
enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Runs the same sqlx code on either database.
macro_rules! on {
    ($live:expr, $conn:ident, $database:ident => $body:expr) => {
        match &mut $live.0 {
            Connection::Sqlite($conn) => {
                type $database = Sqlite;
                $body
            }
            Connection::Postgres($conn) => {
                type $database = Postgres;
                $body
            }
        }
    };
}

impl Live {
    /// Opens it for reading.
    ///
    /// # Errors
    /// A URL that is none, a file that does not exist, a server out of reach.
    pub async fn open(url: &DatabaseUrl) -> Result<Self> {
        let failed = || Error::database("snapshot");
        let connection = match url.check()? {
            DatabaseKind::Sqlite => {
                let options = sqlite_options(url.reveal())?.read_only(true);
                let mut conn = options
                    .connect()
                    .await
                    .map_err(Error::database("connect"))?;
                sqlx::raw_sql("begin")
                    .execute(&mut conn)
                    .await
                    .map_err(failed())?;
                Connection::Sqlite(conn)
            }
            DatabaseKind::Postgres => {
                let options = postgres_options(url.reveal())?
                    .options([("idle_in_transaction_session_timeout", "0")]);
                let connected = options.connect().await;
                let mut conn =
                    connected.map_err(|error| Error::Connect(connect_trouble(&options, &error)))?;
                sqlx::raw_sql("begin isolation level repeatable read read only")
                    .execute(&mut conn)
                    .await
                    .map_err(failed())?;
                Connection::Postgres(conn)
            }
        };
        Ok(Self(connection))
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// The connection is lost; so is the snapshot then.
    pub async fn close(self) -> Result<()> {
        let closed = match self.0 {
            Connection::Sqlite(conn) => conn.close().await,
            Connection::Postgres(conn) => conn.close().await,
        };
        closed.map_err(Error::database("disconnect"))
    }

    /// Where the consumer stands.
    pub(super) async fn offsets(
        &mut self,
        consumer: &ConsumerName,
    ) -> Result<BTreeMap<TopicPartition, Stand>> {
        type Stored = (String, i32, String, i64);
        const SQL: &str = "select topic, partition, topic_id, next_offset from consumer_offset \
                           where consumer = $1";
        let stored: Vec<Stored> = on!(self, conn, B => {
            sqlx::query_as::<B, Stored>(SQL)
                .bind(consumer.as_str())
                .fetch_all(conn)
                .await
                .map_err(Error::database("consumer offsets read"))?
        });
        let stands = stored.into_iter();
        Ok(stands
            .map(|(topic, partition, topic_id, next_offset)| {
                let topic = topic.into();
                let stand = Stand {
                    topic_id,
                    next_offset,
                };
                (TopicPartition { topic, partition }, stand)
            })
            .collect())
    }

    /// In which order the consumer took its messages, as far back as the inbox tells. Those of one
    /// transaction are in the order of their rows, which on Postgres may be another one where
    /// vacuum has made room.
    pub(super) async fn order(&mut self, consumer: &ConsumerName) -> Result<Order> {
        let row = match self.0 {
            Connection::Sqlite(_) => "rowid",
            Connection::Postgres(_) => "ctid",
        };
        let sql = format!(
            "select topic, partition, record_offset from inbox where consumer = $1 \
             order by coalesce(handled_at, received_at), {row}"
        );
        let mut order = Order::default();
        on!(self, conn, B => {
            let mut stored = sqlx::query_as::<B, (String, i32, i64)>(sqlx::AssertSqlSafe(sql))
                .bind(consumer.as_str())
                .fetch(conn);
            let (mut topic, mut rank): (Arc<str>, u64) = ("".into(), 0);
            let failed = || Error::database("inbox read");
            while let Some((name, partition, offset)) = stored.try_next().await.map_err(failed())? {
                if *topic != *name {
                    topic = name.into();
                }
                rank += 1;
                let at = TopicPartition { topic: Arc::clone(&topic), partition };
                order.push(at, offset, rank);
            }
        });
        Ok(order)
    }

    /// Messages that the consumer has taken and not handled.
    pub(super) async fn unhandled_count(&mut self, consumer: &ConsumerName) -> Result<i64> {
        const SQL: &str = "select count(*) from inbox where consumer = $1 and state <> 'handled'";
        on!(self, conn, B => {
            sqlx::query_scalar::<B, i64>(SQL)
                .bind(consumer.as_str())
                .fetch_one(conn)
                .await
                .map_err(Error::database("inbox read"))
        })
    }

    /// The rows of a table that has these columns.
    pub(super) async fn rows(&mut self, columns: &Columns) -> Result<Rows> {
        let expressions = match &mut self.0 {
            Connection::Sqlite(_) => columns.on_sqlite(),
            Connection::Postgres(conn) => {
                let types: BTreeMap<String, String> = sqlx::query_as::<_, (String, String)>(
                    "select attname, format_type(atttypid, null) from pg_attribute \
                     where attrelid = to_regclass($1) and attnum > 0",
                )
                .bind(columns.quoted_table())
                .fetch_all(conn)
                .await
                .map_err(Error::database("columns read"))?
                .into_iter()
                .collect();
                columns.on_postgres(&types)
            }
        };
        let sql = columns.select(&expressions);
        on!(self, conn, B => {
            let mut found = Rows::default();
            let mut rows = sqlx::query::<B>(sqlx::AssertSqlSafe(sql)).fetch(conn);
            let failed = || Error::database("live rows read");
            while let Some(row) = rows.try_next().await.map_err(failed())? {
                let values = (0..columns.len()).map(|place| row.try_get(place));
                let values = values.collect::<Result<Vec<Option<String>>, _>>();
                columns.keep(&mut found, values.map_err(failed())?);
            }
            Ok(found)
        })
    }
}
