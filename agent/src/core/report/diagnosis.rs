//! What would become of a pod if it were enabled: for a pod that has a problem, and that nobody has
//! enabled yet.

use serde::{Deserialize, Serialize};

use super::{
    PodReport,
    explain::{Reason, Topic},
};
use crate::core::{
    Exemption, Finding, FirstConnect, PodState, Tally, WatchRefusal, WorkloadFacts, in_words,
};

/// What `holdfast diagnose` tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The pod.
    pub pod: PodReport,
    /// What its proxy said when it was asked for this; `None`: it has none that is known.
    pub finding: Option<Finding>,
    /// What was seen of its workload since the agent was started.
    pub workload: Option<WorkloadFacts>,
    /// Whether pods that nobody enabled are observed on this node.
    pub observe: bool,
    /// Why its starts cannot be observed; `None`: they can be.
    pub refusal: Option<WatchRefusal>,
    /// All that in words.
    pub says: Vec<Reason>,
}

// === impl Diagnosis ===

impl Diagnosis {
    /// From what is known.
    #[must_use]
    pub fn new(
        pod: PodReport,
        finding: Option<Finding>,
        workload: Option<WorkloadFacts>,
        observe: bool,
        refusal: Option<WatchRefusal>,
    ) -> Self {
        let mut diagnosis = Self { pod, finding, workload, observe, refusal, says: Vec::new() };
        diagnosis.says = diagnosis.in_words();
        diagnosis
    }

    /// Whether somebody has enabled the pod.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        matches!(self.refusal, Some(WatchRefusal::Enabled))
    }

    fn in_words(&self) -> Vec<Reason> {
        let mut says = vec![Reason::new(Topic::State, self.verdict())];
        let explained = |topic: Topic| {
            self.pod.reasons.iter().filter(move |reason| reason.topic == topic).cloned()
        };
        says.extend(explained(Topic::Hold));
        says.extend(explained(Topic::Proxy));
        let seen = [self.now(), Some(self.so_far())].into_iter().flatten();
        says.extend(seen.map(|text| Reason::new(Topic::Seen, text)));
        says.extend(explained(Topic::Problem));
        says.extend(explained(Topic::Next));
        if self.refusal.is_none() && !self.pod.observed {
            let text = "To see its next start, and its workload's, without holding anything, restart \
                        it within the time of";
            says.push(Reason {
                command: Some(format!("holdfast diagnose {} --for 10m", self.pod.pod_path())),
                ..Reason::new(Topic::Next, text.to_owned())
            });
        }
        says
    }

    /// The answer in one sentence.
    fn verdict(&self) -> String {
        let proxy = self.pod.proxy_name();
        match self.refusal {
            Some(WatchRefusal::Enabled) => {
                "This pod is enabled: holdfast explain tells how its gate stands, and why."
                    .to_owned()
            }
            Some(WatchRefusal::Unknown) => {
                "The API server has not told enough of this pod yet: try again in a moment."
                    .to_owned()
            }
            Some(WatchRefusal::NoProxy) => {
                "holdfast would have nothing to do here, enabled or not: there is no proxy to wait \
                 for. A connection that this pod is refused is refused by its destination."
                    .to_owned()
            }
            Some(WatchRefusal::Exempt(
                Exemption::Terminating | Exemption::Finished | Exemption::Deleted,
            )) => "This pod has had its time; its successor may be another case.".to_owned(),
            Some(WatchRefusal::Exempt(_)) => {
                "holdfast would leave this pod alone, enabled or not.".to_owned()
            }
            Some(WatchRefusal::Disabled) => format!(
                "Not held, because somebody said so. Otherwise what it dials before {proxy} is ready \
                 would wait, instead of failing."
            ),
            None => match self.workload.as_ref().map(|facts| facts.tally.failed) {
                Some(1..) => format!(
                    "Not held, and it would have helped: connections that failed would have waited \
                     until {proxy} is ready."
                ),
                _ => format!(
                    "Not held: nobody enabled it. If somebody did, what it dials before {proxy} is \
                     ready would wait, instead of failing."
                ),
            },
        }
    }

    /// What becomes of a connection at this moment.
    fn now(&self) -> Option<String> {
        let proxy = self.pod.proxy_name();
        Some(match self.finding.as_ref()? {
            finding @ Finding::Ready { .. } => format!(
                "Just now {proxy} is ready ({finding}): what this pod dials goes through. If it \
                 fails all the same, it is not for coming too early."
            ),
            finding @ Finding::NobodyListens { .. } if self.pod.state == PodState::Closed => {
                format!("Just now {finding}: what this pod dials through {proxy} waits.")
            }
            finding @ Finding::NobodyListens { .. } => format!(
                "Just now {finding}: whatever this pod dials through {proxy} fails with \"connection \
                 refused\"."
            ),
            Finding::NoProcess => "Just now nothing runs in it.".to_owned(),
            finding @ (Finding::HostNetwork | Finding::Unreachable { .. }) => {
                format!("{proxy} could not be asked: {finding}.")
            }
            finding => format!(
                "Just now {proxy} takes connections and is not ready ({finding}): what this pod dials \
                 may be reset."
            ),
        })
    }

    /// What was seen of the starts of its workload.
    fn so_far(&self) -> String {
        match &self.workload {
            Some(facts) => facts.in_words(),
            None if self.pod.observed => {
                "No start of it has been seen since the agent was started, or since it is observed."
                    .to_owned()
            }
            None if self.refusal.is_none() && !self.observe => {
                "Nothing has been observed of it: observe is disabled on this node.".to_owned()
            }
            None => "Nothing has been observed of it.".to_owned(),
        }
    }
}

// === impl WorkloadFacts ===

impl WorkloadFacts {
    /// What was seen of its starts, in a sentence or three.
    #[must_use]
    pub fn in_words(&self) -> String {
        let Tally { starts, starts_with_failures, failed, too_early, held, saved } = self.tally;
        let mut words = format!("{} of {} seen", count(starts, "start"), self.workload);
        words += &match (failed, starts_with_failures) {
            (0, _) => ", and no connection failed for want of a proxy".to_owned(),
            (_, 0) => format!(", and {} failed later", count(failed, "connection")),
            _ => format!(
                "; in {starts_with_failures} of them {} failed because nobody was there to take it",
                count(failed, "connection")
            ),
        };
        if too_early > 0 {
            words +=
                &format!("; {} came before the proxy was ready", count(too_early, "connection"));
        }
        if held > 0 {
            words +=
                &format!("; {} waited, and {saved} of them went on", count(held, "connection"));
        }
        words.push('.');
        if let Some(FirstConnect { destination, container, comm, .. }) = &self.first {
            let container = container.as_deref().unwrap_or("a container");
            let comm = if comm.is_empty() { String::new() } else { format!(" ({comm})") };
            words += &format!(" The first was from {container}{comm} to {destination}.");
        }
        if let (Some(last), Some(longest)) = (self.ready_after, self.ready_after_max) {
            words += &format!(" The proxy was ready {} after the first one", in_words(last));
            if longest > last {
                words += &format!(" ({} at most)", in_words(longest));
            }
            words.push('.');
        }
        words
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
