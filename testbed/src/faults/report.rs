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
    /// How many of them failed before their deadline.
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

const HEAD: [&str; 5] = ["fault", "trials", "refused", "stuck", "worst delay"];

// === impl Row ===

impl Row {
    /// Whether holdfast has kept its promises.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.refused == 0 && self.stuck == 0
    }
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

    #[test]
    fn people_see_what_was_refused_below_its_row() {
        let row = Row {
            fault: "agent killed".to_owned(),
            trials: 200,
            refused: 1,
            stuck: 0,
            worst_delay_ms: 507.04,
            details: vec!["pod-7: ECONNREFUSED after 1ms of 60s".to_owned()],
        };
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, ["agent killed", "API down"]).unwrap();
        report.add(&row).unwrap();
        assert!(!report.is_good());
        let expected = "\
fault         trials  refused  stuck    worst delay
agent killed     200        1      0       507.0 ms
    pod-7: ECONNREFUSED after 1ms of 60s
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
