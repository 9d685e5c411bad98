//! The state of the node's pods: facts come in, actions go out.
//!
//! ```text
//!            cgroup found, enabled or not yet known
//!   Absent ────────────────────────────────────────► Closed ──┐ ready, deadline, exempt
//!     │  ▲                                             ▲      ▼
//!     │  │ exempt                            not ready │    Opening ── settled ──► Open
//!     ▼  │                                             │                            │
//!   Checking ──────────────────────────────────────────┘ ◄── (a pod that may have   │
//!     │      first probe: ready                               run before) ──────────┘
//!     └────────────────────────────────────────────────────► Open    exempt: Absent again
//! ```
//!
//! Each event changes facts first; then the pods it concerns are evaluated from their facts alone,
//! so that the order of events does not matter for where they end.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{
    Action, CgroupId, ContainerId, ContainerIdentity, Event, KernelEvent, KernelEventKind,
    Monotonic, NamespaceView, PodUid, PodView, Profile,
    action::{Exemption, Line},
    enablement::{Hold, is_enabled},
};

mod gate;
mod held;
mod pod;

use pod::Pod;

/// Namespaces that are never held, whatever their labels say: a node must be able to start.
const SYSTEM_NAMESPACES: [&str; 1] = ["kube-system"];

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct MachineOptions {
    /// How long a gate stays closed at most.
    pub timeout: Duration,
    /// The mesh.
    pub profile: &'static Profile,
}

/// The state of all pods of the node.
#[derive(Debug)]
pub struct Machine {
    options: MachineOptions,
    /// `None` until the first list: a pod's namespace is then not yet known, not unlabelled.
    namespaces: Option<HashMap<String, NamespaceView>>,
    pods: HashMap<PodUid, Pod>,
    by_cgroup: HashMap<CgroupId, PodUid>,
}

/// Whether a pod is one to hold, as far as its facts tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Enabled,
    Exempt(Exemption),
    /// The API has not told enough yet.
    Unknown,
}

// === impl Machine ===

impl Machine {
    /// A node without pods.
    #[must_use]
    pub fn new(options: MachineOptions) -> Self {
        Self { options, namespaces: None, pods: HashMap::new(), by_cgroup: HashMap::new() }
    }

    /// Takes in one event that became known at `now`; returns what is to be done, in order.
    pub fn apply(&mut self, event: Event, now: Monotonic) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::PodsListed(views) => self.pods_listed(views, now, &mut actions),
            Event::PodApplied(view) => self.pod_applied(view, now, &mut actions),
            Event::PodDeleted(uid) => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.deleted = true;
                }
                self.evaluate(&uid, now, &mut actions);
            }
            Event::NamespacesListed(views) => self.namespaces_listed(views, now, &mut actions),
            Event::NamespaceApplied(view) => self.namespace_applied(view, now, &mut actions),
            Event::NamespaceDeleted(name) => {
                if let Some(namespaces) = &mut self.namespaces {
                    namespaces.remove(&name);
                }
            }
            Event::PodCgroupFound { uid, cgroup, at_start } => {
                self.by_cgroup.insert(cgroup, uid.clone());
                self.pod(&uid).found(cgroup, at_start);
                self.evaluate(&uid, now, &mut actions);
            }
            Event::PodCgroupGone(uid) => self.pod_cgroup_gone(&uid, now, &mut actions),
            Event::ContainerFound { uid, cgroup, id, identity, pod: name } => {
                let pod = self.pod(&uid);
                pod.bundle_name = name.or(pod.bundle_name.take());
                pod.container_found(id, cgroup, identity);
                self.evaluate(&uid, now, &mut actions);
            }
            Event::ContainerGone { uid, id } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.container_gone(&id, &mut actions);
                }
            }
            Event::HostNetworkSeen(uid) => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.host_network_seen = true;
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::ProxyReady(uid) => self.probed(&uid, true, now, &mut actions),
            Event::ProxyNotReady(uid) => self.probed(&uid, false, now, &mut actions),
            Event::Kernel(event) => self.kernel(event, now, &mut actions),
            Event::GateFailed { uid, error } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.failed(error, now, &mut actions);
                }
            }
            Event::Tick => self.evaluate_all(now, &mut actions),
        }
        actions
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Monotonic> {
        self.pods.values().filter_map(Pod::next_wakeup).min()
    }

    /// The pod and the container's cgroup of a held connect whose container has not been reported
    /// yet: a process can be faster than the news of its own cgroup.
    #[must_use]
    pub fn unreported_container(&self, event: &KernelEvent) -> Option<(PodUid, CgroupId)> {
        let KernelEventKind::Held { container: Some(cgroup), .. } = event.kind else {
            return None;
        };
        let pod = self.pods.get(self.by_cgroup.get(&event.pod)?)?;
        let known = pod.containers.values().any(|container| container.cgroup == cgroup);
        (!known).then(|| (pod.uid.clone(), cgroup))
    }

    /// The pods whose programs are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.pods.values().filter(|pod| pod.gate.is_attached()).count()
    }

    fn pod(&mut self, uid: &PodUid) -> &mut Pod {
        self.pods.entry(uid.clone()).or_insert_with(|| Pod::new(uid.clone()))
    }

    fn pods_listed(&mut self, views: Vec<PodView>, now: Monotonic, actions: &mut Vec<Action>) {
        for pod in self.pods.values_mut() {
            // Pods of which only a cgroup is known may be too new for the list.
            pod.deleted = pod.view.is_some();
        }
        for view in views {
            self.remember_view(view, actions);
        }
        self.evaluate_all(now, actions);
    }

    fn pod_applied(&mut self, view: PodView, now: Monotonic, actions: &mut Vec<Action>) {
        let uid = view.uid.clone();
        self.remember_view(view, actions);
        self.evaluate(&uid, now, actions);
    }

    fn remember_view(&mut self, view: PodView, actions: &mut Vec<Action>) {
        let pod = self.pod(&view.uid);
        let known = pod.view.as_ref().map(|view| &view.labels);
        actions.extend(invalid_label(&view.labels, known, || format!("pod {}", view.name)));
        pod.deleted = false;
        pod.view = Some(view);
    }

    fn namespaces_listed(
        &mut self,
        views: Vec<NamespaceView>,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        let before = self.namespaces.take().unwrap_or_default();
        for view in &views {
            let known = before.get(&view.name).map(|view| &view.labels);
            actions
                .extend(invalid_label(&view.labels, known, || format!("namespace {}", view.name)));
        }
        self.namespaces = Some(views.into_iter().map(|view| (view.name.clone(), view)).collect());
        self.evaluate_all(now, actions);
    }

    fn namespace_applied(
        &mut self,
        view: NamespaceView,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        let namespaces = self.namespaces.get_or_insert_default();
        let name = view.name.clone();
        let known = namespaces.get(&name).map(|view| &view.labels);
        actions.extend(invalid_label(&view.labels, known, || format!("namespace {name}")));
        namespaces.insert(name.clone(), view);
        let concerned: Vec<PodUid> = self
            .pods
            .values()
            .filter(|pod| pod.view.as_ref().is_some_and(|view| *view.name.namespace == *name))
            .map(|pod| pod.uid.clone())
            .collect();
        for uid in concerned {
            self.evaluate(&uid, now, actions);
        }
    }

    fn pod_cgroup_gone(&mut self, uid: &PodUid, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if let Some(cgroup) = pod.cgroup {
            self.by_cgroup.remove(&cgroup);
        }
        pod.cgroup_gone(now, actions);
        if pod.view.is_none() || pod.deleted {
            self.pods.remove(uid);
        }
    }

    fn probed(&mut self, uid: &PodUid, ready: bool, now: Monotonic, actions: &mut Vec<Action>) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.probed = Some(ready);
            self.evaluate(uid, now, actions);
        }
    }

    fn kernel(&mut self, event: KernelEvent, now: Monotonic, actions: &mut Vec<Action>) {
        // A pod that is gone by now: its sockets are, too.
        let Some(uid) = self.by_cgroup.get(&event.pod).cloned() else {
            return;
        };
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.kernel(event, actions);
            self.evaluate(&uid, now, actions);
        }
    }

    fn evaluate_all(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let mut uids: Vec<PodUid> = self.pods.keys().cloned().collect();
        // A stable order makes runs comparable.
        uids.sort();
        for uid in uids {
            self.evaluate(&uid, now, actions);
        }
    }

    fn evaluate(&mut self, uid: &PodUid, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(pod) = self.pods.get(uid) else {
            return;
        };
        let standing = self.standing(pod);
        let options = self.options;
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.evaluate(standing, &options, now, actions);
            if pod.deleted && pod.cgroup.is_none() {
                self.pods.remove(uid);
            }
        }
    }

    fn standing(&self, pod: &Pod) -> Standing {
        let exempt = |exemption| Standing::Exempt(exemption);
        if pod.deleted {
            return exempt(Exemption::Deleted);
        }
        let Some(view) = &pod.view else {
            // What was seen counts only until the API tells: a runtime that is slow to start a
            // sandbox looks the same.
            let seen = pod.host_network_seen;
            return if seen { exempt(Exemption::HostNetwork) } else { Standing::Unknown };
        };
        let profile = self.options.profile;
        let namespace = &*view.name.namespace;
        if view.host_network {
            return exempt(Exemption::HostNetwork);
        }
        if view.terminating {
            return exempt(Exemption::Terminating);
        }
        if view.finished {
            return exempt(Exemption::Finished);
        }
        if SYSTEM_NAMESPACES.contains(&namespace) || profile.control_plane.contains(&namespace) {
            return exempt(Exemption::ControlPlane);
        }
        let Some(namespace) = self.namespaces.as_ref().and_then(|all| all.get(namespace)) else {
            return Standing::Unknown;
        };
        if !is_enabled(&view.labels, &namespace.labels) {
            return exempt(Exemption::NotEnabled);
        }
        if view.container(profile.proxy_container).is_none() {
            return exempt(Exemption::NoProxy);
        }
        Standing::Enabled
    }
}

/// The warning about an object's label, once for each change of its labels.
fn invalid_label(
    labels: &Labels,
    known: Option<&Labels>,
    object: impl FnOnce() -> String,
) -> Option<Action> {
    let value = Hold::from_labels(labels).err()?.to_owned();
    (known != Some(labels)).then(|| Action::Log(Line::InvalidLabel { object: object(), value }))
}

type Labels = BTreeMap<String, String>;

/// One container of a pod, by its cgroup.
#[derive(Debug)]
struct Container {
    cgroup: CgroupId,
    identity: Option<ContainerIdentity>,
    /// The verdict that the kernel was told.
    told: Option<super::Verdict>,
}

/// The containers of a pod, by id.
type Containers = HashMap<ContainerId, Container>;

#[cfg(test)]
mod tests;
