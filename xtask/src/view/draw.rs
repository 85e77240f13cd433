//! The view as a picture: state in, characters out. Nothing here asks or waits.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Sparkline, Widget};

use super::said;
use super::shop::{Health, Row, Shop};
use super::text::{cut, duration, grouped, whole, width, wrapped};
use crate::manifest::State;
use crate::up::Hints;

/// Below this there is no room for a table.
const SMALLEST: (u16, u16) = (66, 12);

/// Whether colours may be used.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    /// As `NO_COLOR` says.
    pub colour: bool,
}

impl Theme {
    fn with(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }
    pub(super) fn good(self) -> Style {
        self.with(Color::Green)
    }
    pub(super) fn passing(self) -> Style {
        self.with(Color::Yellow)
    }
    pub(super) fn bad(self) -> Style {
        self.with(Color::Red).add_modifier(Modifier::BOLD)
    }
    pub(super) fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
    fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// All that a picture shows.
#[derive(Debug)]
pub struct Picture<'a> {
    /// The shop.
    pub shop: &'a Shop,
    /// What was said last, oldest first.
    pub said: &'a [said::Line],
    /// What a person can try.
    pub hints: &'a Hints,
    /// How long the run has lasted.
    pub now: Duration,
    /// Colours.
    pub theme: Theme,
}

impl Widget for Picture<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
            let text = "the view needs a larger terminal; p = plain lines, q = stop";
            buffer.set_stringn(area.x, area.y, text, area.width.into(), Style::new());
            return;
        }
        let hints = self.hint_lines(area);
        let sizes = Sizes::fit(area, &self, hints.len());
        let [
            title,
            table,
            orders,
            curve,
            trouble,
            said_rule,
            said,
            hint_rule,
            hint,
        ] = Layout::vertical(sizes.all().map(Constraint::Length)).areas(area);
        self.title(title, buffer);
        self.table(table, buffer);
        self.orders(orders, buffer);
        self.curve(curve, buffer);
        self.trouble(trouble, buffer);
        self.rule("Events", "", said_rule, buffer);
        self.said(said, buffer);
        let keys = "q stop everything · p plain lines";
        self.rule("Try it in another terminal", keys, hint_rule, buffer);
        for (line, y) in hints.iter().zip(hint.top()..hint.bottom()) {
            buffer.set_stringn(hint.x, y, line, hint.width.into(), Style::new());
        }
    }
}

/// Heights of the parts, top to bottom.
struct Sizes {
    table: u16,
    curve: u16,
    trouble: u16,
    said: u16,
    hints: u16,
}

impl Sizes {
    /// What is left is for the events; where that is too little, others give way.
    fn fit(area: Rect, picture: &Picture<'_>, hints: usize) -> Self {
        let height = area.height;
        let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let mut sizes = Self {
            table: count(picture.shop.rows.len()).saturating_add(1),
            curve: if height >= 34 { 4 } else { 2 },
            trouble: count(picture.trouble_lines(area.width).len()).min(height / 6),
            said: 0,
            hints: count(hints),
        };
        while sizes.sum() + 3 > height {
            let least = sizes.trouble.min(1);
            match () {
                () if sizes.curve > 0 => sizes.curve -= 1,
                () if sizes.trouble > least => sizes.trouble -= 1,
                () if sizes.hints > 0 => sizes.hints -= 1,
                () if sizes.table > 3 => sizes.table -= 1,
                () => break,
            }
        }
        sizes.said = height.saturating_sub(sizes.sum());
        sizes
    }

    fn all(&self) -> [u16; 9] {
        let title_and_rules = 1;
        [
            title_and_rules,
            self.table,
            title_and_rules,
            self.curve,
            self.trouble,
            title_and_rules,
            self.said,
            title_and_rules,
            self.hints,
        ]
    }

    fn sum(&self) -> u16 {
        self.all().iter().sum()
    }
}

impl Picture<'_> {
    fn title(&self, area: Rect, buffer: &mut Buffer) {
        let rows = &self.shop.rows;
        let works = |row: &&Row| row.process.state == State::Running && row.health == Health::Ready;
        let ready = rows.iter().filter(works).count();
        let (word, style) = match self.shop.trouble.iter().any(|trouble| trouble.alarm) {
            _ if rows.is_empty() => ("looking".to_owned(), self.theme.quiet()),
            true => ("needs a person".to_owned(), self.theme.bad()),
            false if ready < rows.len() => (
                format!("{ready} of {} ready", rows.len()),
                self.theme.passing(),
            ),
            false => (format!("all {ready} ready"), self.theme.good()),
        };
        let left = Line::from_iter([
            Span::styled(" Onceward  ", self.theme.strong()),
            Span::styled(word, style),
        ]);
        left.render(area, buffer);
        let up = format!("up {} ", duration(self.now));
        // The style on the span: a line's own style would cover the left side, too.
        Line::from(Span::styled(up, self.theme.quiet()))
            .right_aligned()
            .render(area, buffer);
    }

    /// The numbers stand in the rule above the curve.
    fn orders(&self, area: Rect, buffer: &mut Buffer) {
        let orders = &self.shop.orders;
        let rate = |value: Option<f64>| value.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
        let ended = orders.completed.rate().zip(orders.failed.rate());
        let text = format!(
            "{} placed/s · {} ended/s · {} under way",
            rate(orders.placed.rate()),
            rate(ended.map(|(completed, failed)| completed + failed)),
            orders.under_way.map_or("-".to_owned(), grouped),
        );
        let totals = format!(
            "{} placed, {} completed, {} failed",
            whole(orders.placed.total),
            whole(orders.completed.total),
            whole(orders.failed.total)
        );
        self.rule(&format!("Orders: {text}"), &totals, area, buffer);
    }

    fn curve(&self, area: Rect, buffer: &mut Buffer) {
        let history = &self.shop.orders.history;
        let shown = history.len().min(area.width.into());
        let data: Vec<u64> = history
            .iter()
            .skip(history.len() - shown)
            .copied()
            .collect();
        let shift = area.width - u16::try_from(shown).unwrap_or(area.width);
        let newest_right = Rect {
            x: area.x + shift,
            width: area.width - shift,
            ..area
        };
        Sparkline::default()
            // A flat line of one order a second is not drawn as high as it gets.
            .max(data.iter().copied().max().unwrap_or(0).max(4))
            .data(data)
            .style(self.theme.with(Color::Cyan))
            .render(newest_right, buffer);
    }

    /// Each in two lines at most.
    fn trouble_lines(&self, width: u16) -> Vec<(String, Style)> {
        let lines = self.shop.trouble.iter().flat_map(|trouble| {
            let style = match trouble.alarm {
                true => self.theme.bad(),
                false => self.theme.passing(),
            };
            let lines = wrapped(&trouble.text, width.saturating_sub(3), 2);
            let marks = [" ! ", "   "];
            let line = move |(mark, line): (&str, String)| (format!("{mark}{line}"), style);
            marks.into_iter().zip(lines).map(line)
        });
        lines.collect()
    }

    fn trouble(&self, area: Rect, buffer: &mut Buffer) {
        let lines = self.trouble_lines(area.width);
        for ((text, style), y) in lines.into_iter().zip(area.top()..area.bottom()) {
            buffer.set_stringn(area.x, y, text, area.width.into(), style);
        }
    }

    fn said(&self, area: Rect, buffer: &mut Buffer) {
        let hidden = self.said.len().saturating_sub(area.height.into());
        let shown = self.said.iter().skip(hidden).zip(area.top()..);
        for (line, y) in shown {
            let time = format!("{:6.1} s", line.at.as_secs_f32());
            let first = line.text.lines().next().unwrap_or_default();
            let width = area.width.saturating_sub(10);
            buffer.set_string(area.x, y, time, self.theme.quiet());
            buffer.set_string(area.x + 10, y, cut(first, width), Style::new());
        }
    }

    /// `── left ──────── right ──`
    fn rule(&self, left: &str, right: &str, area: Rect, buffer: &mut Buffer) {
        let line = "─".repeat(area.width.into());
        buffer.set_string(area.x, area.y, line, self.theme.quiet());
        let left = cut(&format!(" {left} "), area.width.saturating_sub(4));
        let right = format!(" {right} ");
        let used = width(&left) + 2;
        buffer.set_string(area.x + 2, area.y, left, self.theme.strong());
        let room = area.width.saturating_sub(used + 4);
        if width(&right) > 2 && width(&right) <= room {
            let x = area.right() - 2 - width(&right);
            buffer.set_string(x, area.y, right, Style::new());
        }
    }

    /// As many as the height has room for: the curl lines always, the rest as one line or as several.
    fn hint_lines(&self, area: Rect) -> Vec<String> {
        let hints = self.hints;
        let [curl, body] = hints.curl();
        let indented = width(&body) + 3 <= area.width;
        // Without the space it fits into 80 columns.
        let body = match indented {
            true => format!("   {body}"),
            false => body.replacen("-d '", "-d'", 1),
        };
        let curl = match indented {
            true => format!(" {curl}"),
            false => curl,
        };
        let (load, onceward) = (hints.load(), &hints.onceward);
        if area.height < 32 {
            let load = load.replace(" --seconds 30", "");
            return vec![
                curl,
                body,
                cut(
                    &format!(" {load} · {onceward} status | verify | message trace ID"),
                    area.width,
                ),
            ];
        }
        vec![
            curl,
            body,
            format!(" curl {}", hints.orders),
            format!(" {load}"),
            format!(" {onceward} status"),
            format!(" {onceward} message trace ORDER_ID"),
            format!(" {onceward} verify"),
        ]
    }
}
