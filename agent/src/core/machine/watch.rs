//! Workloads that the operator wants to have observed for a while.

use crate::core::{Monotonic, PodName, PodView, Workload};

/// Each is somebody who sits in front of a terminal.
const MAX_WATCHES: usize = 64;

/// What is watched.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<Watch>);

/// A pod, and those that come after it: a Deployment's have other names each time.
#[derive(Debug)]
struct Watch {
    pod: PodName,
    workload: Option<Workload>,
    until: Monotonic,
}

// === impl Watches ===

impl Watches {
    /// Adds one in place of an earlier one of the same pod, or removes that if its time has passed.
    pub(super) fn add(
        &mut self,
        pod: PodName,
        workload: Option<Workload>,
        until: Monotonic,
        now: Monotonic,
    ) {
        self.0.retain(|watch| watch.until > now && watch.pod != pod);
        if until <= now {
            return;
        }
        if self.0.len() == MAX_WATCHES {
            self.0.remove(0);
        }
        self.0.push(Watch { pod, workload, until });
    }

    /// Until when this pod is watched.
    pub(super) fn until(&self, pod: &PodView) -> Option<Monotonic> {
        let ours = self.0.iter().filter(|watch| watch.concerns(pod));
        ours.map(|watch| watch.until).max()
    }
}

// === impl Watch ===

impl Watch {
    fn concerns(&self, pod: &PodView) -> bool {
        self.pod == pod.name
            || (self.pod.namespace == pod.name.namespace
                && self.workload.is_some()
                && self.workload == pod.workload)
    }
}
