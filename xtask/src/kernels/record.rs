//! The record of what the programs cost, with which `agent/tests/kernel/cost.rs` compares.

use std::{collections::BTreeMap, fmt::Write as _, fs, io};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use super::verdict::{Cost, Verdict};
use crate::workspace::Workspace;

/// Below the workspace.
const FILE: &str = "agent/tests/kernel/programs.json";

/// Writes what these kernels have measured; others keep theirs, unless the record begins `anew`.
pub(crate) fn write(workspace: &Workspace, verdicts: &[&Verdict], anew: bool) -> Result<()> {
    let path = workspace.root.join(FILE);
    let mut record = match fs::read_to_string(&path) {
        _ if anew => Map::new(),
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("read {FILE}"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error).with_context(|| format!("read {FILE}")),
    };
    for verdict in verdicts {
        let Verdict { kernel, costs, .. } = verdict;
        ensure!(!costs.is_empty(), "the tests on Linux {kernel} have told no costs");
        let number = |number: u32| Value::from(number);
        let entry = |(name, cost): (&String, &Cost)| {
            let Cost { instructions, verified, peak_states, verifier_us } = *cost;
            let numbers = [
                ("instructions", number(instructions)),
                ("peak_states", number(peak_states)),
                ("verified", number(verified)),
                // For the reader: it is the machine's speed as well, so nothing is judged by it.
                ("verifier_us", number(verifier_us)),
            ];
            let numbers = numbers.map(|(name, number)| (name.to_owned(), number));
            (name.clone(), Value::Object(numbers.into_iter().collect()))
        };
        let programs = Value::Object(costs.iter().map(entry).collect());
        record.insert(version(kernel).to_owned(), programs);
    }
    fs::write(&path, render(&record)).with_context(|| format!("write {FILE}"))
}

/// Major and minor number of a release.
pub(crate) fn version(release: &str) -> &str {
    let end = release.match_indices(|c: char| !c.is_ascii_digit()).nth(1);
    end.map_or(release, |(end, _)| &release[..end])
}

/// A line for each program, the kernels by age: changes can be read.
fn render(record: &Map<String, Value>) -> String {
    let age = |kernel: &str| -> Vec<u32> {
        kernel.split('.').filter_map(|number| number.parse().ok()).collect()
    };
    let kernels: BTreeMap<_, _> =
        record.iter().map(|(kernel, programs)| (age(kernel), (kernel, programs))).collect();
    let mut text = "{\n".to_owned();
    for (nth, (kernel, programs)) in kernels.values().enumerate() {
        let programs = programs.as_object().into_iter().flatten();
        let lines: Vec<_> =
            programs.map(|(name, numbers)| format!("    \"{name}\": {numbers}")).collect();
        let end = if nth + 1 == kernels.len() { "" } else { "," };
        // Writing to a String cannot fail.
        let _: std::fmt::Result =
            writeln!(text, "  \"{kernel}\": {{\n{}\n  }}{end}", lines.join(",\n"));
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_recorded_by_their_first_two_numbers() {
        for (release, expected) in [
            ("5.10.0-46-cloud-amd64", "5.10"),
            ("7.2.13+deb14-cloud-amd64", "7.2"),
            ("6.18", "6.18"),
            ("7.3-rc1", "7.3"),
        ] {
            assert_eq!(version(release), expected);
        }
    }

    #[test]
    fn what_was_not_measured_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let [root, target] = ["root", "target"].map(|name| directory.path().join(name));
        let workspace = Workspace { root, target };
        let path = workspace.root.join(FILE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let verdict = |kernel: &str, instructions| {
            let cost = Cost { instructions, verified: 30, peak_states: 4, verifier_us: 5 };
            let costs = [("gate".to_owned(), cost)].into();
            Verdict { kernel: kernel.into(), costs, ..Verdict::default() }
        };
        let [first, second] = [verdict("6.1.0-50", 10), verdict("5.10.0-46", 20)];
        write(&workspace, &[&first], false).unwrap();
        write(&workspace, &[&second], false).unwrap();
        let expected = "{\n  \"5.10\": {\n    \"gate\": \
            {\"instructions\":20,\"peak_states\":4,\"verified\":30,\"verifier_us\":5}\n  },\n  \
            \"6.1\": {\n    \"gate\": {\"instructions\":10,\"peak_states\":4,\"verified\":30,\
            \"verifier_us\":5}\n  }\n}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        write(&workspace, &[&first], true).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("5.10"));
        write(&workspace, &[&Verdict::default()], false).unwrap_err();
    }
}
