//! Figures that depend on one thing: a line for each of its values.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

/// A curve: figures over one thing that varies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Curve {
    /// What varies, with its unit.
    pub(crate) over: String,
    /// In the order in which they were measured.
    points: Vec<Point>,
}

/// What was measured at one value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Point {
    at: f64,
    figures: BTreeMap<String, f64>,
}

impl Curve {
    pub(crate) fn over(over: &str) -> Self {
        Self {
            over: over.to_owned(),
            points: Vec::new(),
        }
    }

    /// Adds what was measured at this value.
    pub(crate) fn add(&mut self, at: f64, figures: &[(&str, f64)]) {
        let own = |(name, value): &(&str, f64)| ((*name).to_owned(), *value);
        let figures = figures.iter().map(own).collect();
        self.points.push(Point { at, figures });
    }

    /// How many times the first point's figure the last one's is; `None` if either is missing.
    pub(crate) fn growth(&self, figure: &str) -> Option<f64> {
        let at = |point: &Point| point.figures.get(figure).copied();
        let (first, last) = (at(self.points.first()?)?, at(self.points.last()?)?);
        (first > 0.0).then(|| last / first)
    }

    /// A line a value, a column a figure.
    pub(crate) fn table(&self, number: impl Fn(f64) -> String) -> Table {
        let mut names: Vec<&str> = Vec::new();
        for name in self.points.iter().flat_map(|point| point.figures.keys()) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header(std::iter::once(self.over.as_str()).chain(names.iter().copied()));
        for point in &self.points {
            let figures = names.iter().map(|name| point.figures.get(*name));
            let figures =
                figures.map(|value| value.map_or_else(String::new, |value| number(*value)));
            table.add_row(std::iter::once(number(point.at)).chain(figures));
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_compares_the_ends_and_needs_both() {
        let mut curve = Curve::over("rows");
        assert_eq!(curve.growth("µs/row"), None);
        curve.add(1.0, &[("µs/row", 2.0)]);
        curve.add(10.0, &[("µs/row", 40.0)]);
        curve.add(100.0, &[("µs/row", 3.0), ("ms", 1.0)]);
        assert_eq!(curve.growth("µs/row"), Some(1.5));
        assert_eq!(curve.growth("ms"), None);
    }

    #[test]
    fn a_table_has_a_column_for_every_figure() {
        let mut curve = Curve::over("rows");
        curve.add(1.0, &[("a", 2.0)]);
        curve.add(10.0, &[("b", 4.0)]);
        let text = curve.table(|value| value.to_string()).to_string();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains("rows") && text.contains('a') && text.contains('b'));
    }
}
