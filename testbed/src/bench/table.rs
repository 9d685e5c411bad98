//! Tables that are Markdown, and that a person can read in a terminal as they are.

use std::fmt::Write as _;

/// A table; each row has as many cells as the head. All columns but the first are numbers.
pub(crate) fn table<H: AsRef<str>>(head: &[H], rows: &[Vec<String>]) -> String {
    let head: Vec<&str> = head.iter().map(AsRef::as_ref).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count(), 3]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let mut line = String::from("|");
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let written = match column {
                0 => write!(line, " {cell:<width$} |"),
                _ => write!(line, " {cell:>width$} |"),
            };
            written.expect("a string can be written to");
        }
        line + "\n"
    };
    let dashes: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, width)| match column {
            0 => "-".repeat(*width),
            _ => "-".repeat(width - 1) + ":",
        })
        .collect();
    let dashes: Vec<&str> = dashes.iter().map(String::as_str).collect();
    let rows = rows.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    [line(&head), line(&dashes)].into_iter().chain(rows).collect()
}

/// A number with three significant digits, and none that say nothing: 0.00123, 1.23, 12.3, 12345.
pub(crate) fn number(value: f64) -> String {
    const SIGNIFICANT: i32 = 3;
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = SIGNIFICANT - 1 - value.abs().log10().floor() as i32;
    format!("{value:.*}", usize::try_from(digits).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_and_aligned() {
        let rows = [["hold", "2.5"], ["nothing", "10200"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let expected = "\
| way     | p50 ms |
| ------- | -----: |
| hold    |    2.5 |
| nothing |  10200 |
";
        assert_eq!(table(&["way", "p50 ms"], &rows), expected);
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        let shown = [0.001_234, 0.999_6, 1.0, 12.34, 999.0, 12_345.6, -2.5, 0.0].map(number);
        let expected = ["0.00123", "1.000", "1.00", "12.3", "999", "12346", "-2.50", "0"];
        assert_eq!(shown, expected);
    }
}
