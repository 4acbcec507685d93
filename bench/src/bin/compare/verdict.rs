//! How figures are printed: each with what was promised and whether it holds.
//!
//! Invariant: a figure that has a promise is never printed without it.

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_HORIZONTAL_ONLY};
use comfy_table::{CellAlignment, Table};

/// The verdict on one figure.
pub(crate) fn word(holds: bool) -> &'static str {
    if holds { "ok" } else { "miss" }
}

/// A table whose first column is text and whose others are figures.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, markdown: bool) -> Table {
    let mut table = Table::new();
    table
        .load_preset(if markdown { ASCII_MARKDOWN } else { UTF8_HORIZONTAL_ONLY })
        .set_header(header)
        .add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A figure, its promise and the verdict, on a line or as a row of a Markdown table.
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) figure: String,
    pub(crate) target: String,
    pub(crate) holds: bool,
}

impl Verdict {
    pub(crate) fn print(&self, markdown: bool) {
        let Self { what, figure, target, holds } = self;
        let word = word(*holds);
        if markdown {
            println!("| {what} | {figure} | {target} | {word} |");
        } else {
            println!("{what}: {figure} (target: {target}) {word}");
        }
    }
}

/// The middle of an odd number of figures, the mean of the middle two of an even one.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => figures[length / 2],
        length => f64::midpoint(figures[length / 2 - 1], figures[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }
}
