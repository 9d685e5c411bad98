//! What the API says, reduced to what decides.

use std::collections::BTreeMap;

use super::{ContainerId, PodName, PodUid};

/// How a container takes part in a pod's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Its id, once the status tells.
    pub id: Option<ContainerId>,
    /// Kubelet calls it ready.
    pub ready: bool,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Names its cgroup.
    pub uid: PodUid,
    /// Namespace and name.
    pub name: PodName,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Its phase is Succeeded or Failed: nothing runs in it any more.
    pub finished: bool,
    /// Init containers first, then the others, then the ephemeral ones.
    pub containers: Vec<ContainerView>,
}

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
}
