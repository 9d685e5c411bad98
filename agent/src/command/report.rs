//! What `holdfast report` prints: which workloads would profit, or do.

use std::collections::BTreeMap;

use super::{
    table::{Cell, Table, WIDTH, wrap},
    terminal::{Paint, Style, safe},
};
use crate::core::{ObservedReport, PREFIX, Tally, WorkloadFacts, in_words};

/// How the operator has pods observed that nobody enabled.
const SWITCH_ON: &str = "\
To have pods observed that nobody enabled (nothing of them is held):
  helm upgrade holdfast deploy/chart -n holdfast --reset-then-reuse-values \\
    --set config.observe=enabled
or HOLDFAST_OBSERVE=enabled in the agent's environment. One workload, for a while:
  holdfast diagnose NAMESPACE/POD --for 10m
";

/// One row for each workload, those first of which most connects failed.
#[must_use]
pub fn table(report: &ObservedReport, style: Style) -> String {
    let mut text = String::new();
    if !report.workloads.is_empty() {
        text += &rows(&report.workloads).render(style);
        text.push('\n');
    }
    let since = in_words(report.at.since(report.since));
    let (node, looked_at) =
        (safe(&report.node), if report.observe { "observed" } else { "enabled" });
    text += &match report.workloads.len() {
        0 => format!(
            "Nothing to report of node {node} yet: no pod that is {looked_at} and has a proxy has \
             started\nsince the agent was started, {since} ago.\n"
        ),
        _ => format!("Node {node}, since the agent was started {since} ago.\n"),
    };
    if !report.observe {
        text += &style.paint(
            Paint::Warning,
            "Pods that nobody enabled are not observed on this node: observe is disabled.",
        );
        text.push('\n');
        text += SWITCH_ON;
    }
    if let Some(advice) = advice(&report.workloads) {
        text += &advice;
        text.push('\n');
    }
    text
}

/// Columns that are left to a workload's name, of which there is a kind and mostly a namespace beside it:
/// half a port is worse than a name in two lines.
const WORKLOAD_WIDTH: usize = 16;

fn rows(workloads: &[WorkloadFacts]) -> Table<7> {
    let mut table = Table::new([
        "NAMESPACE",
        "WORKLOAD",
        "STARTS",
        "FAILED-CONNECTS",
        "FIRST-DESTINATION",
        "READY-AFTER",
        "ENABLED?",
    ])
    .wrapping_first(1, WORKLOAD_WIDTH);
    let mut workloads: Vec<&WorkloadFacts> = workloads.iter().collect();
    // The sort is stable: those alike stay by name.
    workloads.sort_by_key(|facts| {
        let Tally { failed, too_early, held, .. } = facts.tally;
        std::cmp::Reverse((failed, too_early, held))
    });
    for facts in workloads {
        let Tally { starts, starts_with_failures, failed, saved, .. } = facts.tally;
        let failed = match (failed, starts_with_failures) {
            (0, _) => Cell::from("0"),
            (_, 0) => Cell::from(failed.to_string()).painted(Paint::Bad),
            (_, 1) => Cell::from(format!("{failed} in 1 start")).painted(Paint::Bad),
            (_, of) => Cell::from(format!("{failed} in {of} starts")).painted(Paint::Bad),
        };
        let ready_after = match (facts.ready_after, facts.ready_after_max) {
            (Some(last), Some(longest)) if longest > last => {
                Cell::lines([in_words(last), format!("(≤ {})", in_words(longest))])
            }
            (Some(last), _) => in_words(last).into(),
            (None, _) => "-".into(),
        };
        table.row([
            facts.namespace.as_str().into(),
            facts.workload.to_string().into(),
            starts.to_string().into(),
            failed,
            facts
                .first
                .as_ref()
                .map_or_else(|| "-".into(), |first| first.destination.to_string().into()),
            ready_after,
            match facts.enabled_by {
                Some(_) if saved > 0 => {
                    Cell::from(format!("yes, {saved} saved")).painted(Paint::Good)
                }
                Some(_) => Cell::from("yes").painted(Paint::Good),
                None => "no".into(),
            },
        ]);
    }
    table
}

/// The command that would help most.
fn advice(workloads: &[WorkloadFacts]) -> Option<String> {
    let mut failed: BTreeMap<&str, u64> = BTreeMap::new();
    let mut observed = workloads.iter().filter(|facts| facts.enabled_by.is_none()).peekable();
    observed.peek()?;
    for facts in observed {
        *failed.entry(&facts.namespace).or_default() += facts.tally.failed;
    }
    // Of equals the first by name.
    let (worst, count) = failed.into_iter().rev().max_by_key(|(_, count)| *count)?;
    if count == 0 {
        return Some(
            "No connect of a pod that nobody enabled has failed for want of its proxy.".to_owned(),
        );
    }
    let connects = if count == 1 { "1 connect".to_owned() } else { format!("{count} connects") };
    let worst = safe(worst);
    let text = format!(
        "{connects} of namespace {worst} would have waited instead of failing; for its pods, from \
         their next start on:"
    );
    let command = format!("\n  kubectl label namespace {worst} {PREFIX}hold=enabled");
    Some(wrap(&text, WIDTH).join("\n") + &command)
}

#[cfg(test)]
mod tests;
