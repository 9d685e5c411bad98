//! Which names belong to a cgroup: the programs know pods and containers by nothing else.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::core::{CgroupId, ContainerId, Event, PodName, PodUid, PodView};

/// As many pods as can have a gate (`GATES`).
const MAX_PODS: usize = 4096;

/// Containers of all pods, as many as can have a verdict (`CONTAINERS`).
const MAX_CONTAINERS: usize = 16_384;

/// The names of the node's pods and containers. The task that owns the state writes them, as the
/// facts come; who prints lines reads them. Clones are the same table.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<RwLock<Table>>);

/// Who a line is about, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The pod.
    pub uid: PodUid,
    /// Its namespace and name.
    pub pod: Option<PodName>,
    /// The container's name; its id until that is known.
    pub container: Option<String>,
}

#[derive(Debug, Default)]
struct Table {
    pods: HashMap<PodUid, Pod>,
    by_cgroup: HashMap<CgroupId, PodUid>,
    by_container: HashMap<CgroupId, (PodUid, ContainerId)>,
}

#[derive(Debug, Default)]
struct Pod {
    name: Option<PodName>,
    /// The API tells of it.
    is_listed: bool,
    cgroup: Option<CgroupId>,
    containers: HashMap<ContainerId, Container>,
}

#[derive(Debug, Default)]
struct Container {
    name: Option<String>,
    cgroup: Option<CgroupId>,
}

// === impl Names ===

impl Names {
    /// Takes in what a fact tells of names. Returns whether a pod has gone with it: neither the API
    /// tells of it nor has it a cgroup.
    pub fn learn(&self, event: &Event) -> bool {
        match event {
            Event::PodsListed(views) => self.write().list(views),
            Event::PodApplied(view) => {
                self.write().apply(view);
                false
            }
            Event::PodDeleted(uid) => self.write().unlist(uid),
            Event::PodCgroupFound { uid, cgroup, .. } => {
                self.write().find_pod(uid, *cgroup);
                false
            }
            Event::PodCgroupGone(uid) => self.write().lose_pod(uid),
            Event::ContainerFound { uid, cgroup, id, identity, pod } => {
                let name = identity.as_ref().map(|identity| identity.name.as_str());
                self.write().find_container(uid, *cgroup, id, name, pod.as_ref());
                false
            }
            Event::ContainerGone { uid, id } => {
                self.write().lose_container(uid, id);
                false
            }
            _ => false,
        }
    }

    /// Whose cgroups these are.
    #[must_use]
    pub fn find(&self, pod: CgroupId, container: Option<CgroupId>) -> Option<Named> {
        let table = self.read();
        let uid = table.by_cgroup.get(&pod)?;
        let pod = table.pods.get(uid)?;
        let container = container.and_then(|cgroup| table.by_container.get(&cgroup));
        let container = container.map(|(_, id)| {
            let name = pod.containers.get(id).and_then(|container| container.name.clone());
            name.unwrap_or_else(|| id.as_str().to_owned())
        });
        Some(Named { uid: uid.clone(), pod: pod.name.clone(), container })
    }

    /// The pod in which this container's cgroup is.
    #[must_use]
    pub fn pod_of(&self, container: CgroupId) -> Option<PodUid> {
        Some(self.read().by_container.get(&container)?.0.clone())
    }

    /// The pod's cgroup.
    #[must_use]
    pub fn cgroup_of(&self, pod: &PodUid) -> Option<CgroupId> {
        self.read().pods.get(pod)?.cgroup
    }

    /// Whether the API tells of a pod, or it has a cgroup.
    #[must_use]
    pub fn knows(&self, pod: &PodUid) -> bool {
        self.read().pods.contains_key(pod)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Table ===

impl Table {
    /// The pod's entry, made if there is room.
    fn pod(&mut self, uid: &PodUid) -> Option<&mut Pod> {
        if !self.pods.contains_key(uid) {
            if self.pods.len() >= MAX_PODS {
                return None;
            }
            self.pods.insert(uid.clone(), Pod::default());
        }
        self.pods.get_mut(uid)
    }

    fn list(&mut self, views: &[PodView]) -> bool {
        for pod in self.pods.values_mut() {
            pod.is_listed = false;
        }
        let before = self.pods.len();
        self.pods
            .retain(|uid, pod| pod.cgroup.is_some() || views.iter().any(|view| view.uid == *uid));
        let is_gone = self.pods.len() < before;
        for view in views {
            self.apply(view);
        }
        is_gone
    }

    fn apply(&mut self, view: &PodView) {
        let Some(pod) = self.pod(&view.uid) else { return };
        pod.is_listed = true;
        pod.name = Some(view.name.clone());
        let named = || {
            view.containers
                .iter()
                .filter_map(|container| Some((container.id.as_ref()?, &container.name)))
        };
        // Those of earlier starts go.
        pod.containers.retain(|id, container| {
            container.cgroup.is_some() || named().any(|(known, _)| known == id)
        });
        for (id, name) in named() {
            pod.containers.entry(id.clone()).or_default().name = Some(name.clone());
        }
    }

    fn unlist(&mut self, uid: &PodUid) -> bool {
        let Some(pod) = self.pods.get_mut(uid) else { return false };
        pod.is_listed = false;
        self.prune(uid)
    }

    fn find_pod(&mut self, uid: &PodUid, cgroup: CgroupId) {
        let Some(pod) = self.pod(uid) else { return };
        if let Some(before) = pod.cgroup.replace(cgroup) {
            self.by_cgroup.remove(&before);
        }
        self.by_cgroup.insert(cgroup, uid.clone());
    }

    fn lose_pod(&mut self, uid: &PodUid) -> bool {
        let Some(pod) = self.pods.get_mut(uid) else { return false };
        if let Some(cgroup) = pod.cgroup.take() {
            self.by_cgroup.remove(&cgroup);
        }
        for container in pod.containers.values_mut() {
            if let Some(cgroup) = container.cgroup.take() {
                self.by_container.remove(&cgroup);
            }
        }
        self.prune(uid)
    }

    fn find_container(
        &mut self,
        uid: &PodUid,
        cgroup: CgroupId,
        id: &ContainerId,
        name: Option<&str>,
        of: Option<&PodName>,
    ) {
        let is_full = self.by_container.len() >= MAX_CONTAINERS;
        let Some(pod) = self.pod(uid) else { return };
        // The API's word counts more.
        if !pod.is_listed
            && let Some(of) = of
        {
            pod.name = Some(of.clone());
        }
        if is_full {
            return;
        }
        let container = pod.containers.entry(id.clone()).or_default();
        // A sandbox has none.
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            container.name.get_or_insert_with(|| name.to_owned());
        }
        if let Some(before) = container.cgroup.replace(cgroup) {
            self.by_container.remove(&before);
        }
        self.by_container.insert(cgroup, (uid.clone(), id.clone()));
    }

    fn lose_container(&mut self, uid: &PodUid, id: &ContainerId) {
        let container = self.pods.get_mut(uid).and_then(|pod| pod.containers.remove(id));
        if let Some(cgroup) = container.and_then(|container| container.cgroup) {
            self.by_container.remove(&cgroup);
        }
    }

    /// Removes a pod of which nothing is left; returns whether that was so.
    fn prune(&mut self, uid: &PodUid) -> bool {
        let is_gone = self.pods.get(uid).is_some_and(|pod| !pod.is_listed && pod.cgroup.is_none());
        is_gone && self.pods.remove(uid).is_some()
    }
}
