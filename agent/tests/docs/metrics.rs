//! docs/metrics.md: its table is made from the registry.

use std::fmt::Write as _;

use holdfast::metrics::{Description, descriptions};

pub(crate) fn table() -> String {
    let mut table =
        "| Metric | Type | Unit | Labels | What it tells |\n|---|---|---|---|---|\n".to_owned();
    for Description { name, kind, unit, labels, help } in descriptions() {
        assert!(!help.contains('|'), "a bar would end a cell: {help}");
        let unit = unit.unwrap_or_default();
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join(", "));
    }
    table
}
