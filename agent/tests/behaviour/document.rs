//! docs/behaviour.md, made of the table.

use std::{fmt::Write as _, fs, path::PathBuf};

use crate::cases::{self, Case};

/// Set, the document is written instead of compared.
pub(crate) const WRITE: &str = "HOLDFAST_WRITE_DOCS";

const HEAD: &str = "\
# Behaviour

What becomes of a connect() to the proxy's port, or of a DNS query where it says so, case by case.
Each row is played by `agent/tests/behaviour` against the code that decides, with a pod as the API
delivers it. This file is made of that table: after a change,
`HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast --test behaviour` writes it anew.

\"waits\" always means: until the proxy is ready, and no longer than the pod's `timeout`
(60 s unless chosen otherwise), after which `on-timeout` decides.
";

/// Fails if the document and the table differ.
pub(crate) fn check() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/behaviour.md");
    let expected = text();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/behaviour.md is not what the table says; \
         {WRITE}=1 cargo test -p holdfast --test behaviour writes it"
    );
}

fn text() -> String {
    let mut text = HEAD.to_owned();
    for (title, cases) in cases::groups() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {title}\n\n| Case | A connect | Why |\n|---|---|---|\n");
        for Case { name, answer, why, .. } in cases {
            let _ = writeln!(text, "| {name} | {} | {why} |", answer.words());
        }
    }
    text
}
