//! What a rebuild came to, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::{Rebuilt, RowDifference, TableDifference};

/// Refused messages shown to people.
const SHOWN: usize = 20;

/// What a rebuild came to. `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which consumer's state.
    pub consumer: String,
    /// What was read.
    pub rebuilt: Rebuilt,
    /// Its tables, held against the live ones.
    pub tables: Vec<TableDifference>,
}

impl Report {
    /// Both sides say the same.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(TableDifference::is_equal)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rebuilt {
            topic_count,
            partition_count,
            handled_count,
            repeated_count,
            refused,
            unhandled_live_count,
        } = &self.rebuilt;
        let refused_count = refused.len();
        writeln!(
            f,
            "{}: {handled_count} messages handled, {repeated_count} repeated, {refused_count} \
             refused, of {topic_count} topics in {partition_count} partitions",
            self.consumer
        )?;
        for one in refused.iter().take(SHOWN) {
            writeln!(f, "  refused {}: {}", one.message, one.reason)?;
        }
        if *unhandled_live_count > 0 {
            writeln!(
                f,
                "  {unhandled_live_count} messages wait in the live database or are dead letters \
                 there; they were tried here"
            )?;
        }
        let longest = self.tables.iter().map(|table| table.table.len()).max();
        let width = longest.unwrap_or_default().max("TABLE".len());
        writeln!(
            f,
            "{:width$}  {:>9}  {:>9}  {:>9}  {:>12}  {:>9}  NOT COMPARED",
            "TABLE", "LIVE", "REBUILT", "ONLY LIVE", "ONLY REBUILT", "DIFFERING"
        )?;
        for table in &self.tables {
            writeln!(
                f,
                "{:width$}  {:>9}  {:>9}  {:>9}  {:>12}  {:>9}  {}",
                table.table,
                table.live_count,
                table.rebuilt_count,
                table.only_live_count,
                table.only_rebuilt_count,
                table.differing_count,
                table.ignored.join(", ")
            )?;
        }
        for table in &self.tables {
            let kinds = [
                ("only live", &table.only_live),
                ("only rebuilt", &table.only_rebuilt),
                ("differs", &table.differing),
            ];
            for (kind, rows) in kinds {
                for row in rows {
                    writeln!(f, "{} {kind}: {}", table.table, Told(row))?;
                }
            }
        }
        match self.is_equal() {
            true => f.write_str("equal"),
            false => f.write_str("different"),
        }
    }
}

/// `product_id=product_1 (stock: live 5, rebuilt 7)`
struct Told<'a>(&'a RowDifference);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
        let Self(RowDifference { key, columns }) = self;
        let key: Vec<String> = key
            .iter()
            .map(|(name, value)| format!("{name}={}", shown(value)))
            .collect();
        f.write_str(&key.join(" "))?;
        let columns: Vec<String> = columns
            .iter()
            .map(|(name, [live, rebuilt])| {
                format!("{name}: live {}, rebuilt {}", shown(live), shown(rebuilt))
            })
            .collect();
        match columns.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", columns.join("; ")),
        }
    }
}
