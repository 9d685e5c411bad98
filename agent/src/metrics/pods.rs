//! Series for each pod: for those who ask for them (`--pod-metrics`), and can pay for them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::labels::{OfPod, Text};
use crate::core::{PodRef, PodUid};

/// Pods that have series at a time: some times what a node runs (110, kubelet's default). Those of
/// further pods are counted with their namespaces only.
pub(super) const MAX: usize = 1000;

/// What has been counted for the pods that are there.
#[derive(Debug, Default)]
pub(super) struct Pods(Mutex<HashMap<PodUid, PodCount>>);

/// What has been counted for one pod.
#[derive(Clone, Debug)]
pub(super) struct PodCount {
    pub(super) labels: OfPod,
    /// How many connects and queries have waited.
    pub(super) held: u64,
    /// How long those that wait no longer have waited, all together.
    pub(super) waited: Duration,
}

// === impl Pods ===

impl Pods {
    /// Connects and queries began to wait.
    pub(super) fn held(&self, pod: &PodRef, count: u64) {
        self.update(pod, |pod| pod.held += count);
    }

    /// One waits no longer. Of a pod that is gone by then, nothing is said any more.
    pub(super) fn released(&self, pod: &PodRef, waited: Duration) {
        if let Some(count) = self.lock().get_mut(&pod.uid) {
            count.waited += waited;
        }
    }

    /// A pod is gone.
    pub(super) fn forget(&self, uid: &PodUid) {
        self.lock().remove(uid);
    }

    /// Those that are there.
    pub(super) fn all(&self) -> Vec<PodCount> {
        self.lock().values().cloned().collect()
    }

    fn update(&self, pod: &PodRef, update: impl FnOnce(&mut PodCount)) {
        let mut pods = self.lock();
        if !pods.contains_key(&pod.uid) {
            if pods.len() >= MAX {
                return;
            }
            pods.insert(pod.uid.clone(), PodCount::new(pod));
        }
        if let Some(count) = pods.get_mut(&pod.uid) {
            // It may have been named since.
            if pod.name.is_some() && count.labels.pod.0.is_empty() {
                count.labels = labels(pod);
            }
            update(count);
        }
    }

    /// Nothing panics while it is locked; if something did, the counts would be none the worse.
    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, PodCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl PodCount ===

impl PodCount {
    fn new(pod: &PodRef) -> Self {
        Self { labels: labels(pod), held: 0, waited: Duration::ZERO }
    }
}

/// A pod that nobody has named yet has its uid only.
pub(super) fn labels(pod: &PodRef) -> OfPod {
    let name = |name: Option<&std::sync::Arc<str>>| {
        name.map_or_else(|| Text::from(""), |name| Text(std::sync::Arc::clone(name)))
    };
    OfPod {
        namespace: name(pod.name.as_ref().map(|name| &name.namespace)),
        pod: name(pod.name.as_ref().map(|name| &name.name)),
        uid: Text::from(pod.uid.as_str()),
    }
}
