use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::LazyLock,
};

use std::time::Duration;

use super::{gate::GatePhase, *};
use crate::core::{
    Caller, Choices, CloseReason, ContainerId, ContainerIdentity, ContainerKind, ContainerRole,
    ContainerSpec, ContainerView, Defaults, Exemption, GateSetting, KernelEventKind, Line,
    OnTimeout, OpenReason, Order, Outcome, Pace, PodName, Profiles, QueryId, ReadyCheck,
    SocketCookie, Verdict,
};

mod death;
mod failure;
mod finding;
mod held;
mod inherit;
mod life;
mod observe;
mod order;
mod proof;
mod properties;

const CGROUP: CgroupId = CgroupId(100);
const APP: CgroupId = CgroupId(101);
const PROXY: CgroupId = CgroupId(102);

fn uid() -> PodUid {
    PodUid::new("0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11")
}

fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

fn labels(hold: Option<&str>) -> BTreeMap<String, String> {
    hold.map(|value| ("holdfast.dev/hold".to_owned(), value.to_owned())).into_iter().collect()
}

fn namespace(hold: Option<&str>) -> NamespaceView {
    NamespaceView { name: "shop".to_owned(), labels: labels(hold), annotations: BTreeMap::new() }
}

fn view() -> PodView {
    let container = |name: &str, role| ContainerView {
        name: name.to_owned(),
        role,
        spec: ContainerSpec { is_probed: true, ..ContainerSpec::default() },
        id: None,
        ready: false,
    };
    PodView {
        uid: uid(),
        name: PodName::new("shop", "cart"),
        workload: None,
        labels: labels(None),
        annotations: [("sidecar.istio.io/status".to_owned(), "{}".to_owned())].into(),
        host_network: false,
        terminating: false,
        finished: false,
        containers: vec![
            container("istio-init", ContainerRole::Init),
            container("app", ContainerRole::App),
            container("istio-proxy", ContainerRole::App),
        ],
    }
}

/// An ordinary init container.
fn migrate(id: &str) -> ContainerView {
    ContainerView {
        name: "migrate".to_owned(),
        role: ContainerRole::Init,
        spec: ContainerSpec::default(),
        id: Some(ContainerId::new(id)),
        ready: false,
    }
}

fn ready_view() -> PodView {
    let mut view = view();
    view.containers[2].ready = true;
    view
}

fn found(at_start: bool) -> Event {
    Event::PodCgroupFound { uid: uid(), cgroup: CGROUP, at_start, inherited: None }
}

fn container(cgroup: CgroupId, name: Option<&str>) -> Event {
    Event::ContainerFound {
        uid: uid(),
        cgroup,
        id: id_of(cgroup),
        identity: name.map(|name| ContainerIdentity {
            kind: ContainerKind::Container,
            name: name.to_owned(),
        }),
        pod: None,
    }
}

fn kernel(ms: u64, cookie: u64, kind: KernelEventKind) -> Event {
    Event::Kernel(KernelEvent { at: at(ms), cookie: SocketCookie(cookie), pod: CGROUP, kind })
}

fn caller(ms: u64) -> Caller {
    Caller {
        container: Some(APP),
        pid: Some(4711),
        uid: 1000,
        comm: "app".to_owned(),
        destination: SocketAddr::from((Ipv4Addr::new(203, 0, 113, 9), 443)),
        connect_at: at(ms),
        query: None,
    }
}

fn held(ms: u64, cookie: u64) -> Event {
    kernel(ms, cookie, KernelEventKind::Held(caller(ms)))
}

/// What the properties vary.
#[derive(Clone, Copy, Debug, Default)]
struct TestRules {
    guard: bool,
    refuse: bool,
    observe: bool,
}

fn rules(TestRules { guard, refuse, observe }: TestRules) -> Rules {
    let choices = Choices {
        guard: Some(guard),
        observe: Some(observe),
        on_timeout: Some(if refuse { OnTimeout::Refuse } else { OnTimeout::Open }),
        ..Choices::default()
    };
    let defaults = Defaults::default().with(choices);
    /// Parsed once: to read them takes longer than most tests.
    static PROFILES: LazyLock<Profiles> = LazyLock::new(Profiles::builtin);
    Rules { defaults, profiles: PROFILES.clone(), own_pod: None }
}

fn id_of(cgroup: CgroupId) -> ContainerId {
    ContainerId::new(&format!("id{cgroup}"))
}

fn failed(error: &str, may_pass: bool) -> Event {
    Event::GateFailed { uid: uid(), error: error.to_owned(), may_pass }
}

fn counted(reached: u64) -> Event {
    Event::Counted { uid: uid(), reached, around: 0 }
}

fn populated(cgroup: CgroupId, populated: bool) -> Event {
    Event::ContainerPopulated { uid: uid(), id: id_of(cgroup), populated }
}

fn query(ms: u64, cookie: u64, id: u64) -> Event {
    let caller = Caller { query: Some(QueryId(id)), ..caller(ms) };
    kernel(ms, cookie, KernelEventKind::Held(caller))
}

/// A machine and everything it asked for.
struct Run {
    machine: Machine,
    actions: Vec<Action>,
}

impl Run {
    fn new() -> Self {
        Self::with(TestRules::default())
    }

    fn with(test: TestRules) -> Self {
        Self { machine: Machine::new(rules(test)), actions: Vec::new() }
    }

    /// A node of which the API has said all it knows.
    fn listed(hold: Option<&str>, views: Vec<PodView>) -> Self {
        Self::ruled(TestRules::default(), hold, views)
    }

    /// The same with other rules.
    fn ruled(test: TestRules, hold: Option<&str>, views: Vec<PodView>) -> Self {
        let mut run = Self::with(test);
        run.apply(0, Event::NamespacesListed(vec![namespace(hold)]));
        run.apply(0, Event::PodsListed(views));
        run
    }

    fn apply(&mut self, ms: u64, event: Event) -> Vec<Action> {
        let actions = self.machine.apply(event, at(ms));
        // What the agent tells of a gate that it has opened.
        for action in &actions {
            if let Action::OpenGate { uid, .. } = action {
                let counted = Event::Counted { uid: uid.clone(), reached: 0, around: 0 };
                self.machine.apply(counted, at(ms));
            }
        }
        self.actions.extend(actions.iter().cloned());
        actions
    }

    fn gate(&self) -> Option<GatePhase> {
        self.machine.pods.get(&uid()).map(|pod| pod.gate)
    }

    fn is_closed(&self) -> bool {
        matches!(self.gate(), Some(GatePhase::Closed { .. }))
    }
}

fn reason(actions: &[Action]) -> Option<CloseReason> {
    actions.iter().find_map(|action| match action {
        Action::Log(_, Line::GateClosed { reason, .. }) => Some(*reason),
        _ => None,
    })
}

fn closes(actions: &[Action]) -> Option<Monotonic> {
    actions.iter().find_map(|action| match action {
        Action::SetGate(set) => match set.state {
            GateSetting::Closed { deadline, .. } => Some(deadline),
            GateSetting::Guarded { .. } => None,
        },
        _ => None,
    })
}

fn opened(actions: &[Action]) -> Option<OpenReason> {
    actions.iter().find_map(|action| match action {
        Action::Log(_, Line::GateOpened { reason, .. }) => Some(*reason),
        _ => None,
    })
}

fn outcomes(actions: &[Action]) -> Vec<Outcome> {
    let outcome = |action: &Action| match action {
        Action::Log(_, Line::Released { outcome, .. }) => Some(*outcome),
        _ => None,
    };
    actions.iter().filter_map(outcome).collect()
}
