//! What the node's commands print.
//!
//! What they print comes from pods, whose names and words are their tenants' to choose: a table makes
//! each cell harmless for a terminal itself; in JSON and YAML what could do harm is escaped.

pub mod absent;
pub mod ask;
pub mod completions;
pub mod diagnose;
pub mod dump;
pub mod events;
pub mod explain;
pub mod gate;
pub mod log_level;
pub mod pods;
pub mod profiles;
pub mod report;
pub mod status;
pub mod table;
pub mod terminal;
pub mod version;

use std::io::{self, ErrorKind, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use self::terminal::Style;

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: columns.
    #[default]
    Table,
    /// For programs.
    Json,
    /// The same, to read or to write on.
    Yaml,
}

// === impl Output ===

impl Output {
    /// The value in this form; `table` draws it for people.
    ///
    /// # Errors
    ///
    /// If a serializer refuses it.
    pub fn render<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(Style) -> String,
    ) -> anyhow::Result<String> {
        Ok(match self {
            Self::Table => table(Style::of_stdout()),
            Self::Json => json(value)?,
            Self::Yaml => yaml(value)?,
        })
    }
}

/// JSON, harmless for a terminal.
fn json<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    Ok(terminal::safe_json(&text).into_owned())
}

/// YAML, harmless for a terminal: only its double-quoted strings have escapes, and JSON, which has no others, is
/// YAML as well.
fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(value)?;
    if terminal::is_harmless(&text) { Ok(text) } else { json(value) }
}

/// Writes to standard output. A reader that has gone, such as `head`, has what it wanted.
///
/// # Errors
///
/// If it cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
