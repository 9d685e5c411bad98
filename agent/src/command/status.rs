//! What `holdfast status` prints: one screen.

use std::fmt::Write as _;

use super::{
    pods::shortened,
    table::{WIDTH, wrap},
    terminal::{Paint, Style, safe},
};
use crate::core::{
    AgentState, NodeReport, Outcome, PodState, Totals, WatchReport, age, connections,
};

/// The column of headings, with the gap behind it.
const HEADINGS: usize = 10;

/// Lines of problems at most, so that all of it stays on one screen of 24 lines.
const PROBLEM_LINES: usize = 10;

/// How the agent and its node stand.
#[must_use]
pub fn text(node: &NodeReport, style: Style) -> String {
    let NodeReport { at, node: name, version, kernel, pid, started_at, state, .. } = node;
    let mut screen = Screen { text: String::new(), style };
    let (paint, health) = match node.is_healthy() {
        true => (Paint::Good, "healthy"),
        false => (Paint::Bad, "NOT healthy"),
    };
    let name = shortened(name, WIDTH / 2);
    screen.line("holdfast", &format!("{version} on {name}: {health}"), Some(paint));
    let kernel = shortened(kernel, WIDTH / 2);
    let up = age(at.since(*started_at));
    screen.line("agent", &format!("{}, pid {pid}, up {up}, Linux {kernel}", state.as_str()), None);
    screen.line("armed", &armed(node), None);
    if !node.watches.is_empty() {
        screen.line("api", &api(node), None);
    }
    if *state == AgentState::Working {
        screen.line("pods", &pods(node), None);
        let waiting = (node.held > 0).then_some(Paint::Warning);
        screen.line("waiting", &format!("{} now", connections(node.held as u64)), waiting);
    }
    screen.line("so far", &so_far(&node.totals), None);
    let mut room = PROBLEM_LINES;
    for (index, problem) in node.problems.iter().enumerate() {
        let lines = wrap(&safe(problem), WIDTH - HEADINGS);
        // The last line is for how many are left out.
        if lines.len() >= room {
            let rest = node.problems.len() - index;
            screen.line("wrong", &format!("and {rest} more: -o json has all of them"), None);
            break;
        }
        room -= lines.len();
        screen.line("wrong", problem, Some(Paint::Bad));
    }
    screen.text
}

/// What is put together.
pub(super) struct Screen {
    pub(super) text: String,
    pub(super) style: Style,
}

// === impl Screen ===

impl Screen {
    pub(super) fn line(&mut self, heading: &str, text: &str, paint: Option<Paint>) {
        let mut heading = heading;
        for line in wrap(&safe(text), WIDTH - HEADINGS) {
            let line = line.trim_end();
            let line = paint.map_or_else(|| line.to_owned(), |paint| self.style.paint(paint, line));
            let blanks = HEADINGS - heading.len();
            self.text += &self.style.paint(Paint::Heading, heading);
            let _ = writeln!(self.text, "{}{line}", " ".repeat(blanks));
            heading = "";
        }
    }
}

fn armed(node: &NodeReport) -> String {
    match node.state {
        AgentState::StandingBy => {
            "not yet: another agent works on this node, and this one follows when it ends"
                .to_owned()
        }
        _ if node.missing.is_empty() => {
            "yes: pods, namespaces and cgroups are known, new pods are held from their start on"
                .to_owned()
        }
        _ => "NO: new pods are not held yet".to_owned(),
    }
}

/// When the API server was heard of last, which is about once a minute even if nothing changes.
fn api(node: &NodeReport) -> String {
    let mut parts: Vec<String> = Vec::new();
    for WatchReport { resource, heard_at, lists: _, errors: _ } in &node.watches {
        let resource = resource.as_str();
        parts.push(match heard_at {
            Some(at) => format!("{resource} heard of {} ago", age(node.at.since(*at))),
            None => format!("{resource} not heard of yet"),
        });
    }
    let errors: u64 = node.watches.iter().map(|watch| watch.errors).sum();
    if errors > 0 {
        parts.push(format!("interruptions so far: {errors}"));
    }
    parts.join(", ")
}

/// `3 open, 1 closed; 12 left alone`.
fn pods(node: &NodeReport) -> String {
    let count = |state| node.pods.get(&state).copied().unwrap_or_default();
    let states = PodState::ALL.into_iter().filter(|state| *state != PodState::Exempt);
    let states = states.map(|state| (count(state), state.as_str())).filter(|(count, _)| *count > 0);
    let mut parts: Vec<String> = states.map(|(count, state)| format!("{count} {state}")).collect();
    if parts.is_empty() {
        parts.push("none that is held".to_owned());
    }
    format!("{}; {} left alone", parts.join(", "), count(PodState::Exempt))
}

fn so_far(totals: &Totals) -> String {
    let Totals { held, refused, observed, outcomes, timed_out_gates, failed_gates, lost_reports } =
        totals;
    let of = |outcome: Outcome| outcomes.get(&outcome).copied().unwrap_or_default();
    let mut text = format!("{} held", connections(*held));
    let ends: Vec<String> = [
        Outcome::Connected,
        Outcome::QuerySent,
        Outcome::Refused,
        Outcome::TimedOut,
        Outcome::ClosedByApplication,
        Outcome::StillConnecting,
        Outcome::QueryExpired,
    ]
    .into_iter()
    .filter(|outcome| of(*outcome) > 0)
    .map(|outcome| format!("{} {}", of(outcome), outcome.as_str()))
    .collect();
    if !ends.is_empty() {
        let _ = write!(text, " ({})", ends.join(", "));
    }
    for (count, what) in [
        (refused, "failed at once (mode refuse)"),
        (observed, "noted (mode observe)"),
        (timed_out_gates, "gates whose time was up"),
        (failed_gates, "gates that failed"),
        (lost_reports, "reports of the kernel lost"),
    ] {
        if *count > 0 {
            let _ = write!(text, "; {what}: {count}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
