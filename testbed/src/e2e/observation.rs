//! What was seen of a case's pod.

use std::time::Duration;

use testpod::{Event, Record};

/// Of whatever player: a cluster's kubelet, or the testbed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// What the proxy's containers printed, in their order.
    pub proxy: Vec<Record>,
    /// What the application printed.
    pub client: Vec<Record>,
    /// What the init container printed.
    pub init: Vec<Record>,
    /// Whether the Job succeeded, once it has ended.
    pub job_succeeded: Option<bool>,
    /// The reasons of the Events about the pod.
    pub events: Vec<String>,
    /// When the namespace's label came and went.
    pub label: Option<LabelTimes>,
    /// Why there is no more to see.
    pub trouble: Option<String>,
}

/// Instants of the node's `CLOCK_MONOTONIC`, in nanoseconds; if they are estimates, then none is
/// later than the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelTimes {
    /// Just before the label was set.
    pub set_ns: u64,
    /// Just before it was removed.
    pub removed_ns: u64,
    /// What the instants may be too early by, beside what the label took.
    pub early: Duration,
}

/// Whether the client has made all its attempts.
pub(super) fn is_done(client: &[Record]) -> bool {
    client.iter().any(|record| matches!(record.event, Event::ClientDone { .. }))
}

/// How many attempts have come to an end.
pub(super) fn attempts(client: &[Record]) -> usize {
    client.iter().filter(|record| matches!(record.event, Event::Attempt(_))).count()
}
