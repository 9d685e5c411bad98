//! Plays one case: a pod's object, and what happens to it, step by step.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use holdfast::{
    cluster::{Kept, pod_view},
    config::{self, Config},
    core::{
        Action, Caller, CgroupId, ContainerId, ContainerIdentity, ContainerKind, Defaults, Episode,
        Epoch, Event, Finding, History, KernelEvent, KernelEventKind, Machine, Monotonic,
        NamespaceView, Order, PodReport, PodUid, PodView, Rules, SocketCookie, Stamp,
    },
};
use serde_json::{Value, json};

use crate::kernel::{Answer, Kernel, Whose};

const POD_CGROUP: CgroupId = CgroupId(100);

/// What a case begins with.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// A pod of tests/fixtures/pods, by its file's name.
    pub(crate) pod: &'static str,
    /// Merged into it (RFC 7386).
    pub(crate) change: Value,
    /// Its namespace's labels.
    pub(crate) labels: Vec<(&'static str, &'static str)>,
    /// Its namespace's annotations.
    pub(crate) annotations: Vec<(&'static str, &'static str)>,
    /// The agent's config file.
    pub(crate) config: &'static str,
    /// It is the agent's own pod.
    pub(crate) own: bool,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The API tells of the pod and its namespace.
    Told,
    /// Kubelet makes the pod's cgroup, and the runtime starts its sandbox.
    Cgroup,
    /// The same, before the agent started.
    CgroupBefore,
    /// The pod's cgroup is removed.
    CgroupGone,
    /// The runtime starts a container and there is a bundle that names it.
    Starts(&'static str),
    /// It starts, and nothing tells yet which container it is.
    StartsUnnamed(&'static str),
    /// Its last process ends.
    Ends(&'static str),
    /// One of its connects is reported as held.
    Held(&'static str),
    /// The probe's answer.
    Probe(bool),
    /// What the probe's last round came to.
    Found(Finding),
    /// The kernel could not work the gate.
    Fails(&'static str),
    /// The operator's order.
    Ordered(Order),
    /// What the kernel has counted: connects that came to the gate, and others.
    Counted(u64, u64),
    /// The last of its connects that was held is reported as connected.
    Connected,
    /// One of its connects passes, and is reported for that.
    InitPasses(&'static str),
    /// The pod's process is in the node's network namespace.
    OnHostNetwork,
    /// Kubelet tells the container's id, and whether it is ready.
    Kubelet(&'static str, bool),
    /// The pod's object changes (RFC 7386).
    Change(Value),
    /// The namespace's labels change.
    Namespace(Vec<(&'static str, &'static str)>),
    /// The API no longer has the pod.
    Deleted,
    /// Time passes.
    Wait(Duration),
}

struct Scene {
    machine: Machine,
    kept: Kept,
    history: History,
    kernel: Kernel,
    now: Monotonic,
    uid: PodUid,
    pod: Value,
    namespace: NamespaceView,
    /// By name: cgroup and id. A restarted container has new ones.
    containers: HashMap<&'static str, (CgroupId, ContainerId)>,
    made: u64,
    /// How many connects have been held.
    held: u64,
    told: bool,
}

/// Plays a case to its end and asks what becomes of a connect then.
pub(crate) fn play(given: &Given, steps: &[Step], whose: Whose) -> Answer {
    let mut scene = Scene::new(given);
    for step in steps {
        scene.step(step);
    }
    let (container, query) = match whose {
        Whose::Connect(container) => (container, false),
        Whose::Query(container) => (container, true),
    };
    let (cgroup, _) = scene.containers[container];
    scene.kernel.answer(cgroup, query, scene.now)
}

/// What is known at the end of a case.
pub(crate) struct Known {
    pub(crate) pod: PodReport,
    /// What has happened to it, the latest first.
    pub(crate) episodes: Vec<Episode>,
    pub(crate) now: Stamp,
}

/// Plays a case to its end and asks what is known of its pod then; `None`: the pod is gone.
pub(crate) fn known(given: &Given, steps: &[Step]) -> Option<Known> {
    let mut scene = Scene::new(given);
    for step in steps {
        scene.step(step);
    }
    let epoch = scene.history.epoch();
    let pod = scene.machine.report(epoch).pop()?;
    let episodes = scene.history.episodes().cloned().collect();
    Some(Known { pod, episodes, now: epoch.stamp(scene.now) })
}

impl Scene {
    fn new(given: &Given) -> Self {
        let Given { pod, change, labels, annotations, config, own } = given;
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/pods")
            .join(pod)
            .with_extension("json");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut pod: Value = serde_json::from_str(&text).unwrap();
        merge(&mut pod, change);
        let Config { choices, profiles } = config::parse(config).unwrap();
        let kept = Kept::of(&profiles);
        let view = view(&pod, &kept);
        let defaults = Defaults::default().with(choices);
        let own_pod = own.then(|| view.uid.clone());
        let namespace = NamespaceView {
            name: view.name.namespace.to_string(),
            labels: owned(labels),
            annotations: owned(annotations),
        };
        Self {
            kept,
            machine: Machine::new(Rules { profiles, defaults, own_pod }),
            history: History::new(Epoch::new(Monotonic(0), Duration::from_secs(1_700_000_000))),
            kernel: Kernel::default(),
            now: Monotonic(1_000_000_000),
            uid: view.uid,
            pod,
            namespace,
            containers: HashMap::new(),
            made: 0,
            held: 0,
            told: false,
        }
    }

    fn step(&mut self, step: &Step) {
        // Something is always a little later than the last.
        self.now = self.now + Duration::from_millis(10);
        let uid = self.uid.clone();
        match step {
            Step::Told => {
                self.told = true;
                self.apply(Event::NamespacesListed(vec![self.namespace.clone()]));
                self.apply(Event::PodsListed(vec![view(&self.pod, &self.kept)]));
            }
            Step::Cgroup => self.found(false),
            Step::CgroupBefore => self.found(true),
            Step::CgroupGone => {
                self.containers.clear();
                self.apply(Event::PodCgroupGone(uid));
            }
            Step::Starts(name) => self.starts(name, true),
            Step::StartsUnnamed(name) => self.starts(name, false),
            Step::Ends(name) => {
                let (_, id) = self.containers[name].clone();
                self.apply(Event::ContainerPopulated { uid, id, populated: false });
            }
            Step::Held(name) => {
                self.held += 1;
                let caller = self.caller(name);
                self.kernel(KernelEventKind::Held(caller));
            }
            Step::Found(finding) => {
                self.apply(Event::ProbeFound { uid, finding: finding.clone() });
            }
            Step::Fails(error) => {
                self.apply(Event::GateFailed { uid, error: (*error).to_owned(), may_pass: false });
            }
            Step::Ordered(order) => self.apply(Event::Ordered { uid, order: Some(*order) }),
            Step::Counted(reached, around) => {
                self.apply(Event::Counted { uid, reached: *reached, around: *around });
            }
            Step::Connected => self.kernel(KernelEventKind::Connected),
            Step::InitPasses(name) => {
                let caller = self.caller(name);
                self.kernel(KernelEventKind::InitPassed(caller));
            }
            Step::Probe(true) => self.apply(Event::ProxyReady(uid)),
            Step::Probe(false) => self.apply(Event::ProxyNotReady(uid)),
            Step::OnHostNetwork => self.apply(Event::HostNetworkSeen(uid)),
            Step::Kubelet(name, ready) => {
                let id = self.containers.get(name).map(|(_, id)| format!("containerd://{id}"));
                report(&mut self.pod, name, id.as_deref(), *ready);
                self.tell();
            }
            Step::Change(change) => {
                merge(&mut self.pod, change);
                self.tell();
            }
            Step::Namespace(labels) => {
                self.namespace.labels = owned(labels);
                self.apply(Event::NamespaceApplied(self.namespace.clone()));
            }
            Step::Deleted => self.apply(Event::PodDeleted(uid)),
            Step::Wait(time) => self.wait(*time),
        }
    }

    fn caller(&self, container: &str) -> Caller {
        Caller {
            container: Some(self.containers[container].0),
            pid: Some(4711),
            uid: 1000,
            comm: "app".to_owned(),
            destination: ([203, 0, 113, 9], 443).into(),
            connect_at: self.now,
            query: None,
        }
    }

    fn kernel(&mut self, kind: KernelEventKind) {
        let (at, cookie, pod) = (self.now, SocketCookie(1), POD_CGROUP);
        self.apply(Event::Kernel(KernelEvent { at, cookie, pod, kind }));
    }

    fn tell(&mut self) {
        if self.told {
            self.apply(Event::PodApplied(view(&self.pod, &self.kept)));
        }
    }

    fn found(&mut self, at_start: bool) {
        let (uid, cgroup) = (self.uid.clone(), POD_CGROUP);
        self.apply(Event::PodCgroupFound { uid, cgroup, at_start, inherited: None });
        self.container("", Some(ContainerKind::Sandbox));
    }

    fn starts(&mut self, name: &'static str, named: bool) {
        self.container(name, named.then_some(ContainerKind::Container));
    }

    fn container(&mut self, name: &'static str, kind: Option<ContainerKind>) {
        self.made += 1;
        let cgroup = CgroupId(POD_CGROUP.0 + self.made);
        let id = ContainerId::new(&format!("{name}{}", self.made));
        self.containers.insert(name, (cgroup, id.clone()));
        let identity = kind.map(|kind| ContainerIdentity { kind, name: name.to_owned() });
        let uid = self.uid.clone();
        self.apply(Event::ContainerFound {
            uid: uid.clone(),
            cgroup,
            id: id.clone(),
            identity,
            pod: None,
        });
        self.apply(Event::ContainerPopulated { uid, id, populated: true });
    }

    /// Wakes the machine as often as it wants within that time.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.machine.next_wakeup().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.apply(Event::Tick);
        }
        self.now = end;
        self.apply(Event::Tick);
    }

    fn apply(&mut self, event: Event) {
        let mut counts = false;
        for action in self.machine.apply(event, self.now) {
            self.kernel.take(&action);
            if let Action::Log(pod, line) = &action {
                self.history.record(pod, line, self.now);
            }
            counts |= matches!(action, Action::CountGate { .. } | Action::OpenGate { .. });
        }
        if counts {
            let (uid, reached) = (self.uid.clone(), self.held);
            self.apply(Event::Counted { uid, reached, around: 0 });
        }
    }
}

fn view(pod: &Value, kept: &Kept) -> PodView {
    let pod = serde_json::from_value(pod.clone()).unwrap();
    pod_view(&pod, kept).unwrap()
}

fn owned(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Writes a container's status as kubelet does.
fn report(pod: &mut Value, name: &str, id: Option<&str>, ready: bool) {
    let in_spec = |list: &str| {
        pod["spec"][list].as_array().is_some_and(|all| all.iter().any(|c| c["name"] == name))
    };
    let list = if in_spec("initContainers") {
        "initContainerStatuses"
    } else if in_spec("ephemeralContainers") {
        "ephemeralContainerStatuses"
    } else {
        assert!(in_spec("containers"), "the pod has no container {name}");
        "containerStatuses"
    };
    let status = json!({
        "name": name, "containerID": id, "ready": ready, "started": true, "image": "", "imageID": "",
        "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    });
    if !pod["status"][list].is_array() {
        pod["status"][list] = json!([]);
    }
    let statuses = pod["status"][list].as_array_mut().unwrap();
    statuses.retain(|known| known["name"] != name);
    statuses.push(status);
}

/// JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}
