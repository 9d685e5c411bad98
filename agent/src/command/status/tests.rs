use std::{collections::BTreeMap, time::Duration};

use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::core::{Stamp, Watched};

fn watch(resource: Watched, heard_at: Option<Stamp>, errors: u64) -> WatchReport {
    WatchReport { resource, heard_at, lists: 1, errors }
}

fn node() -> NodeReport {
    let at = |seconds: u64| Stamp::new(Duration::from_secs(1_700_000_000 + seconds));
    NodeReport {
        at: at(7_500),
        node: "node-a".to_owned(),
        version: "0.1.0".to_owned(),
        kernel: "6.12.94+deb13-cloud-amd64".to_owned(),
        pid: 1,
        started_at: at(0),
        state: AgentState::Working,
        missing: Vec::new(),
        pods: [(PodState::Closed, 1), (PodState::Open, 12), (PodState::Exempt, 31)].into(),
        held: 2,
        totals: Totals {
            held: 41,
            outcomes: [(Outcome::Connected, 38), (Outcome::ClosedByApplication, 1)].into(),
            ..Totals::default()
        },
        watches: vec![
            watch(Watched::Pods, Some(at(7_497)), 0),
            watch(Watched::Namespaces, Some(at(7_458)), 2),
        ],
        problems: Vec::new(),
    }
}

/// What fits a terminal of the usual size, with the prompt below it.
fn fits(text: &str) {
    assert!(text.lines().count() <= 23, "{text}");
    for line in text.lines() {
        assert!(line.width() <= WIDTH, "{line}");
        assert_eq!(line, line.trim_end());
    }
}

#[test]
fn a_healthy_node_is_one_short_screen() {
    let expected = "\
holdfast  0.1.0 on node-a: healthy
agent     working, pid 1, up 2h, Linux 6.12.94+deb13-cloud-amd64
armed     yes: pods, namespaces and cgroups are known, new pods are held from their start on
api       pods heard of 3s ago, namespaces heard of 42s ago, interruptions so far: 2
pods      1 closed, 12 open; 31 left alone
waiting   2 connections now
so far    41 connections held (38 connected, 1 closed by the application)
";
    assert_eq!(text(&node(), Style::PLAIN), expected);
}

#[test]
fn what_is_wrong_is_told_at_the_end() {
    let problems = vec!["1 pod is not held: its programs could not be worked".to_owned()];
    let totals =
        Totals { failed_gates: 1, timed_out_gates: 2, lost_reports: 3, ..Totals::default() };
    let pods = BTreeMap::from([(PodState::Failed, 1)]);
    let node = NodeReport { problems, totals, pods, held: 0, ..node() };
    let expected = "\
holdfast  0.1.0 on node-a: NOT healthy
agent     working, pid 1, up 2h, Linux 6.12.94+deb13-cloud-amd64
armed     yes: pods, namespaces and cgroups are known, new pods are held from their start on
api       pods heard of 3s ago, namespaces heard of 42s ago, interruptions so far: 2
pods      1 failed; 0 left alone
waiting   0 connections now
so far    0 connections held; gates whose time was up: 2; gates that failed: 1; reports of the
          kernel lost: 3
wrong     1 pod is not held: its programs could not be worked
";
    assert_eq!(text(&node, Style::PLAIN), expected);
    let coloured = text(&node, Style::COLOURED);
    assert!(coloured.contains("\x1b[1m\x1b[31m") || coloured.contains("\x1b[31m"), "{coloured:?}");
}

#[test]
fn an_agent_that_does_not_work_gates_says_what_it_waits_for() {
    for (state, missing, expected) in [
        (AgentState::StandingBy, vec![], "another agent works on this node"),
        (
            AgentState::Starting,
            vec!["pods-listed: not yet".to_owned()],
            "NO: new pods are not held",
        ),
        (AgentState::Stuck, vec![], "stuck"),
    ] {
        let (pods, problems) = (BTreeMap::new(), missing.clone());
        let shown = text(&NodeReport { state, missing, problems, pods, ..node() }, Style::PLAIN);
        fits(&shown);
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains("waiting"), "{shown}");
    }
}

#[test]
fn a_bad_day_stays_on_one_screen_and_acts_on_no_terminal() {
    let problems = (0..200).map(|n| format!("{n} \x1b[2J{}", "very bad ".repeat(40))).collect();
    let outcomes = Outcome::ALL;
    let node = NodeReport {
        node: "n\u{202e}".repeat(200),
        kernel: "6".repeat(300),
        pods: PodState::ALL.into_iter().map(|state| (state, 1_000_000)).collect(),
        totals: Totals {
            held: u64::MAX,
            refused: u64::MAX,
            observed: u64::MAX,
            outcomes: outcomes.into_iter().map(|outcome| (outcome, u64::MAX)).collect(),
            timed_out_gates: u64::MAX,
            failed_gates: u64::MAX,
            lost_reports: u64::MAX,
        },
        problems,
        ..node()
    };
    let shown = text(&node, Style::PLAIN);
    fits(&shown);
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{shown:?}");
    assert!(shown.contains("more: -o json has all of them"), "{shown}");
}
