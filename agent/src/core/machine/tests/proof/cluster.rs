//! What is true on the node and in the API: the pods' objects, cgroups and containers, and the news of
//! them that is under way to the agent.

use std::collections::VecDeque;

use super::{
    super::{labels, migrate, view},
    step::{Hold, SLOTS, Shape, Slot, Source, Who},
};
use crate::core::{
    CgroupId, ContainerId, ContainerIdentity, ContainerKind, ContainerRole, Event, NamespaceView,
    PodName, PodUid, PodView,
};

/// A pod's object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) shape: Shape,
    pub(super) hold: Hold,
    pub(super) timeout_ms: Option<u64>,
    pub(super) terminating: bool,
    pub(super) finished: bool,
    /// What kubelet has told: the containers' ids, and whether the proxy is ready.
    pub(super) ids: Vec<(Who, ContainerId)>,
    pub(super) ready: bool,
}

/// A container that has a cgroup.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) who: Who,
    pub(super) id: ContainerId,
    pub(super) cgroup: CgroupId,
    pub(super) populated: bool,
    has_bundle: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pod {
    /// How many there have been in this slot.
    generation: u32,
    used: bool,
    had_object: bool,
    pub(super) object: Option<Object>,
    pub(super) cgroup: Option<CgroupId>,
    pub(super) containers: Vec<Running>,
    /// What the API has said of it.
    versions: Vec<PodView>,
}

/// Something that the agent will hear.
#[derive(Clone, Debug)]
pub(super) enum News {
    Of(Event),
    /// All cgroups have been told of.
    CgroupsListed,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) pods: [Pod; SLOTS],
    /// `None`: there is no such namespace.
    pub(super) namespace: Option<Hold>,
    same_name: bool,
    pods_news: VecDeque<News>,
    namespaces_news: VecDeque<News>,
    cgroups_news: VecDeque<News>,
    numbers: u64,
    /// Numbers of cgroups that are gone.
    free: Vec<CgroupId>,
    ids: u64,
}

fn word(hold: Hold) -> Option<&'static str> {
    match hold {
        Hold::Unset => None,
        Hold::Enabled => Some("enabled"),
        Hold::Disabled => Some("disabled"),
    }
}

impl Who {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "",
            Self::Init => "migrate",
            Self::App => "app",
            Self::Proxy => "istio-proxy",
        }
    }
}

// === impl Pod ===

impl Pod {
    pub(super) fn running(&self, who: Who) -> Option<&Running> {
        self.containers.iter().find(|running| running.who == who)
    }
}

// === impl Cluster ===

impl Cluster {
    pub(super) fn new(same_name: bool) -> Self {
        Self {
            pods: Default::default(),
            namespace: Some(Hold::Unset),
            same_name,
            pods_news: VecDeque::new(),
            namespaces_news: VecDeque::new(),
            cgroups_news: VecDeque::new(),
            numbers: 100,
            free: Vec::new(),
            ids: 0,
        }
    }

    pub(super) fn uid(&self, slot: Slot) -> PodUid {
        PodUid::new(&format!("{slot}-{}", self.pods[slot].generation))
    }

    pub(super) fn slot_of(&self, cgroup: CgroupId) -> Option<Slot> {
        self.pods.iter().position(|pod| pod.cgroup == Some(cgroup))
    }

    fn queue(&mut self, source: Source) -> &mut VecDeque<News> {
        match source {
            Source::Pods => &mut self.pods_news,
            Source::Namespaces => &mut self.namespaces_news,
            Source::Cgroups | Source::Kernel => &mut self.cgroups_news,
        }
    }

    /// The next that the agent hears from this source.
    pub(super) fn next(&mut self, source: Source) -> Option<News> {
        self.queue(source).pop_front()
    }

    /// A change is not told; what there is when an agent starts always is.
    pub(super) fn lose_cgroup_news(&mut self) -> bool {
        let lists = |news: &News| matches!(news, News::CgroupsListed);
        !self.cgroups_news.iter().any(lists) && self.cgroups_news.pop_front().is_some()
    }

    fn tell(&mut self, source: Source, event: Event) {
        self.queue(source).push_back(News::Of(event));
    }

    fn number(&mut self, reuses: bool) -> CgroupId {
        if reuses && let Some(free) = self.free.pop() {
            return free;
        }
        self.numbers += 1;
        CgroupId(self.numbers)
    }

    // --- the API server ---

    pub(super) fn view(&self, slot: Slot) -> Option<PodView> {
        let object = self.pods[slot].object.as_ref()?;
        let mut view = view();
        view.uid = self.uid(slot);
        let namespace = if object.shape == Shape::System { "kube-system" } else { "shop" };
        let name = if self.same_name { "cart-0".to_owned() } else { format!("cart-{slot}") };
        view.name = PodName::new(namespace, &name);
        view.labels = labels(word(object.hold));
        if let Some(timeout) = object.timeout_ms {
            let text = format!("{}s", timeout / 1000);
            view.annotations.insert("holdfast.dev/timeout".to_owned(), text);
        }
        view.host_network = object.shape == Shape::HostNetwork;
        (view.terminating, view.finished) = (object.terminating, object.finished);
        let mut migrate = migrate("");
        migrate.id = None;
        // In the order of the spec: init containers first.
        match object.shape {
            Shape::Native => {
                let mut proxy = view.containers.remove(2);
                proxy.role = ContainerRole::Sidecar;
                view.containers.insert(1, proxy);
                view.containers.insert(2, migrate);
            }
            Shape::Bare => {
                view.containers.remove(2);
                view.annotations.remove("sidecar.istio.io/status");
                view.containers.insert(1, migrate);
            }
            Shape::Classic | Shape::HostNetwork | Shape::System => {
                view.containers.insert(1, migrate);
            }
        }
        for container in &mut view.containers {
            let id = object.ids.iter().rfind(|(who, _)| who.name() == container.name);
            container.id = id.map(|(_, id)| id.clone());
            container.ready = object.ready && container.name == Who::Proxy.name();
        }
        Some(view)
    }

    /// The object has changed, and the API server tells.
    pub(super) fn changed(&mut self, slot: Slot) {
        if let Some(view) = self.view(slot) {
            self.pods[slot].versions.push(view.clone());
            self.tell(Source::Pods, Event::PodApplied(view));
        }
    }

    /// What was said of the pods of this slot so many versions ago.
    pub(super) fn stale(&self, slot: Slot, back: usize) -> Option<PodView> {
        let versions = &self.pods[slot].versions;
        versions.get(versions.len().checked_sub(back + 2)?).cloned()
    }

    pub(super) fn make_object(&mut self, slot: Slot, shape: Shape, hold: Hold) {
        if self.pods[slot].object.is_some() {
            return;
        }
        self.begin(slot);
        let pod = &mut self.pods[slot];
        // What was deleted does not come back; its cgroup is removed first.
        if std::mem::replace(&mut pod.had_object, true) {
            return;
        }
        pod.object = Some(Object {
            shape,
            hold,
            timeout_ms: None,
            terminating: false,
            finished: false,
            ids: Vec::new(),
            ready: false,
        });
        self.changed(slot);
    }

    pub(super) fn change(&mut self, slot: Slot, how: impl FnOnce(&mut Object)) {
        if let Some(object) = &mut self.pods[slot].object {
            how(object);
            self.changed(slot);
        }
    }

    pub(super) fn delete_object(&mut self, slot: Slot) {
        if self.pods[slot].object.take().is_some() {
            let uid = self.uid(slot);
            self.tell(Source::Pods, Event::PodDeleted(uid));
        }
    }

    pub(super) fn status(&mut self, slot: Slot, ready: bool) {
        let containers = &self.pods[slot].containers;
        let ids = containers.iter().map(|running| (running.who, running.id.clone())).collect();
        let runs = self.pods[slot].running(Who::Proxy).is_some_and(|proxy| proxy.populated);
        self.change(slot, |object| {
            object.ids = ids;
            object.ready = ready && runs;
        });
    }

    pub(super) fn list_pods(&mut self) {
        let views = (0..SLOTS).filter_map(|slot| self.view(slot)).collect();
        self.tell(Source::Pods, Event::PodsListed(views));
    }

    fn namespace_view(&self) -> Option<NamespaceView> {
        Some(super::super::namespace(word(self.namespace?)))
    }

    pub(super) fn label_namespace(&mut self, hold: Option<Hold>) {
        let before = std::mem::replace(&mut self.namespace, hold);
        match self.namespace_view() {
            Some(view) => self.tell(Source::Namespaces, Event::NamespaceApplied(view)),
            None if before.is_some() => {
                self.tell(Source::Namespaces, Event::NamespaceDeleted("shop".to_owned()));
            }
            None => {}
        }
    }

    // --- the node ---

    /// A pod begins with its object or with its cgroup, whichever is first.
    fn begin(&mut self, slot: Slot) {
        let pod = &mut self.pods[slot];
        if pod.object.is_none() && pod.cgroup.is_none() && std::mem::replace(&mut pod.used, true) {
            pod.generation += 1;
            pod.had_object = false;
        }
    }

    pub(super) fn make_cgroup(&mut self, slot: Slot, reuses: bool) -> Option<CgroupId> {
        if self.pods[slot].cgroup.is_some() {
            return None;
        }
        self.begin(slot);
        let cgroup = self.number(reuses);
        self.pods[slot].cgroup = Some(cgroup);
        let uid = self.uid(slot);
        let event = Event::PodCgroupFound { uid, cgroup, at_start: false, inherited: None };
        self.tell(Source::Cgroups, event);
        Some(cgroup)
    }

    pub(super) fn start(&mut self, slot: Slot, who: Who, has_bundle: bool, reuses: bool) {
        if self.pods[slot].cgroup.is_none() {
            return;
        }
        let runs = |running: &Running| running.who == who && running.populated;
        if self.pods[slot].containers.iter().any(runs) {
            return;
        }
        let cgroup = self.number(reuses);
        self.ids += 1;
        let id = ContainerId::new(&format!("c{}", self.ids));
        let running = Running { who, id, cgroup, populated: true, has_bundle };
        self.tell_container(slot, &running);
        self.pods[slot].containers.push(running);
    }

    fn tell_container(&mut self, slot: Slot, running: &Running) {
        let uid = self.uid(slot);
        let Running { who, id, cgroup, populated, has_bundle } = running.clone();
        let kind = match who {
            Who::Sandbox => ContainerKind::Sandbox,
            Who::Init | Who::App | Who::Proxy => ContainerKind::Container,
        };
        let identity = has_bundle.then(|| ContainerIdentity { kind, name: who.name().to_owned() });
        self.tell(
            Source::Cgroups,
            Event::ContainerFound { uid: uid.clone(), cgroup, id: id.clone(), identity, pod: None },
        );
        self.tell(Source::Cgroups, Event::ContainerPopulated { uid, id, populated });
    }

    /// Its last process ends; the cgroup it had, if it had one.
    pub(super) fn end(&mut self, slot: Slot, who: Who) -> Option<CgroupId> {
        let uid = self.uid(slot);
        let runs = |running: &&mut Running| running.who == who && running.populated;
        let running = self.pods[slot].containers.iter_mut().find(runs)?;
        running.populated = false;
        let (cgroup, id) = (running.cgroup, running.id.clone());
        self.tell(Source::Cgroups, Event::ContainerPopulated { uid, id, populated: false });
        Some(cgroup)
    }

    /// Removes the containers of this kind that have ended.
    pub(super) fn remove(&mut self, slot: Slot, who: Who) {
        let uid = self.uid(slot);
        let ended = |running: &Running| running.who == who && !running.populated;
        let (gone, stay) =
            std::mem::take(&mut self.pods[slot].containers).into_iter().partition(ended);
        self.pods[slot].containers = stay;
        let gone: Vec<Running> = gone;
        for Running { id, cgroup, .. } in gone {
            self.free.push(cgroup);
            self.tell(Source::Cgroups, Event::ContainerGone { uid: uid.clone(), id });
        }
    }

    /// Once nothing is in it.
    pub(super) fn remove_cgroup(&mut self, slot: Slot) -> Option<CgroupId> {
        if !self.pods[slot].containers.is_empty() {
            return None;
        }
        let cgroup = self.pods[slot].cgroup.take()?;
        self.free.push(cgroup);
        let uid = self.uid(slot);
        self.tell(Source::Cgroups, Event::PodCgroupGone(uid));
        Some(cgroup)
    }

    /// A new agent asks all sources what there is.
    pub(super) fn list_all(&mut self) {
        self.pods_news.clear();
        self.namespaces_news.clear();
        self.cgroups_news.clear();
        self.list_pods();
        let namespaces = self.namespace_view().into_iter().collect();
        self.tell(Source::Namespaces, Event::NamespacesListed(namespaces));
        for slot in 0..SLOTS {
            let Some(cgroup) = self.pods[slot].cgroup else { continue };
            let uid = self.uid(slot);
            let event = Event::PodCgroupFound { uid, cgroup, at_start: true, inherited: None };
            self.tell(Source::Cgroups, event);
            for running in self.pods[slot].containers.clone() {
                self.tell_container(slot, &running);
            }
        }
        self.cgroups_news.push_back(News::CgroupsListed);
    }
}
