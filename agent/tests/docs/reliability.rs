//! docs/reliability.md: its table has a row for each fault of the suite.

use std::path::Path;

use testbed::faults;

use crate::files;

/// Fails unless the table has exactly the suite's faults, in their order, and all of them are good.
pub(crate) fn check() {
    let rows = faults::rows_in(&files::read(Path::new("docs/reliability.md")));
    let bad: Vec<&str> =
        rows.iter().filter(|(_, good)| !good).map(|(name, _)| name.as_str()).collect();
    assert!(bad.is_empty(), "measured as not kept: {bad:?}");
    let told: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    let all: Vec<&str> = faults::all().map(|fault| fault.name).collect();
    assert_eq!(
        told, all,
        "cargo xtask faults --write docs/reliability.md measures all and writes the table"
    );
}
