//! Which feature works on which kernel: nothing but the results of the tests, laid out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::verdict::Verdict;

/// Which tests show that a feature works: by name, or a module's by its name and `::`.
struct Feature {
    name: &'static str,
    tests: &'static [&'static str],
}

/// In the order of the table. A test may count for several; each must for one at least.
const FEATURES: [Feature; 13] = [
    Feature { name: "hold", tests: &["hold::", "exempt::"] },
    Feature {
        name: "replay",
        tests: &[
            "guard::a_replay_lets_nobody_be_refused_who_is_held_after_it",
            "hold::a_multipath_connect_is_held_and_replayed_like_any_other",
            "hold::held_connects_are_released_by_replay",
            "query::an_answer_to_a_replayed_query_reaches_its_socket",
        ],
    },
    Feature { name: "DNS", tests: &["query::", "sockopt::"] },
    Feature { name: "guard", tests: &["guard::"] },
    Feature { name: "refuse", tests: &["refuse::"] },
    Feature { name: "v6", tests: &["v6::"] },
    Feature { name: "pinning", tests: &["pins::"] },
    // BPF_LINK_UPDATE: by the next agent, and when a pod is followed line by line.
    Feature {
        name: "swap",
        tests: &[
            "pins::a_hold_goes_on_from_one_agent_to_the_next",
            "voice::a_gate_holds_while_its_programs_are_exchanged",
        ],
    },
    Feature { name: "log lines", tests: &["voice::"] },
    Feature { name: "sentry", tests: &["sentry::"] },
    // What closed gates do while nobody is going to open them.
    Feature { name: "absence", tests: &["away::"] },
    // The proxy's, of which the agent is told when they come.
    Feature { name: "listeners", tests: &["awaited::"] },
    // All programs pass the verifier, for what they were recorded to cost.
    Feature { name: "verifier", tests: &["cost::", "parts::"] },
];

/// How a feature fares on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    tests: usize,
    failed: usize,
    /// Whether further tests might have failed.
    is_complete: bool,
    /// What is left of it, where the kernel lacks a part.
    only: Option<String>,
}

/// A row of the matrix: a feature, and a cell for each kernel.
#[derive(Debug)]
pub(crate) struct Row {
    feature: &'static str,
    cells: Vec<Cell>,
}

/// Lays the verdicts out, in their order.
pub(crate) fn rows(verdicts: &[&Verdict]) -> Vec<Row> {
    let row = |feature: &Feature| Row {
        feature: feature.name,
        cells: verdicts.iter().map(|verdict| feature.cell(verdict)).collect(),
    };
    FEATURES.iter().map(row).collect()
}

/// What the table itself cannot vouch for: features that no test has shown, tests that show none,
/// and words about features that there are not. `labels` name the kernels.
pub(crate) fn gaps(verdicts: &[&Verdict], labels: &[String]) -> Vec<String> {
    let mut gaps = BTreeSet::new();
    for (verdict, label) in verdicts.iter().zip(labels) {
        for feature in &FEATURES {
            for pattern in feature.tests {
                if !verdict.tests.keys().any(|test| shows(pattern, test)) {
                    gaps.insert(format!("{label}: no test {pattern} ran for {}", feature.name));
                }
            }
        }
        for test in verdict.tests.keys() {
            if !FEATURES.iter().any(|feature| feature.has(test)) {
                gaps.insert(format!("{test} is for no feature (xtask/src/kernels/matrix.rs)"));
            }
        }
        for lacking in verdict.lacks.keys() {
            if !FEATURES.iter().any(|feature| feature.name == lacking) {
                gaps.insert(format!("{label}: no feature is called {lacking}"));
            }
        }
    }
    gaps.into_iter().collect()
}

/// Columns as wide as their widest cell.
pub(crate) fn table(header: &[String], rows: &[Vec<String>]) -> Vec<String> {
    let lines = || [header].into_iter().chain(rows.iter().map(Vec::as_slice));
    let width = |column: usize| {
        lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..header.len()).filter_map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines().map(line).collect()
}

fn shows(pattern: &str, test: &str) -> bool {
    if pattern.ends_with("::") { test.starts_with(pattern) } else { test == pattern }
}

// === impl Feature ===

impl Feature {
    fn has(&self, test: &str) -> bool {
        self.tests.iter().any(|pattern| shows(pattern, test))
    }

    fn cell(&self, verdict: &Verdict) -> Cell {
        let results = || verdict.tests.iter().filter(|(test, _)| self.has(test));
        Cell {
            tests: results().count(),
            failed: results().filter(|(_, passed)| !**passed).count(),
            is_complete: verdict.is_complete,
            only: verdict.lacks.get(self.name).cloned(),
        }
    }
}

// === impl Row ===

impl Row {
    /// As people read it.
    pub(crate) fn text(&self) -> Vec<String> {
        let Self { feature, cells } = self;
        [(*feature).to_owned()].into_iter().chain(cells.iter().map(Cell::text)).collect()
    }

    /// As programs read it.
    pub(crate) fn json(&self, labels: &[String]) -> Value {
        let Self { feature, cells } = self;
        let cells: serde_json::Map<_, _> =
            labels.iter().cloned().zip(cells.iter().map(Cell::json)).collect();
        json!({"feature": feature, "kernels": cells})
    }
}

// === impl Cell ===

impl Cell {
    const fn works(&self) -> bool {
        self.tests > 0 && self.failed == 0 && self.is_complete
    }

    fn text(&self) -> String {
        let Self { tests, failed, is_complete, only } = self;
        match only {
            _ if *failed > 0 => format!("NO: {failed} of {tests} failed"),
            _ if !is_complete => "not finished".into(),
            _ if *tests == 0 => "not tried".into(),
            Some(only) => format!("yes, {only}"),
            None => "yes".into(),
        }
    }

    fn json(&self) -> Value {
        let Self { tests, failed, is_complete: _, only } = self;
        json!({"works": self.works(), "tests": tests, "failed": failed, "only": only})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verdict in which every feature has been tried.
    fn verdict(failed: &[&str], lacks: &[(&str, &str)]) -> Verdict {
        let patterns = FEATURES.iter().flat_map(|feature| feature.tests);
        let name = |pattern: &&str| {
            if pattern.ends_with("::") { format!("{pattern}a_test") } else { (*pattern).to_owned() }
        };
        let owned = |(one, other): &(&str, &str)| ((*one).to_owned(), (*other).to_owned());
        Verdict {
            tests: patterns
                .map(|pattern| (name(pattern), !failed.contains(&name(pattern).as_str())))
                .collect(),
            lacks: lacks.iter().map(owned).collect(),
            is_complete: true,
            ..Verdict::default()
        }
    }

    fn text(rows: &[Row], feature: &str) -> Vec<String> {
        rows.iter().find(|row| row.feature == feature).map(Row::text).unwrap_or_default()
    }

    #[test]
    fn cells_tell_what_the_tests_have_found() {
        let old = verdict(&[], &[("refuse", "ECONNREFUSED only")]);
        let broken = verdict(&["v6::a_test"], &[("v6", "some")]);
        let rows = rows(&[&old, &broken]);
        assert_eq!(text(&rows, "hold"), ["hold", "yes", "yes"]);
        assert_eq!(text(&rows, "refuse"), ["refuse", "yes, ECONNREFUSED only", "yes"]);
        assert_eq!(text(&rows, "v6"), ["v6", "yes", "NO: 1 of 1 failed"]);
        assert_eq!(gaps(&[&old, &broken], &["old".into(), "broken".into()]), [""; 0]);
        let labels = ["old".to_owned(), "broken".to_owned()];
        let refuse = rows.iter().find(|row| row.feature == "refuse").map(|row| row.json(&labels));
        let expected = json!({"feature": "refuse", "kernels": {
            "old": {"works": true, "tests": 1, "failed": 0, "only": "ECONNREFUSED only"},
            "broken": {"works": true, "tests": 1, "failed": 0, "only": null},
        }});
        assert_eq!(refuse, Some(expected));
    }

    #[test]
    fn of_a_machine_that_died_only_the_failures_are_certain() {
        let died = Verdict { is_complete: false, ..verdict(&["v6::a_test"], &[]) };
        let rows = rows(&[&died]);
        assert_eq!(text(&rows, "hold"), ["hold", "not finished"]);
        assert_eq!(text(&rows, "v6"), ["v6", "NO: 1 of 1 failed"]);
    }

    #[test]
    fn nothing_is_taken_for_granted() {
        let mut verdict = verdict(&[], &[("speed", "half of it")]);
        verdict.tests.remove("sentry::a_test");
        verdict.tests.insert("other::a_test".into(), true);
        assert_eq!(text(&rows(&[&verdict]), "sentry"), ["sentry", "not tried"]);
        assert_eq!(
            gaps(&[&verdict], &["6.1".into()]),
            [
                "6.1: no feature is called speed",
                "6.1: no test sentry:: ran for sentry",
                "other::a_test is for no feature (xtask/src/kernels/matrix.rs)",
            ]
        );
    }

    #[test]
    fn the_documents_table_has_these_features() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/requirements.md");
        let document = std::fs::read_to_string(document).unwrap();
        let (_, table) = document.split_once("| Feature |").unwrap();
        // After the header and the line below it.
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| "));
        let told: Vec<_> =
            rows.map(|row| row.split([':', '|']).next().unwrap_or_default().trim()).collect();
        assert_eq!(told, FEATURES.map(|feature| feature.name));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let strings = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let lines = table(&strings(["feature", "5.10"]), &[strings(["v6", "yes, some"])]);
        assert_eq!(lines, ["feature  5.10", "v6       yes, some"]);
    }
}
