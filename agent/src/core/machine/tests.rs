use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
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
mod finding;
mod held;
mod inherit;
mod observe;
mod order;
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
    Rules { defaults, profiles: Profiles::builtin(), own_pod: None }
}

fn id_of(cgroup: CgroupId) -> ContainerId {
    ContainerId::new(&format!("id{cgroup}"))
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

#[test]
fn an_enabled_pod_is_held_from_its_cgroup_on_until_its_proxy_is_ready() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    let actions = run.apply(10, found(false));
    assert_eq!(closes(&actions), Some(at(60_010)));
    assert!(actions.iter().any(|action| matches!(action, Action::StartProbe { .. })));

    let actions = run.apply(500, held(500, 1));
    assert!(actions.contains(&Action::SetPace { uid: uid(), pace: Pace::Held(at(500)) }));

    let actions = run.apply(2_000, Event::ProxyReady(uid()));
    let replay = Some(vec![SocketCookie(1)]);
    assert_eq!(actions[0], Action::OpenGate { uid: uid(), cgroup: CGROUP, replay });
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
    assert!(actions.contains(&Action::StopProbe(uid())));

    let actions = run.apply(2_001, kernel(2_001, 1, KernelEventKind::Connected));
    assert_eq!(outcomes(&actions), [Outcome::Connected]);
    assert_eq!(run.machine.next_wakeup(), Some(at(2_030)));
    let actions = run.apply(2_030, Event::Tick);
    assert!(matches!(actions[0], Action::DetachGate { .. }));
    assert_eq!(run.gate(), Some(GatePhase::Open));
    assert_eq!(run.machine.next_wakeup(), None);
}

#[test]
fn kubelets_word_opens_a_gate_as_well() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(10, found(false));
    let actions = run.apply(3_000, Event::PodApplied(ready_view()));
    assert_eq!(opened(&actions), Some(OpenReason::KubeReady));
}

#[test]
fn a_pod_nobody_has_told_of_is_held_until_more_is_known() {
    for (hold, held_in_the_end) in [(Some("enabled"), true), (None, false)] {
        let mut run = Run::listed(hold, vec![]);
        assert!(closes(&run.apply(10, found(false))).is_some());
        let actions = run.apply(20, Event::PodApplied(view()));
        assert_eq!(run.is_closed(), held_in_the_end);
        assert_eq!(opened(&actions).is_none(), held_in_the_end);
    }
}

#[test]
fn whatever_must_never_be_held_is_not() {
    let mut on_host = view();
    on_host.host_network = true;
    let mut terminating = view();
    terminating.terminating = true;
    let mut finished = view();
    finished.finished = true;
    let mut unmeshed = view();
    unmeshed.containers.pop();
    let mut opted_out = view();
    opted_out.labels = labels(Some("disabled"));
    for view in [on_host, terminating, finished, unmeshed, opted_out] {
        let mut run = Run::listed(Some("enabled"), vec![view.clone()]);
        run.apply(10, found(false));
        run.apply(20, container(APP, Some("app")));
        assert!(!run.actions.iter().any(|a| matches!(a, Action::SetGate(_))), "{view:?}");

        let mut run = Run::listed(Some("enabled"), vec![]);
        run.apply(10, found(false));
        let actions = run.apply(20, Event::PodApplied(view.clone()));
        assert!(opened(&actions).is_some(), "{view:?}");
    }
    for system in ["kube-system", "istio-system"] {
        let mut view = view();
        view.name = PodName::new(system, "cart");
        let mut run = Run::new();
        let mut namespace = namespace(Some("enabled"));
        namespace.name = system.to_owned();
        run.apply(0, Event::NamespacesListed(vec![namespace]));
        run.apply(0, Event::PodsListed(vec![view]));
        assert!(closes(&run.apply(10, found(false))).is_none(), "{system}");
    }
}

#[test]
fn a_pod_that_ran_before_is_asked_first() {
    for (ready, held) in [(false, true), (true, false)] {
        let mut run = Run::listed(Some("enabled"), vec![view()]);
        let actions = run.apply(10, found(true));
        assert!(closes(&actions).is_none());
        let event = if ready { Event::ProxyReady(uid()) } else { Event::ProxyNotReady(uid()) };
        run.apply(20, event);
        assert_eq!(run.is_closed(), held);
    }
    // Kubelet's word is about a container that is there.
    let mut ready = ready_view();
    ready.containers[2].id = Some(id_of(PROXY));
    let mut run = Run::listed(Some("enabled"), vec![ready]);
    run.apply(10, found(true));
    assert_eq!(run.gate(), Some(GatePhase::Checking), "after a reboot it is not");
    assert_eq!(run.machine.checking().collect::<Vec<_>>(), [CGROUP]);
    run.apply(11, container(PROXY, Some("istio-proxy")));
    assert_eq!(run.gate(), Some(GatePhase::Open));
}

#[test]
fn labels_take_effect_while_a_pod_starts() {
    let mut run = Run::listed(None, vec![view()]);
    run.apply(10, found(false));
    assert_eq!(run.gate(), Some(GatePhase::Absent));
    run.apply(20, Event::NamespaceApplied(namespace(Some("enabled"))));
    assert_eq!(run.gate(), Some(GatePhase::Checking));
    run.apply(30, Event::ProxyNotReady(uid()));
    assert!(run.is_closed());
    let actions = run.apply(40, Event::NamespaceApplied(namespace(None)));
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::NotEnabled)));
    run.apply(100, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::Absent));
    run.apply(110, Event::NamespaceApplied(namespace(Some("enabled"))));
    assert_eq!(run.gate(), Some(GatePhase::Checking));
}

#[test]
fn a_deadline_opens_once_and_for_all() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(100, held(100, 1));
    assert_eq!(run.machine.next_wakeup(), Some(at(60_100)));
    let actions = run.apply(60_100, Event::Tick);
    assert_eq!(opened(&actions), Some(OpenReason::Deadline));
    let actions = run.apply(60_101, kernel(60_101, 1, KernelEventKind::Failed));
    assert_eq!(outcomes(&actions), [Outcome::Refused]);
    run.apply(60_200, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::GivenUp { reason: CloseReason::Start }));
    let actions = run.apply(60_300, Event::PodApplied(view()));
    assert!(actions.is_empty());
    // It is still asked, so that its death is seen once it has been ready.
    let probes = |action: &Action| matches!(action, Action::StartProbe { pace: Pace::GivenUp, .. });
    assert!(run.actions.iter().any(probes));
    run.apply(70_000, Event::ProxyReady(uid()));
    assert_eq!(run.gate(), Some(GatePhase::Open));
}

#[test]
fn a_lost_report_of_a_wait_does_not_move_the_deadline_on() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(30_000, Event::Tick);
    run.apply(30_000, counted(0));
    // Somebody waits since then, and nobody has told.
    run.apply(60_000, Event::Tick);
    let actions = run.apply(60_001, counted(1));
    assert_eq!(closes(&actions), None, "{actions:?}");
    assert_eq!(run.machine.next_wakeup(), Some(at(90_000)));
    assert_eq!(opened(&run.apply(90_000, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn a_count_that_never_comes_lets_the_deadline_pass() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(30_000, Event::Tick);
    assert_eq!(run.machine.next_wakeup(), Some(at(60_000)));
    assert_eq!(opened(&run.apply(60_000, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn whoever_waited_for_nothing_does_not_use_up_the_others_time() {
    let mut run = Run::listed(Some("enabled"), vec![]);
    run.apply(0, found(false));
    run.apply(10, container(APP, Some("migrate")));
    run.apply(1_000, held(1_000, 1));
    assert_eq!(run.machine.next_wakeup(), Some(at(61_000)));
    let mut named = view();
    named.containers.insert(1, migrate("id101"));
    let actions = run.apply(1_100, Event::PodApplied(named));
    let last = &actions[actions.len() - 1..];
    assert_eq!(closes(last), Some(at(61_100)));
    assert_eq!(run.machine.next_wakeup(), Some(at(31_100)));
}

#[test]
fn the_deadline_counts_from_the_first_connect_that_waits() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    // An image is pulled for two minutes; the kernel has a deadline all the time.
    for renewal in [30_000, 60_000, 90_000, 120_000] {
        assert_eq!(run.machine.next_wakeup(), Some(at(renewal)));
        let actions = run.apply(renewal, Event::Tick);
        assert_eq!(actions, [Action::CountGate { uid: uid(), cgroup: CGROUP }]);
        let actions = run.apply(renewal, counted(0));
        assert_eq!(closes(&actions), Some(at(renewal + 60_000)));
        assert_eq!(actions.len(), 1);
    }
    assert_eq!(closes(&run.apply(125_000, held(125_000, 1))), Some(at(185_000)));
    // Neither its end nor another connect moves the deadline again.
    run.apply(126_000, kernel(126_000, 1, KernelEventKind::Closed));
    assert_eq!(closes(&run.apply(130_000, held(130_000, 2))), None);
    assert_eq!(run.machine.next_wakeup(), Some(at(185_000)));
    assert_eq!(opened(&run.apply(185_000, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn what_the_api_says_of_the_network_outweighs_what_was_seen() {
    for (on_host, held) in [(false, true), (true, false)] {
        let mut run = Run::listed(Some("enabled"), vec![]);
        run.apply(0, found(false));
        let actions = run.apply(10, Event::HostNetworkSeen(uid()));
        assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::HostNetwork)));
        run.apply(100, Event::Tick);
        let mut view = view();
        view.host_network = on_host;
        run.apply(110, Event::PodApplied(view));
        run.apply(120, Event::ProxyNotReady(uid()));
        assert_eq!(run.is_closed(), held);
    }
    let mut run = Run::new();
    run.apply(0, Event::HostNetworkSeen(uid()));
    assert!(run.machine.pods.is_empty());
}

#[test]
fn readiness_of_a_container_that_is_not_there_is_none() {
    let mut stale = ready_view();
    stale.containers[2].id = Some(ContainerId::new("before the reboot"));
    let mut run = Run::listed(Some("enabled"), vec![stale]);
    run.apply(0, found(false));
    run.apply(1, container(PROXY, Some("istio-proxy")));
    assert!(run.is_closed());
    let mut present = ready_view();
    present.containers[2].id = Some(ContainerId::new(&format!("id{PROXY}")));
    let actions = run.apply(3, Event::PodApplied(present));
    assert_eq!(opened(&actions), Some(OpenReason::KubeReady));
}

#[test]
fn a_pod_that_is_enabled_while_its_gate_opens_is_held_again() {
    let mut run = Run::listed(Some("disabled"), vec![]);
    run.apply(0, found(false));
    let actions = run.apply(10, Event::PodApplied(view()));
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::NotEnabled)));
    run.apply(11, Event::NamespaceApplied(namespace(Some("enabled"))));
    run.apply(50, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::Checking));
    run.apply(60, Event::ProxyNotReady(uid()));
    assert!(run.is_closed());
}

#[test]
fn a_gate_that_fails_stays_open() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(1, Event::GateFailed { uid: uid(), error: "no memory".to_owned() });
    assert_eq!(run.gate(), Some(GatePhase::Failed));
    assert!(run.apply(2, Event::Tick).is_empty());
}

#[test]
fn nothing_is_left_of_a_pod_that_is_gone() {
    for cgroup_first in [true, false] {
        let mut run = Run::listed(Some("enabled"), vec![view()]);
        run.apply(0, found(false));
        run.apply(10, container(APP, Some("app")));
        run.apply(20, held(20, 1));
        let mut events = [Event::PodCgroupGone(uid()), Event::PodDeleted(uid())];
        if !cgroup_first {
            events.reverse();
        }
        for event in events {
            run.apply(30, event);
        }
        assert!(run.machine.pods.is_empty() && run.machine.by_cgroup.is_empty());
        let detached = |action: &Action| matches!(action, Action::DetachGate { .. });
        assert_eq!(run.actions.iter().filter(|action| detached(action)).count(), 1);
    }
}
