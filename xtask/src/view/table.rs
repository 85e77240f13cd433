//! The table of processes: one row each, more columns where there is room.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as TableRow, Table, Widget};

use super::draw::{Picture, Theme};
use super::shop::{Health, Row};
use super::text::{duration, grouped};
use crate::manifest::State;

/// Below this the table leaves out what `./dev ps` shows, too.
const NARROW: u16 = 79;
/// From here on the table has room for more columns.
const WIDE: u16 = 110;
const WIDEST: u16 = 120;

impl Picture<'_> {
    /// Draws the table, with as many columns as the width has room for.
    pub(super) fn table(&self, area: Rect, buffer: &mut Buffer) {
        let mut columns = vec![
            Column::left("PROCESS", 17),
            Column::left("STATE", 9),
            Column::right("PID", 7),
            Column::right("PORT", 5),
            Column::right("RESTARTS", 8),
            Column::right("BACKLOG", 7),
            Column::right("LAG", 6),
            Column::right("WAITING", 7),
            Column::right("DEAD", 4),
        ];
        if area.width < NARROW {
            columns.retain(|column| !matches!(column.title, "PID" | "PORT"));
        }
        if area.width >= WIDE {
            columns.push(Column::right("OLDEST", 7));
            columns.push(Column::left("RELAY", 9));
        }
        if area.width >= WIDEST {
            columns.push(Column::left("URL", 22));
        }
        let header = columns.iter().map(|column| column.cell(column.title));
        let rows = self.shop.rows.iter().map(|row| {
            let cells = columns.iter().map(|column| {
                let (text, style) = self.value(row, column.title);
                column.cell(text).style(style)
            });
            TableRow::new(cells.collect::<Vec<_>>())
        });
        let widths = columns.iter().map(|column| column.width);
        // One column to the left and to the right stay empty.
        let inner = Rect {
            x: area.x + 1,
            width: area.width.saturating_sub(1),
            ..area
        };
        Table::new(rows, widths.map(Constraint::Length))
            .header(TableRow::new(header.collect::<Vec<_>>()).style(self.theme.quiet()))
            .column_spacing(1)
            .render(inner, buffer);
    }

    /// The text of one field and how it looks.
    fn value(&self, row: &Row, column: &str) -> (String, Style) {
        let theme = self.theme;
        let plain = |text: String| (text, Style::new());
        let number = |value: Option<u64>, style: Style| match value {
            None => (String::new(), Style::new()),
            Some(0) => ("0".to_owned(), theme.quiet()),
            Some(more) => (grouped(more), style),
        };
        let (process, source) = (&row.process, row.source.as_ref());
        match column {
            "PROCESS" => plain(process.name.clone()),
            "STATE" => state(row, theme),
            "PID" => plain(process.pid.map_or("-".to_owned(), |pid| pid.to_string())),
            "PORT" => plain(process.port.map_or("-".to_owned(), |port| port.to_string())),
            "RESTARTS" => number(Some(process.restarts.into()), theme.passing()),
            "BACKLOG" => {
                let (mut text, style) =
                    number(source.and_then(|s| s.unpublished_rows), theme.passing());
                if source.is_some_and(|source| source.unpublished_capped) {
                    text.push('+');
                }
                (text, style)
            }
            "LAG" => number(row.consumer.map(|c| c.lag), theme.passing()),
            "WAITING" => number(row.consumer.map(|c| c.waiting), theme.passing()),
            "DEAD" => number(row.consumer.map(|c| c.dead), theme.bad()),
            "OLDEST" => {
                let behind = source.filter(|source| source.unpublished_rows.unwrap_or(0) > 0);
                let age = behind.and_then(|source| source.oldest_age_ms);
                plain(age.map_or(String::new(), |ms| duration(Duration::from_millis(ms))))
            }
            "RELAY" => match source {
                Some(source) if source.alarm => (source.state.clone(), theme.bad()),
                Some(source) => plain(source.state.clone()),
                None => plain(String::new()),
            },
            "URL" => plain(process.url.clone().unwrap_or_default()),
            _ => plain(String::new()),
        }
    }
}

fn state(row: &Row, theme: Theme) -> (String, Style) {
    let word = row.process.state.word().to_owned();
    match (row.process.state, &row.health) {
        (State::Running, Health::Ready) => ("ready".to_owned(), theme.good()),
        (State::Running, Health::NotReady(_)) => ("not ready".to_owned(), theme.passing()),
        (State::Running, Health::Silent) => ("no answer".to_owned(), theme.bad()),
        (State::Running, Health::NotAsked) => (word, Style::new()),
        (State::Starting | State::Stopping, _) => (word, theme.passing()),
        (State::Waiting, _) => (word, theme.bad()),
        (State::Stopped, _) => (word, theme.quiet()),
    }
}

/// One column of the table.
struct Column {
    title: &'static str,
    width: u16,
    right: bool,
}

impl Column {
    fn left(title: &'static str, width: u16) -> Self {
        Self {
            title,
            width,
            right: false,
        }
    }

    fn right(title: &'static str, width: u16) -> Self {
        Self {
            right: true,
            ..Self::left(title, width)
        }
    }

    fn cell(&self, text: impl Into<String>) -> Cell<'static> {
        let line = Line::from(text.into());
        Cell::from(match self.right {
            true => line.right_aligned(),
            false => line,
        })
    }
}
