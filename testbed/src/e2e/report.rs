//! The table, for people and as JSON.

use std::io::{self, Write};

use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The case.
    pub case: String,
    /// What has to come of it.
    pub expected: String,
    /// What did.
    pub seen: String,
    /// Milliseconds from the proxy's readiness (or the label's change) to the effect, where there
    /// is one.
    pub after_ms: Option<f64>,
    /// Whether the two agree.
    pub ok: bool,
    /// What may explain it if they do not: states, and the last lines of logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentPod {
    /// Its pod.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Whether it is ready.
    pub ready: bool,
    /// From its container's start to the pod's condition Ready, by the whole seconds that the API
    /// has; of an agent that this run has seen to start.
    pub ready_s: Option<i64>,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Where: the cluster's address, or the testbed.
    pub target: String,
    /// The API server's version, of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The image of agent and pods, on a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentPod>,
    /// The table.
    pub rows: Vec<Row>,
    /// Whether all of it holds.
    pub ok: bool,
}

const HEAD: [&str; 4] = ["case", "expected", "seen", "ms after ready"];

// === impl Report ===

impl Report {
    /// Sums up; a table without a row holds nothing.
    #[must_use]
    pub fn new(target: String, rows: Vec<Row>) -> Self {
        let ok = !rows.is_empty() && rows.iter().all(|row| row.ok);
        Self { target, version: None, image: None, agents: Vec::new(), rows, ok }
    }

    /// Writes the table.
    pub fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        if let (Some(version), Some(image)) = (&self.version, &self.image) {
            writeln!(out, "{} ({version}), image {image}", self.target)?;
        } else {
            writeln!(out, "{}", self.target)?;
        }
        for AgentPod { pod, node, ready, ready_s } in &self.agents {
            let ready = if *ready { "ready" } else { "not ready" };
            let after = ready_s.map_or_else(String::new, |s| format!(" {s} s after its start"));
            writeln!(out, "agent {pod} on {node}: {ready}{after}")?;
        }
        writeln!(out)?;
        let cells: Vec<[String; 4]> = self
            .rows
            .iter()
            .map(|row| {
                let after = row.after_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
                [row.case.clone(), row.expected.clone(), row.seen.clone(), after]
            })
            .collect();
        let width = |column: usize| {
            let cells = cells.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(HEAD[column].len())
        };
        let widths = [width(0), width(1), width(2), width(3)];
        let mut line = |row: [&str; 4], mark: &str| {
            let [a, b, c, d] = widths;
            let text =
                format!("{:a$}  {:b$}  {:c$}  {:>d$}  {mark}", row[0], row[1], row[2], row[3]);
            writeln!(out, "{}", text.trim_end())
        };
        line(HEAD, "")?;
        for (row, cells) in self.rows.iter().zip(&cells) {
            line(cells.each_ref().map(String::as_str), if row.ok { "ok" } else { "FAILED" })?;
        }
        for row in self.rows.iter().filter(|row| !row.details.is_empty()) {
            writeln!(out, "\n{}:", row.case)?;
            for detail in &row.details {
                writeln!(out, "  {detail}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, ok: bool) -> Row {
        Row {
            case: case.to_owned(),
            expected: "waits".to_owned(),
            seen: "connected".to_owned(),
            after_ms: ok.then_some(2.34),
            ok,
            details: if ok { Vec::new() } else { vec!["app: running".to_owned()] },
        }
    }

    #[test]
    fn a_table_is_aligned_and_explains_what_failed() {
        let report = Report::new("testbed".to_owned(), vec![row("a", true), row("longer", false)]);
        let mut out = Vec::new();
        report.write_table(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "testbed\n\n\
            case    expected  seen       ms after ready\n\
            a       waits     connected             2.3  ok\n\
            longer  waits     connected               -  FAILED\n\
            \nlonger:\n  app: running\n"
        );
    }

    #[test]
    fn an_agent_s_time_is_told_if_it_is_known() {
        let agent = |pod: &str, ready: bool, ready_s: Option<i64>| AgentPod {
            pod: pod.to_owned(),
            node: "node1".to_owned(),
            ready,
            ready_s,
        };
        let mut report = Report::new("cluster".to_owned(), vec![row("a", true)]);
        report.agents =
            vec![agent("new", true, Some(2)), agent("old", true, None), agent("ill", false, None)];
        let mut out = Vec::new();
        report.write_table(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = "cluster\n\
            agent new on node1: ready 2 s after its start\n\
            agent old on node1: ready\n\
            agent ill on node1: not ready\n\n";
        assert!(out.starts_with(expected), "{out}");
    }

    #[test]
    fn one_failure_or_no_row_at_all_is_a_failure() {
        assert!(Report::new(String::new(), vec![row("a", true)]).ok);
        assert!(!Report::new(String::new(), vec![row("a", true), row("b", false)]).ok);
        assert!(!Report::new(String::new(), Vec::new()).ok);
    }
}
