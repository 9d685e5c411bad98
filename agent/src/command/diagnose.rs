//! What `holdfast diagnose` prints. The sentences are made in `core/report/diagnosis.rs`.

use std::time::Duration;

use super::{
    explain::Page,
    table::{WIDTH, wrap},
    terminal::{Style, safe},
};
use crate::core::{Diagnosis, PodName, Stamp, Tally, Topic, WorkloadFacts, in_words};

/// What would become of a pod if it were enabled.
#[must_use]
pub fn text(diagnosis: &Diagnosis, now: Stamp, style: Style) -> String {
    use Topic::{Hold, Next, Problem, Proxy, Seen, State};
    let mut page = Page::new(style);
    page.title(&diagnosis.pod, now);
    for topic in [State, Seen, Hold, Proxy, Problem, Next] {
        page.sentences(&diagnosis.says, topic);
    }
    page.text
}

/// What is said while the operator waits for what will be seen.
#[must_use]
pub fn begins(diagnosis: &Diagnosis, time: Duration) -> String {
    let (whom, time) = (whom(diagnosis), in_words(time));
    format!(
        "\n{}",
        paragraph(&format!(
            "Observing {whom} for {time}: restart it to see a start. Ctrl-C ends the waiting; the \
             observing ends by itself."
        ))
    )
}

/// What was seen meanwhile, from what was known of the workload before and after.
#[must_use]
pub fn ends(
    diagnosis: &Diagnosis,
    before: Option<&WorkloadFacts>,
    after: Option<&WorkloadFacts>,
) -> String {
    let nothing = || paragraph(&format!("No start of {} was seen.", whom(diagnosis)));
    let Some(facts) = after else { return nothing() };
    let known = before.map(|facts| facts.tally).unwrap_or_default();
    let tally = facts.tally - known;
    if tally == Tally::default() {
        return nothing();
    }
    // What was first, and how long it took, is of interest if it is of this time.
    let is_new = before.is_none() || tally.failed + tally.too_early + tally.held > 0;
    let facts = WorkloadFacts {
        tally,
        first: facts.first.clone().filter(|_| before.is_none_or(|before| before.first.is_none())),
        ready_after: facts.ready_after.filter(|_| is_new),
        ready_after_max: facts.ready_after.filter(|_| is_new),
        ..facts.clone()
    };
    paragraph(&facts.in_words())
}

/// In lines that fit, harmless for a terminal.
fn paragraph(text: &str) -> String {
    wrap(&safe(text), WIDTH).iter().map(|line| format!("{line}\n")).collect()
}

/// The workload, or the pod if it has none.
fn whom(diagnosis: &Diagnosis) -> String {
    let pod = &diagnosis.pod.pod;
    match (&pod.workload, &pod.name) {
        (Some(workload), Some(PodName { namespace, .. })) => {
            format!("{workload} of namespace {namespace}")
        }
        (_, Some(PodName { namespace, name })) => format!("{namespace}/{name}"),
        (_, None) => pod.uid.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests;
