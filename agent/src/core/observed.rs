//! Which workloads connect before their proxy is ready, and what becomes of that: facts by workload,
//! kept after its pods are gone, for whoever wants to know what holding them would change.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CloseReason, ConnectSpan, Episode, Origin, Outcome, PodName, PodRef, Stamp, Workload,
    stamp::millis,
};

/// Workloads that are remembered: a node has 110 pods at a time (kubelet's default), and most come
/// back.
const MAX_WORKLOADS: usize = 1000;

/// What was found out about the workloads of the node's pods.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    workloads: HashMap<Key, WorkloadFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: Arc<str>,
    workload: Workload,
}

/// What was found out about one workload since the agent was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadFacts {
    /// Its namespace.
    pub namespace: String,
    /// Which: of a pod without a controller the pod itself.
    pub workload: Workload,
    /// Whose choice it is to hold its pods, at the last look; `None`: nobody's, they are observed.
    pub enabled_by: Option<Origin>,
    /// What its pods did.
    #[serde(flatten)]
    pub tally: Tally,
    /// The first connect of all that came too early.
    pub first: Option<FirstConnect>,
    /// From the first connect of a start that came too early to the proxy's readiness: the last time.
    #[serde(rename = "ready_after_ms", with = "millis::option")]
    pub ready_after: Option<Duration>,
    /// The longest of these.
    #[serde(rename = "ready_after_max_ms", with = "millis::option")]
    pub ready_after_max: Option<Duration>,
    /// When something was last seen of it.
    pub last_seen: Stamp,
}

/// Numbers that add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Starts of pods.
    pub starts: u64,
    /// Starts with a connect that failed.
    pub starts_with_failures: u64,
    /// Connects that failed because the proxy was not there.
    pub failed: u64,
    /// Connects that reached a proxy which took them and was not ready yet: they would have waited.
    pub too_early: u64,
    /// Connects and queries that were held.
    pub held: u64,
    /// Those of them that were connected, or sent on, afterwards.
    pub saved: u64,
}

/// A connect that came too early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstConnect {
    /// Where it wanted to go.
    pub destination: SocketAddr,
    /// The container, as far as known.
    pub container: Option<String>,
    /// Command name of the caller. Chosen by the tenant: any bytes.
    pub comm: String,
    /// When it was called.
    pub at: Stamp,
}

/// What `holdfast report` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObservedReport {
    /// When this was so.
    pub at: Stamp,
    /// Since when it was counted: the agent's start.
    pub since: Stamp,
    /// The node's name.
    pub node: String,
    /// Whether pods that nobody enabled are observed on this node.
    pub observe: bool,
    /// The workloads, by name.
    pub workloads: Vec<WorkloadFacts>,
}

// === impl Observed ===

impl Observed {
    /// Takes in what came of one closing of a gate: of a pod that is held, or observed.
    pub fn add(&mut self, episode: &Episode) {
        if let Some(facts) = self.of(episode) {
            facts.tally += episode.tally();
            facts.take(episode);
        }
    }

    /// Takes in what was told of an episode after it had been added; `before`: what it came to then.
    pub fn amend(&mut self, episode: &Episode, before: Tally) {
        if let Some(facts) = self.of(episode) {
            facts.tally += episode.tally() - before;
            facts.take(episode);
        }
    }

    /// All of them, by name.
    #[must_use]
    pub fn by_name(self) -> Vec<WorkloadFacts> {
        let mut all: Vec<_> = self.workloads.into_values().collect();
        all.sort_by(|a, b| {
            (&a.namespace, &a.workload.name, &a.workload.kind).cmp(&(
                &b.namespace,
                &b.workload.name,
                &b.workload.kind,
            ))
        });
        all
    }

    /// The facts about an episode's workload; `None`: nobody has told whose it is.
    fn of(&mut self, episode: &Episode) -> Option<&mut WorkloadFacts> {
        if episode.enabled_by.is_none() && !episode.observes {
            return None;
        }
        let key = Key::of(&episode.pod)?;
        if self.workloads.len() >= MAX_WORKLOADS && !self.workloads.contains_key(&key) {
            let oldest = self.workloads.iter().min_by_key(|(_, facts)| facts.last_seen);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.workloads.remove(&oldest);
            }
        }
        let Key { namespace, workload } = &key;
        let new = WorkloadFacts {
            namespace: namespace.to_string(),
            workload: workload.clone(),
            enabled_by: None,
            tally: Tally::default(),
            first: None,
            ready_after: None,
            ready_after_max: None,
            last_seen: episode.closed_at,
        };
        Some(self.workloads.entry(key).or_insert(new))
    }
}

// === impl Key ===

impl Key {
    /// Of a pod's workload; `None`: its name is not known.
    fn of(pod: &PodRef) -> Option<Self> {
        let PodName { namespace, name } = pod.name.clone()?;
        let workload = pod.workload.clone().unwrap_or_else(|| Workload::new("Pod", &name));
        Some(Self { namespace, workload })
    }
}

// === impl WorkloadFacts ===

impl WorkloadFacts {
    /// Whether they are about this pod's workload.
    #[must_use]
    pub fn concern(&self, pod: &PodRef) -> bool {
        Key::of(pod).is_some_and(|Key { namespace, workload }| {
            *self.namespace == *namespace && self.workload == workload
        })
    }

    fn take(&mut self, episode: &Episode) {
        let seen = episode.ended_at.or(episode.opened_at).unwrap_or(episode.closed_at);
        if seen >= self.last_seen {
            self.last_seen = seen;
            self.enabled_by = episode.enabled_by;
        }
        if let Some(first) = episode.connects.iter().min_by_key(|connect| connect.called_at)
            && self.first.as_ref().is_none_or(|known| first.called_at < known.at)
        {
            self.first = Some(first.into());
        }
        let waited = episode.first_connect_at.zip(episode.ready_at());
        if let Some(after) = waited.map(|(first, ready)| ready.since(first)) {
            self.ready_after = Some(after);
            self.ready_after_max = self.ready_after_max.max(Some(after));
        }
    }
}

impl From<&ConnectSpan> for FirstConnect {
    fn from(connect: &ConnectSpan) -> Self {
        let ConnectSpan { destination, container, comm, called_at, .. } = connect;
        let (container, comm) = (container.clone(), comm.clone());
        Self { destination: *destination, container, comm, at: *called_at }
    }
}

// === impl Episode ===

impl Episode {
    /// What it comes to.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let failed = self.observed_refused + self.refused + self.ended_as(Outcome::Refused);
        let is_start = matches!(self.reason, Some(CloseReason::Start | CloseReason::NotReady));
        Tally {
            starts: u64::from(is_start),
            starts_with_failures: u64::from(is_start && failed > 0),
            failed,
            too_early: self.observed - self.observed_refused,
            held: self.held,
            saved: self.ended_as(Outcome::Connected) + self.ended_as(Outcome::QuerySent),
        }
    }
}

// === impl Tally ===

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { starts, starts_with_failures, failed, too_early, held, saved } = other;
        self.starts += starts;
        self.starts_with_failures += starts_with_failures;
        self.failed += failed;
        self.too_early += too_early;
        self.held += held;
        self.saved += saved;
    }
}

impl std::ops::Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let less = u64::saturating_sub;
        Self {
            starts: less(self.starts, before.starts),
            starts_with_failures: less(self.starts_with_failures, before.starts_with_failures),
            failed: less(self.failed, before.failed),
            too_early: less(self.too_early, before.too_early),
            held: less(self.held, before.held),
            saved: less(self.saved, before.saved),
        }
    }
}

#[cfg(test)]
mod tests;
