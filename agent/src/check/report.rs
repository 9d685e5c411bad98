//! What the checks have found.

use std::fmt;

use serde::Serialize;

use crate::{
    command::{
        table::{Cell, Table},
        terminal::{Paint, Style},
    },
    exit,
};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The agent works, with less than it could have.
    Warning,
    /// The agent does not work.
    Failed,
    /// It could not be checked.
    Skipped,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub check: String,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What is to be done, unless it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// All that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nothing failed.
    pub ok: bool,
    /// In the order in which an operator would mend them.
    pub checks: Vec<Check>,
}

// === impl Status ===

impl Status {
    const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Failed, Self::Skipped];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    const fn paint(self) -> Paint {
        match self {
            Self::Ok => Paint::Good,
            Self::Warning => Paint::Warning,
            Self::Failed => Paint::Bad,
            Self::Skipped => Paint::Faint,
        }
    }
}

// === impl Check ===

impl Check {
    pub(super) fn ok(check: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::new(check, Status::Ok, found, None)
    }

    pub(super) fn warning(
        check: impl fmt::Display,
        found: impl fmt::Display,
        mend: impl fmt::Display,
    ) -> Self {
        Self::new(check, Status::Warning, found, Some(mend.to_string()))
    }

    pub(super) fn failed(
        check: impl fmt::Display,
        found: impl fmt::Display,
        mend: impl fmt::Display,
    ) -> Self {
        Self::new(check, Status::Failed, found, Some(mend.to_string()))
    }

    pub(super) fn skipped(
        check: impl fmt::Display,
        found: impl fmt::Display,
        mend: impl fmt::Display,
    ) -> Self {
        Self::new(check, Status::Skipped, found, Some(mend.to_string()))
    }

    /// An error with which the agent itself would end. Behind what is wrong, and a semicolon, its
    /// words say how to mend it; `otherwise` does where they do not.
    pub(super) fn error(
        check: impl fmt::Display,
        error: impl Into<anyhow::Error>,
        otherwise: &str,
    ) -> Self {
        let line = exit::line(&error.into());
        let (found, mend) = line.split_once("; ").unwrap_or((&line, otherwise));
        Self::failed(check, found, mend)
    }

    fn new(
        check: impl fmt::Display,
        status: Status,
        found: impl fmt::Display,
        mend: Option<String>,
    ) -> Self {
        Self { check: check.to_string(), status, found: found.to_string(), mend }
    }
}

// === impl Report ===

impl Report {
    pub(super) fn new(checks: Vec<Check>) -> Self {
        let ok = checks.iter().all(|check| check.status != Status::Failed);
        Self { ok, checks }
    }

    /// For people: a line for each check, below it the mend, and in the end a count.
    #[must_use]
    pub fn table(&self, style: Style) -> String {
        let mut table = Table::new(["STATUS", "CHECK", "FOUND"]);
        for Check { check, status, found, mend } in &self.checks {
            let status_cell = Cell::from(status.as_str()).painted(status.paint());
            table.row([status_cell, check.as_str().into(), found.as_str().into()]);
            if let Some(mend) = mend {
                table.note(mend, Some(status.paint()));
            }
        }
        let counts = Status::ALL.map(|status| {
            let count = self.checks.iter().filter(|check| check.status == status).count();
            format!("{count} {}", status.as_str())
        });
        format!("{}\n{} checks: {}\n", table.render(style), self.checks.len(), counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::PreflightError;

    #[test]
    fn a_warning_is_no_failure_and_the_mend_stands_below() {
        let checks = vec![
            Check::ok("kernel", "Linux 6.12"),
            Check::warning("BPF file system", "none at /sys/fs/bpf", "mount one"),
            Check::skipped("node name", "no name", "give --node-name"),
        ];
        let report = Report::new(checks.clone());
        assert!(report.ok);
        let expected = "\
STATUS   CHECK            FOUND
ok       kernel           Linux 6.12
warning  BPF file system  none at /sys/fs/bpf
    mount one
skipped  node name        no name
    give --node-name

3 checks: 1 ok, 1 warning, 0 failed, 1 skipped
";
        assert_eq!(report.table(Style::PLAIN), expected);
        let failed = Check::failed("BTF", "none", "boot another kernel");
        assert!(!Report::new([checks, vec![failed]].concat()).ok);
    }

    #[test]
    fn an_error_of_the_agent_is_split_into_what_is_wrong_and_how_to_mend_it() {
        let source = std::io::Error::other("gone");
        let error = PreflightError::Proc { path: "/proc".into(), source };
        let check = Check::error("processes", error, "look at it");
        assert_eq!(check.found, "failed to open /proc: gone");
        assert_eq!(check.mend.as_deref(), Some("name the host's /proc with --proc-root"));
        let check = Check::error("x", std::io::Error::other("one\ntwo"), "look at it");
        assert_eq!((check.found.as_str(), check.mend.as_deref()), ("one", Some("look at it")));
    }

    #[test]
    fn programs_get_the_same() {
        let report = Report::new(vec![
            Check::ok("kernel", "Linux 6.12"),
            Check::failed("BTF", "none", "boot another kernel"),
        ]);
        let expected = serde_json::json!({"ok": false, "checks": [
            {"check": "kernel", "status": "ok", "found": "Linux 6.12"},
            {"check": "BTF", "status": "failed", "found": "none", "mend": "boot another kernel"},
        ]});
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    }
}
