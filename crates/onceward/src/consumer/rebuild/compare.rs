//! Rows held against rows.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{Pool, Row, Sqlite};

use super::Live;
use crate::{Error, Result};

/// Differences of one kind told of each table; all are counted.
const TOLD: usize = 20;

/// A row that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowDifference {
    /// Its key: column and value.
    pub key: BTreeMap<String, Option<String>>,
    /// The columns that differ, with their values in the live database and in the shadow. Empty for
    /// a row that stands on one side only. Bytes and UUIDs are hexadecimal.
    pub columns: BTreeMap<String, [Option<String>; 2]>,
}

/// A table held against the same one in the shadow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TableDifference {
    /// The table.
    pub table: String,
    /// Rows in the live database.
    pub live_count: usize,
    /// Rows in the shadow.
    pub rebuilt_count: usize,
    /// Rows that only the live database has.
    pub only_live_count: usize,
    /// Rows that only the shadow has.
    pub only_rebuilt_count: usize,
    /// Rows that both have, with other values.
    pub differing_count: usize,
    /// The first 20 of each kind, by key.
    pub only_live: Vec<RowDifference>,
    /// As above.
    pub only_rebuilt: Vec<RowDifference>,
    /// As above.
    pub differing: Vec<RowDifference>,
    /// Columns that were not held against each other.
    pub ignored: Vec<String>,
}

impl TableDifference {
    /// Both sides say the same.
    pub fn is_equal(&self) -> bool {
        self.only_live_count + self.only_rebuilt_count + self.differing_count == 0
    }
}

/// Holds tables of the live database against those of the shadow; one table at a time is in memory.
///
/// Left out are columns called `at` or `…_at`, which tell when a message was handled, and those in
/// `ignored` (`table.column`), unless they belong to the table's key.
///
/// # Errors
/// A database can't be read, or the live one lacks a table or column.
pub async fn compare(
    live: &mut Live,
    shadow: &Pool<Sqlite>,
    tables: &[String],
    ignored: &[String],
) -> Result<Vec<TableDifference>> {
    let mut differences = Vec::with_capacity(tables.len());
    for table in tables {
        let columns = Columns::of(shadow, table, ignored).await?;
        let rebuilt = columns.rows_of(shadow).await?;
        differences.push(columns.differences(&live.rows(&columns).await?, &rebuilt));
    }
    Ok(differences)
}

/// What of a table is held against each other.
#[derive(Debug)]
pub(super) struct Columns {
    table: String,
    key: Vec<String>,
    others: Vec<String>,
    ignored: Vec<String>,
}

type Values = Vec<Option<String>>;
/// Rows by key.
pub(super) type Rows = BTreeMap<Values, Values>;

impl Columns {
    async fn of(shadow: &Pool<Sqlite>, table: &str, ignored: &[String]) -> Result<Self> {
        let found: Vec<(String, i64)> =
            sqlx::query_as("select name, pk from pragma_table_info($1) order by pk, cid")
                .bind(table)
                .fetch_all(shadow)
                .await
                .map_err(Error::database("columns read"))?;
        let mut columns = Self {
            table: table.to_owned(),
            key: Vec::new(),
            others: Vec::new(),
            ignored: Vec::new(),
        };
        for (name, place_in_key) in found {
            let is_time = name == "at" || name.ends_with("_at");
            match place_in_key {
                1.. => columns.key.push(name),
                _ if is_time || ignored.contains(&format!("{table}.{name}")) => {
                    columns.ignored.push(name);
                }
                _ => columns.others.push(name),
            }
        }
        // Without a key a row is known by all of it.
        if columns.key.is_empty() {
            columns.key = std::mem::take(&mut columns.others);
        }
        Ok(columns)
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.key.iter().chain(&self.others)
    }

    pub(super) fn len(&self) -> usize {
        self.key.len() + self.others.len()
    }

    pub(super) fn quoted_table(&self) -> String {
        quoted(&self.table)
    }

    /// Each column as text, the same one on both databases.
    pub(super) fn on_sqlite(&self) -> Vec<String> {
        let text = |name: &String| {
            let name = quoted(name);
            format!(
                "case typeof({name}) when 'blob' then lower(hex({name})) else cast({name} as text) end"
            )
        };
        self.names().map(text).collect()
    }

    /// The same, for columns of these types.
    pub(super) fn on_postgres(&self, types: &BTreeMap<String, String>) -> Vec<String> {
        let text = |name: &String| {
            let known = types.get(name).map_or("", String::as_str);
            let name = quoted(name);
            match known {
                "bytea" => format!("encode({name}, 'hex')"),
                "uuid" => format!("replace({name}::text, '-', '')"),
                "boolean" => format!("{name}::integer::text"),
                _ => format!("{name}::text"),
            }
        };
        self.names().map(text).collect()
    }

    pub(super) fn select(&self, expressions: &[String]) -> String {
        format!(
            "select {} from {}",
            expressions.join(", "),
            self.quoted_table()
        )
    }

    /// Keeps a row, whose values are in the order of [`Self::select`].
    pub(super) fn keep(&self, rows: &mut Rows, mut key: Values) {
        let others = key.split_off(self.key.len());
        rows.insert(key, others);
    }

    async fn rows_of(&self, shadow: &Pool<Sqlite>) -> Result<Rows> {
        let mut found = Rows::default();
        let sql = self.select(&self.on_sqlite());
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch(shadow);
        let failed = || Error::database("rebuilt rows read");
        while let Some(row) = rows.try_next().await.map_err(failed())? {
            let values = (0..self.len()).map(|place| row.try_get(place));
            let values = values.collect::<Result<Values, _>>();
            self.keep(&mut found, values.map_err(failed())?);
        }
        Ok(found)
    }

    fn differences(&self, live: &Rows, rebuilt: &Rows) -> TableDifference {
        let mut found = TableDifference {
            table: self.table.clone(),
            live_count: live.len(),
            rebuilt_count: rebuilt.len(),
            ignored: self.ignored.clone(),
            ..TableDifference::default()
        };
        let mut differing = Vec::new();
        let mut only_live = Vec::new();
        for (key, ours) in live {
            match rebuilt.get(key) {
                None => only_live.push(self.difference(key, BTreeMap::new())),
                Some(theirs) if theirs != ours => {
                    let columns = self.others.iter().zip(ours.iter().zip(theirs));
                    let columns = columns.filter(|(_, (one, other))| one != other);
                    let columns = columns
                        .map(|(name, (one, other))| (name.clone(), [one.clone(), other.clone()]));
                    differing.push(self.difference(key, columns.collect()));
                }
                Some(_) => {}
            }
        }
        let only_rebuilt = rebuilt.keys().filter(|key| !live.contains_key(*key));
        let only_rebuilt: Vec<_> = only_rebuilt
            .map(|key| self.difference(key, BTreeMap::new()))
            .collect();
        (found.only_live_count, found.only_live) = first(only_live);
        (found.only_rebuilt_count, found.only_rebuilt) = first(only_rebuilt);
        (found.differing_count, found.differing) = first(differing);
        found
    }

    fn difference(
        &self,
        key: &Values,
        columns: BTreeMap<String, [Option<String>; 2]>,
    ) -> RowDifference {
        let key = self.key.iter().cloned().zip(key.iter().cloned());
        RowDifference {
            key: key.collect(),
            columns,
        }
    }
}

/// How many there are, and the first of them.
fn first(mut all: Vec<RowDifference>) -> (usize, Vec<RowDifference>) {
    let count = all.len();
    all.truncate(TOLD);
    (count, all)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
