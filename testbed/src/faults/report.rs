//! The table, for people and as JSON.

use std::io::{self, Write};

use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was done.
    pub fault: String,
    /// How often: connects that had to be kept waiting.
    pub trials: u32,
    /// How many of them failed before their deadline, or at all although their proxy was ready
    /// before it.
    pub refused: u32,
    /// How many waited on though they might have gone on.
    pub stuck: u32,
    /// The longest time, in milliseconds, from the instant at which a connect might have gone on
    /// (its proxy was ready, or its deadline had come) to its end.
    pub worst_delay_ms: f64,
    /// Which were refused or stuck.
    #[serde(skip)]
    pub details: Vec<String>,
}

/// The table, as far as it has come.
#[derive(Debug)]
pub struct Report<W> {
    out: W,
    width: usize,
    ok: bool,
}

/// Between these a document has the table of the last full run.
const MARKS: [&str; 2] = ["<!-- cargo xtask faults -->\n", "<!-- end -->\n"];

const HEAD: [&str; 5] = ["fault", "trials", "refused", "stuck", "worst delay"];

// === impl Row ===

impl Row {
    /// Whether holdfast has kept its promises.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.refused == 0 && self.stuck == 0
    }
}

/// The document with these rows in the place of those that it has; `None` if it has no place for
/// them.
#[must_use]
pub fn replace_in(document: &str, rows: &[Row]) -> Option<String> {
    let [begin, end] = MARKS;
    let (before, rest) = document.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    let [fault, trials, refused, stuck, worst] = HEAD;
    let head =
        format!("| {fault} | {trials} | {refused} | {stuck} | {worst} |\n|---|---|---|---|---|\n");
    let table = rows.iter().fold(head, |table, row| {
        let Row { fault, trials, refused, stuck, worst_delay_ms, details: _ } = row;
        table + &format!("| {fault} | {trials} | {refused} | {stuck} | {worst_delay_ms:.1} ms |\n")
    });
    Some(format!("{before}{begin}{table}{end}{after}"))
}

/// The names of the faults in the document's table, and whether each row is good.
#[must_use]
pub fn rows_in(document: &str) -> Vec<(String, bool)> {
    let [begin, end] = MARKS;
    let table = document.split_once(begin).and_then(|(_, rest)| rest.split_once(end));
    let lines = table.map(|(table, _)| table).unwrap_or_default().lines().skip(2);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let cell = |index: usize| cells.get(index).copied().unwrap_or_default();
            (cell(1).to_owned(), cell(3) == "0" && cell(4) == "0")
        })
        .collect()
}

// === impl Report ===

impl<W: Write> Report<W> {
    /// Begins a table of faults with these names.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn new<'a>(mut out: W, faults: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let width = faults.into_iter().map(str::len).max().unwrap_or(0).max(HEAD[0].len());
        let [fault, trials, refused, stuck, worst] = HEAD;
        writeln!(out, "{fault:<width$}  {trials:>6}  {refused:>7}  {stuck:>5}  {worst:>13}")?;
        Ok(Self { out, width, ok: true })
    }

    /// Adds a line, and what was wrong below it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn add(&mut self, row: &Row) -> io::Result<()> {
        let Row { fault, trials, refused, stuck, worst_delay_ms, details } = row;
        let width = self.width;
        writeln!(
            self.out,
            "{fault:<width$}  {trials:>6}  {refused:>7}  {stuck:>5}  {worst_delay_ms:>10.1} ms"
        )?;
        for detail in details {
            writeln!(self.out, "    {detail}")?;
        }
        self.ok &= row.is_good();
        self.out.flush()
    }

    /// Whether all that was added is good.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            fault: "agent killed".to_owned(),
            trials: 200,
            refused: 1,
            stuck: 0,
            worst_delay_ms: 507.04,
            details: vec!["pod-7: ECONNREFUSED after 1ms of 60s".to_owned()],
        }
    }

    #[test]
    fn a_document_gets_the_rows_between_its_marks_and_nowhere_else() {
        let [begin, end] = MARKS;
        let document = format!("# A\n{begin}| old |\n{end}# B\n");
        let good = Row { refused: 0, ..row() };
        let written = replace_in(&document, &[row(), good]).unwrap();
        assert!(written.starts_with("# A\n") && written.ends_with("# B\n"));
        assert!(written.contains("| agent killed | 200 | 1 | 0 | 507.0 ms |\n"), "{written}");
        let names = [("agent killed".to_owned(), false), ("agent killed".to_owned(), true)];
        assert_eq!(rows_in(&written), names);
        assert_eq!(replace_in("# A\n", &[row()]), None);
    }

    #[test]
    fn people_see_what_was_refused_below_its_row() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, ["agent killed", "API down"]).unwrap();
        report.add(&row()).unwrap();
        assert!(!report.is_good());
        let expected = "\
fault         trials  refused  stuck    worst delay
agent killed     200        1      0       507.0 ms
    pod-7: ECONNREFUSED after 1ms of 60s
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
