//! What the agent has been told so far, and what follows from that alone for whom it may hold. Written
//! from the promises, not from the machine.

use std::{collections::BTreeMap, time::Duration};

use super::step::Who;
use crate::core::{
    CgroupId, ContainerId, ContainerIdentity, ContainerKind, ContainerRole, Event, KernelEvent,
    KernelEventKind, Monotonic, NamespaceView, Order, PodUid, PodView,
};

/// It forgets what a deleted pod was as soon as its cgroup is not there, as the agent does.
#[derive(Debug, Default)]
pub(super) struct Told {
    cgroups: BTreeMap<PodUid, CgroupId>,
    /// When the first was called of those that are known to have waited since the gate was closed.
    waits: BTreeMap<CgroupId, Monotonic>,
    /// When the last order to close ends.
    orders: BTreeMap<PodUid, Monotonic>,
    pods: BTreeMap<PodUid, (PodView, bool)>,
    /// `None`: not listed yet.
    namespaces: Option<BTreeMap<String, NamespaceView>>,
    /// By id: whose it is, its cgroup, and what its bundle says.
    containers: BTreeMap<String, (PodUid, CgroupId, Option<ContainerIdentity>)>,
}

impl Told {
    pub(super) fn learn(&mut self, event: &Event) {
        match event {
            Event::PodsListed(views) => {
                for (_, is_there) in self.pods.values_mut() {
                    *is_there = false;
                }
                for view in views {
                    self.pods.insert(view.uid.clone(), (view.clone(), true));
                }
            }
            Event::PodApplied(view) => {
                self.pods.insert(view.uid.clone(), (view.clone(), true));
            }
            Event::PodDeleted(uid) => {
                if let Some((_, is_there)) = self.pods.get_mut(uid) {
                    *is_there = false;
                }
            }
            Event::NamespacesListed(views) => {
                let named = views.iter().map(|view| (view.name.clone(), view.clone()));
                self.namespaces = Some(named.collect());
            }
            Event::NamespaceApplied(view) => {
                let all = self.namespaces.get_or_insert_default();
                all.insert(view.name.clone(), view.clone());
            }
            Event::ContainerFound { uid, cgroup, id, identity, .. } => {
                let container = (uid.clone(), *cgroup, identity.clone());
                self.containers.insert(id.as_str().to_owned(), container);
            }
            Event::ContainerGone { id, .. } => {
                self.containers.remove(id.as_str());
            }
            Event::PodCgroupFound { uid, cgroup, .. } => {
                self.cgroups.insert(uid.clone(), *cgroup);
            }
            Event::PodCgroupGone(uid) => {
                self.cgroups.remove(uid);
                self.containers.retain(|_, (of, ..)| of != uid);
            }
            Event::Ordered { uid, order: Some(Order::Closed { until }) } => {
                self.orders.insert(uid.clone(), *until);
            }
            // Of a pod that is not known yet, or no more, there is nobody to tell.
            Event::Kernel(KernelEvent { pod, kind: KernelEventKind::Held(caller), .. })
                if self.cgroups.values().any(|known| known == pod) =>
            {
                self.waits.entry(*pod).or_insert(caller.connect_at);
            }
            Event::NamespaceDeleted(name) => {
                if let Some(all) = &mut self.namespaces {
                    all.remove(name);
                }
            }
            _ => {}
        }
        let Self { cgroups, pods, .. } = self;
        pods.retain(|uid, (_, is_there)| *is_there || cgroups.contains_key(uid));
        self.orders.retain(|uid, _| pods.contains_key(uid) || cgroups.contains_key(uid));
    }

    /// The gate has been closed.
    pub(super) fn closed(&mut self, pod: CgroupId) {
        self.waits.remove(&pod);
    }

    /// When the first was called that is known to have waited since, whether or not it does still.
    pub(super) fn first_wait(&self, pod: CgroupId) -> Option<Monotonic> {
        self.waits.get(&pod).copied()
    }

    /// When the last order to close ends, or ended.
    pub(super) fn ordered(&self, uid: &PodUid) -> Option<Monotonic> {
        self.orders.get(uid).copied()
    }

    pub(super) fn view(&self, uid: &PodUid) -> Option<&PodView> {
        self.pods.get(uid).map(|(view, _)| view)
    }

    /// Whether the pod may be held; `None`: not enough has been told.
    pub(super) fn may_hold(&self, uid: &PodUid) -> Option<bool> {
        let (view, is_there) = self.pods.get(uid)?;
        let never = view.host_network
            || view.terminating
            || view.finished
            || *view.name.namespace == *"kube-system";
        if !is_there || never {
            return Some(false);
        }
        let namespace = self.namespaces.as_ref()?.get(&*view.name.namespace)?;
        let own = view.labels.get("holdfast.dev/hold");
        let label = own.or_else(|| namespace.labels.get("holdfast.dev/hold"));
        let is_enabled = label.is_some_and(|value| value == "enabled");
        Some(is_enabled && view.container(Who::Proxy.name()).is_some())
    }

    /// How long it is held at most.
    pub(super) fn timeout(&self, uid: &PodUid, otherwise: Duration) -> Duration {
        let own = self.view(uid).and_then(|view| view.annotations.get("holdfast.dev/timeout"));
        let seconds = own.map(|text| text.trim_end_matches('s').parse().expect("it is ours"));
        let own = seconds.map_or(otherwise, Duration::from_secs);
        // As long as its namespace is not known its own word may count, or not yet.
        if self.may_hold(uid).is_none() { own.max(otherwise) } else { own }
    }

    /// The containers of which it is known what they are, and whether a gate of their pod holds them.
    pub(super) fn held_containers(&self, uid: &PodUid) -> Vec<(CgroupId, bool)> {
        let Some(view) = self.view(uid) else { return Vec::new() };
        let is_native = view
            .container(Who::Proxy.name())
            .is_some_and(|proxy| proxy.role == ContainerRole::Sidecar);
        let name = |id: &str, identity: &Option<ContainerIdentity>| match identity {
            Some(ContainerIdentity { kind: ContainerKind::Sandbox, .. }) => Some(String::new()),
            Some(ContainerIdentity { name, .. }) => Some(name.clone()),
            None => {
                let id = ContainerId::new(id);
                let named = view.containers.iter().find(|named| named.id.as_ref() == Some(&id));
                named.map(|named| named.name.clone())
            }
        };
        let ours = self.containers.iter().filter(|(_, (of, ..))| of == uid);
        ours.filter_map(|(id, (_, cgroup, identity))| {
            let is_held = match name(id, identity)?.as_str() {
                "" | "istio-proxy" => false,
                "migrate" => is_native,
                _ => true,
            };
            Some((*cgroup, is_held))
        })
        .collect()
    }
}
