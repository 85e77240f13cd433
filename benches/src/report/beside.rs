//! Our relay's figures beside another's.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use super::{Report, number, ratio};
use crate::relay::Whose;

impl Report {
    /// Medians of every figure that both have, and how many times better or worse ours is.
    pub(super) fn beside(&self, other: Whose) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header(["", "Onceward", other.name(), "Onceward is"]);
        let mut case = "";
        for ours in &self.figures {
            let theirs = other.case(&ours.case);
            let theirs = self
                .figures
                .iter()
                .find(|figure| figure.case == theirs && figure.metric == ours.metric);
            let Some(theirs) = theirs else { continue };
            if case != ours.case {
                case = &ours.case;
                table.add_row([case]);
            }
            table.add_row([
                format!("  {}", ours.metric),
                number(ours.median()),
                number(theirs.median()),
                ratio(ours, theirs.median()),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}
