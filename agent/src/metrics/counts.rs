//! What is counted and timed as it happens. The journal tells of every line; nobody else does.

use std::{hash::Hash, sync::Arc, time::Duration};

use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};

use super::{
    labels::{self, OfKind, OfNamespace, OfOutcome, OfReason, Text},
    namespaces::Namespaces,
    pods::Pods,
};
use crate::core::{Line, Noted, OpenReason, Outcome, PodRef, PodUid};

/// Seconds for which a connect waited: from a proxy that was just late to the longest that is usual
/// (`--timeout`, 60 s).
const HOLD_BUCKETS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];

/// Seconds that the agent itself takes: a replay comes after 0.7 ms, a retransmission after up to
/// 500 ms.
const OWN_BUCKETS: [f64; 12] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Whether pods have series of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodMetrics {
    /// They have.
    On,
    /// They have not.
    Off,
}

/// Counters and histograms. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Counts(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    namespaces: Namespaces,
    pub(super) pods: Option<Pods>,
    pub(super) lines: Family<OfKind, Counter>,
    pub(super) held: Family<OfNamespace, Counter>,
    pub(super) refused: Family<OfNamespace, Counter>,
    pub(super) observed: Family<OfNamespace, Counter>,
    pub(super) released: Family<OfOutcome, Counter>,
    pub(super) timed_out: Family<OfNamespace, Counter>,
    pub(super) closed: Family<OfReason, Counter>,
    pub(super) opened: Family<OfReason, Counter>,
    pub(super) failed: Counter,
    pub(super) by_sentry: Counter,
    pub(super) hold: Histogram,
    pub(super) ready_to_release: Histogram,
    pub(super) found_to_attached: Histogram,
}

// === impl Counts ===

impl Counts {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(pods: PodMetrics) -> Self {
        let inner = Inner {
            namespaces: Namespaces::default(),
            pods: (pods == PodMetrics::On).then(Pods::default),
            lines: Family::default(),
            held: Family::default(),
            refused: Family::default(),
            observed: Family::default(),
            released: Family::default(),
            timed_out: Family::default(),
            closed: Family::default(),
            opened: Family::default(),
            failed: Counter::default(),
            by_sentry: Counter::default(),
            hold: Histogram::new(HOLD_BUCKETS),
            ready_to_release: Histogram::new(OWN_BUCKETS),
            found_to_attached: Histogram::new(OWN_BUCKETS),
        };
        for kind in Line::KINDS {
            begin(&inner.lines, &OfKind { kind });
        }
        for reason in labels::CLOSED {
            begin(&inner.closed, &OfReason { reason });
        }
        for reason in labels::OPENED {
            begin(&inner.opened, &OfReason { reason });
        }
        Self(Arc::new(inner))
    }

    /// Counts the connects that a sentry has held which this agent has relieved.
    pub fn relieved(&self, held: u64) {
        self.0.by_sentry.inc_by(held);
    }

    /// Counts a line, and what came of it.
    pub fn record(&self, pod: &PodRef, line: &Line, noted: &Noted) {
        let Inner { lines, closed, opened, .. } = &*self.0;
        lines.get_or_create(&OfKind { kind: line.kind() }).inc();
        match line {
            Line::GateClosed { reason, enabled_by, .. } => {
                if noted.closes {
                    closed.get_or_create(&OfReason { reason: labels::closed(*reason) }).inc();
                }
                if enabled_by.is_some() {
                    self.namespace(pod);
                }
            }
            Line::GateInherited { held, .. } => self.held(pod, *held as u64),
            Line::Held(_) => self.held(pod, 1),
            Line::Refused { .. } => {
                let namespace = self.namespace(pod);
                self.0.refused.get_or_create(&OfNamespace { namespace }).inc();
            }
            Line::Observed { .. } => {
                let namespace = self.namespace(pod);
                self.0.observed.get_or_create(&OfNamespace { namespace }).inc();
            }
            Line::Released { waited, outcome, .. } => {
                let namespace = self.namespace(pod);
                let outcome = labels::outcome(*outcome);
                self.0.released.get_or_create(&OfOutcome { namespace, outcome }).inc();
                self.0.hold.observe(waited.as_secs_f64());
                if let Some(pods) = &self.0.pods {
                    pods.released(pod, *waited);
                }
                if let Some(after) = noted.after_ready {
                    self.0.ready_to_release.observe(after.as_secs_f64());
                }
            }
            Line::GateOpened { reason, .. } => {
                opened.get_or_create(&OfReason { reason: labels::opened(*reason) }).inc();
                // What only observes keeps nobody waiting until its time is up.
                if *reason == OpenReason::Deadline && !noted.observes {
                    self.timed_out(pod);
                }
            }
            Line::DeadlineRefuses { .. } => self.timed_out(pod),
            Line::GateFailed { trials: 0, .. } => {
                self.0.failed.inc();
            }
            _ => {}
        }
    }

    /// The programs of a pod's gate were on so long after the pod's cgroup was found.
    pub fn attached_after(&self, found: Duration) {
        self.0.found_to_attached.observe(found.as_secs_f64());
    }

    /// A pod is gone, and its own series with it.
    pub fn forget_pod(&self, uid: &PodUid) {
        if let Some(pods) = &self.0.pods {
            pods.forget(uid);
        }
    }

    /// A namespace is gone, and its series with it.
    pub fn forget_namespace(&self, namespace: &str) {
        let Some(namespace) = self.0.namespaces.forget(namespace) else { return };
        let Inner { held, refused, observed, released, timed_out, .. } = &*self.0;
        for family in [held, refused, observed, timed_out] {
            family.remove(&OfNamespace { namespace: namespace.clone() });
        }
        for outcome in Outcome::ALL.map(labels::outcome) {
            released.remove(&OfOutcome { namespace: namespace.clone(), outcome });
        }
    }

    /// The others are gone.
    pub fn keep_namespaces(&self, is_there: impl Fn(&str) -> bool) {
        for namespace in self.0.namespaces.all() {
            if !is_there(&namespace) {
                self.forget_namespace(&namespace);
            }
        }
    }

    fn held(&self, pod: &PodRef, count: u64) {
        let namespace = self.namespace(pod);
        self.0.held.get_or_create(&OfNamespace { namespace }).inc_by(count);
        if let Some(pods) = &self.0.pods {
            pods.held(pod, count);
        }
    }

    fn timed_out(&self, pod: &PodRef) {
        let namespace = self.namespace(pod);
        self.0.timed_out.get_or_create(&OfNamespace { namespace }).inc();
    }

    /// The label of a pod's namespace. When it is a new one, its series begin, with what has not
    /// happened yet.
    fn namespace(&self, pod: &PodRef) -> Text {
        let (namespace, is_new) = self.0.namespaces.of(pod);
        if is_new {
            let Inner { held, released, timed_out, .. } = &*self.0;
            for family in [held, timed_out] {
                begin(family, &OfNamespace { namespace: namespace.clone() });
            }
            for outcome in Outcome::ALL.map(labels::outcome) {
                begin(released, &OfOutcome { namespace: namespace.clone(), outcome });
            }
        }
        namespace
    }
}

/// A series that begins with its first count hides it from rate() and increase(); so it begins with 0.
fn begin<S: Clone + Eq + Hash>(family: &Family<S, Counter>, labels: &S) {
    drop(family.get_or_create(labels));
}

#[cfg(test)]
mod tests;
