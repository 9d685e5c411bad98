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
    /// Adds one in place of earlier ones of this pod or its workload, or only removes those if its
    /// time has passed. Who ends a watch may know another pod of the workload than who began it.
    pub(super) fn add(
        &mut self,
        pod: PodName,
        workload: Option<Workload>,
        until: Monotonic,
        now: Monotonic,
    ) {
        self.0.retain(|watch| watch.until > now && !watch.concerns(&pod, workload.as_ref()));
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
        let ours = self.0.iter().filter(|watch| watch.concerns(&pod.name, pod.workload.as_ref()));
        ours.map(|watch| watch.until).max()
    }
}

// === impl Watch ===

impl Watch {
    fn concerns(&self, pod: &PodName, workload: Option<&Workload>) -> bool {
        self.pod == *pod
            || (self.pod.namespace == pod.namespace
                && workload.is_some()
                && self.workload.as_ref() == workload)
    }
}
