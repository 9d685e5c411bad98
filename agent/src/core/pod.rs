//! What the API says, reduced to what decides.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{ContainerId, PodName, PodUid, ReadyCheck};

/// How a container takes part in a pod's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRole {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always` (a native sidecar).
    Sidecar,
    /// An ordinary container.
    App,
    /// Added to a running pod for debugging.
    Ephemeral,
}

/// A container of a pod, in the order of its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name in the spec.
    pub name: String,
    /// Its role.
    pub role: ContainerRole,
    /// What its spec says about it.
    pub spec: ContainerSpec,
    /// Its id, once the status tells.
    pub id: Option<ContainerId>,
    /// Kubelet calls it ready.
    pub ready: bool,
}

/// The parts of a container's spec that tell about a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// `command`, then `args`.
    pub args: Vec<String>,
    /// The entries of `env` that have a literal value.
    pub env: BTreeMap<String, String>,
    /// The named entries of `ports`.
    pub ports: BTreeMap<String, u16>,
    /// `securityContext.runAsUser`, its own or the pod's.
    pub run_as_user: Option<u32>,
    /// Its startup probe and its readiness probe, in this order, as far as they are requests or
    /// connects to a port that is given as a number or by a name in `ports`.
    pub probes: Vec<ReadyCheck>,
    /// It has a startup or a readiness probe, of whatever kind. Without one kubelet calls it ready
    /// as soon as it has started.
    pub is_probed: bool,
    /// It has a startup probe or a postStart hook: if it is a native sidecar, kubelet starts the
    /// next container only after that (KEP-753).
    pub blocks_next: bool,
}

/// What a pod was made for: its controller, or that one's own, as far as the pod tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "WorkloadText", from = "WorkloadText")]
pub struct Workload {
    /// Such as `Deployment`.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

#[derive(Serialize, Deserialize)]
struct WorkloadText {
    kind: String,
    name: String,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Names its cgroup.
    pub uid: PodUid,
    /// Namespace and name.
    pub name: PodName,
    /// What it was made for; `None`: somebody made it by hand.
    pub workload: Option<Workload>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Its phase is Succeeded or Failed: nothing runs in it any more.
    pub finished: bool,
    /// Init containers first, then the others, then the ephemeral ones.
    pub containers: Vec<ContainerView>,
}

// === impl Workload ===

impl Workload {
    /// Of this kind and name.
    #[must_use]
    pub fn new(kind: &str, name: &str) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl From<Workload> for WorkloadText {
    fn from(Workload { kind, name }: Workload) -> Self {
        Self { kind: kind.as_ref().into(), name: name.as_ref().into() }
    }
}

impl From<WorkloadText> for Workload {
    fn from(WorkloadText { kind, name }: WorkloadText) -> Self {
        Self::new(&kind, &name)
    }
}

// === impl PodView ===

impl PodView {
    /// The container with this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.name == name)
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceView {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}
