//! What the documents quote of the agent's own words.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::files;

/// The documents with tables of what the agent says.
const DOCUMENTS: [&str; 2] = ["docs/log.md", "docs/troubleshooting.md"];

/// How the first cell of such a table's header begins.
const HEADERS: [&str; 5] = ["Message", "Line", "`reason`", "`outcome`", "`last_finding`"];

/// The quotations that nothing in the agent says, each with its document.
pub(crate) fn unknown() -> Vec<String> {
    // The programs' lines get their words from the library that both sides share.
    let [agent, shared] =
        ["agent/src", "agent-ebpf/src"].map(|path| said(&files::root().join(path)));
    let said = agent + &shared;
    let mut unknown = Vec::new();
    for document in DOCUMENTS {
        let quoted = quoted(&files::read(Path::new(document)));
        assert!(quoted.len() > 10, "{document}: {quoted:?}");
        for quotation in quoted {
            // What differs from case to case is left out.
            let parts = quotation.split("...").map(str::trim);
            if !parts.filter(|part| !part.is_empty()).all(|part| said.contains(part)) {
                unknown.push(format!("{document}: {quotation}"));
            }
        }
    }
    unknown
}

/// The first cells' code, of the tables that quote.
fn quoted(text: &str) -> Vec<String> {
    let mut quoted = Vec::new();
    let mut quotes = None;
    for line in text.lines() {
        let Some(cell) = line.strip_prefix("| ").and_then(|row| row.split(" |").next()) else {
            quotes = line.starts_with("|--").then_some(quotes).flatten();
            continue;
        };
        match quotes {
            None => quotes = Some(HEADERS.iter().any(|header| cell.starts_with(header))),
            Some(true) => {
                quoted.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
            }
            Some(false) => {}
        }
    }
    quoted
}

/// The sources below a directory, in which a text that is broken over lines is whole.
fn said(directory: &Path) -> String {
    let mut directories = vec![directory.to_owned()];
    let mut said = String::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                said.push_str(&whole(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    said
}

/// A backslash at a line's end takes the next one's indent with it.
fn whole(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start()).replace("\\\"", "\"")
}

#[test]
fn what_is_quoted_is_found_and_what_is_said_is_whole() {
    let text = "| Message | Means |\n|---|---|\n| `a b`, `c ...` | `d` |\n\n\
                | Other | x |\n|---|---|\n| `e` | f |\n";
    assert_eq!(quoted(text), ["a b", "c ..."]);
    assert_eq!(whole("\"a \\\n      b \\\"c\\\"\""), "\"a b \"c\"\"");
}
