//! What libFuzzer says (FuzzerLoop.cpp of compiler-rt, `PrintStats` and `PrintFinalStats`).

use anyhow::{Context as _, Result};

use crate::console;

/// What came of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Inputs that were tried.
    runs: u64,
    /// In a second.
    rate: u64,
    /// Places in the code that were reached, and how many of them the seeds had not.
    covered: u64,
    new: u64,
    /// One, of whatever kind: libFuzzer ends with the first.
    crashes: u64,
}

// === impl Outcome ===

impl Outcome {
    /// From the whole output. An error if it is not that of a run that has begun and ended.
    pub(super) fn read(text: &str, succeeded: bool) -> Result<Self> {
        let statistic = |name: &str| {
            let prefix = format!("stat::{name}:");
            let value = text.lines().rev().find_map(|line| line.strip_prefix(&prefix))?;
            value.trim().parse::<u64>().ok()
        };
        let covered: Vec<u64> = text.lines().filter_map(coverage).collect();
        let last = covered.last().copied().unwrap_or_default();
        let first = covered.first().copied().unwrap_or_default();
        let runs = statistic("number_of_executed_units");
        let outcome = Self {
            runs: runs.unwrap_or_default(),
            rate: statistic("average_exec_per_sec").unwrap_or_default(),
            covered: last,
            new: last.saturating_sub(first),
            crashes: u64::from(!succeeded),
        };
        if succeeded {
            runs.filter(|runs| *runs > 0).context("nothing was run")?;
            covered.first().context("nothing was instrumented")?;
        } else {
            // What has found something says so; anything else is a run that could not be made.
            artifact(text).context("it has failed without an input to blame")?;
        }
        Ok(outcome)
    }

    pub(super) const fn is_good(&self) -> bool {
        self.crashes == 0
    }
}

/// The number behind `cov:` in a line such as `#4  INITED cov: 12 ft: 13 corp: 2/9b ...`.
fn coverage(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix('#')?.split_once(" cov: ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The file with the input that has broken the target.
pub(super) fn artifact(text: &str) -> Option<&str> {
    text.lines().rev().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim()))
}

/// What was said when it broke: the panic and its message, or libFuzzer's own word.
pub(super) fn panic(text: &str) -> impl Iterator<Item = &str> {
    /// A panic's place, and some lines of an assertion.
    const LINES: usize = 4;
    let begins = |line: &&str| line.contains(" panicked at ") || line.contains("ERROR: libFuzzer");
    let text = text.lines().skip_while(move |line| !begins(line));
    text.take_while(|line| !line.contains("stack backtrace:")).take(LINES)
}

/// One row for each target.
pub(super) fn print(outcomes: &[(String, Outcome)]) {
    let row = |name: &str, columns: [&str; 5]| {
        let [runs, rate, covered, new, crashes] = columns;
        console::line(&format!(
            "{name:10} {runs:>10} {rate:>12} {covered:>8} {new:>12} {crashes:>7}"
        ));
    };
    row("target", ["runs", "executions/s", "coverage", "new coverage", "crashes"]);
    for (name, Outcome { runs, rate, covered, new, crashes }) in outcomes {
        let columns = [runs, rate, covered, new, crashes].map(ToString::to_string);
        row(name, columns.each_ref().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "INFO: Running with entropic power schedule (0xFF, 100).\n\
        #10\tINITED cov: 64 ft: 65 corp: 9/12b exec/s: 0 rss: 40Mb\n\
        #4096\tNEW    cov: 70 ft: 80 corp: 10/13b lim: 4 exec/s: 0 rss: 41Mb L: 1/2 MS: 1 Foo-\n\
        #9000\tDONE   cov: 71 ft: 82 corp: 10/13b lim: 8 exec/s: 4500 rss: 41Mb\n\
        stat::number_of_executed_units: 9000\nstat::average_exec_per_sec:     4500\n";

    #[test]
    fn a_run_is_read() {
        let outcome = Outcome::read(GOOD, true).unwrap();
        let expected = Outcome { runs: 9000, rate: 4500, covered: 71, new: 7, crashes: 0 };
        assert_eq!(outcome, expected);
        assert!(outcome.is_good());
    }

    #[test]
    fn a_crash_names_its_input_and_its_reason() {
        let text = format!(
            "#2\tINITED cov: 5 ft: 5\n\nthread '<unnamed>' (7) panicked at agent/src/a.rs:9:5:\n\
             assertion failed: x\nnote: run\n==7== ERROR: libFuzzer: deadly signal\n\
             artifact_prefix='/t/'; Test unit written to /t/crash-83\nstat::number_of_executed_units: 3\n"
        );
        let outcome = Outcome::read(&text, false).unwrap();
        assert_eq!((outcome.crashes, outcome.runs, outcome.is_good()), (1, 3, false));
        assert_eq!(artifact(&text), Some("/t/crash-83"));
        assert!(panic(&text).next().unwrap().ends_with("agent/src/a.rs:9:5:"));
    }

    #[test]
    fn a_run_that_has_run_nothing_is_an_error() {
        assert!(Outcome::read("", true).is_err());
        assert!(Outcome::read("error: failed to write seeds", false).is_err());
        assert!(Outcome::read(&GOOD.replace("units: 9000", "units: 0"), true).is_err());
        assert!(Outcome::read(&GOOD.replace(" cov: ", " "), true).is_err());
    }
}
