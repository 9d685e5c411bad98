use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use super::*;
use crate::core::{
    ContainerKind, ContainerRole, ContainerView, HOLD_LABEL, ISTIO, KernelEventKind, OpenReason,
    Outcome, Pace, PodName, SocketCookie, Verdict,
};

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
    hold.map(|value| (HOLD_LABEL.to_owned(), value.to_owned())).into_iter().collect()
}

fn namespace(hold: Option<&str>) -> NamespaceView {
    NamespaceView { name: "shop".to_owned(), labels: labels(hold) }
}

fn view() -> PodView {
    let container =
        |name: &str, role| ContainerView { name: name.to_owned(), role, id: None, ready: false };
    PodView {
        uid: uid(),
        name: PodName::new("shop", "cart"),
        labels: labels(None),
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

fn ready_view() -> PodView {
    let mut view = view();
    view.containers[2].ready = true;
    view
}

fn found(at_start: bool) -> Event {
    Event::PodCgroupFound { uid: uid(), cgroup: CGROUP, at_start }
}

fn container(cgroup: CgroupId, name: Option<&str>) -> Event {
    Event::ContainerFound {
        uid: uid(),
        cgroup,
        id: ContainerId::new(&format!("id{cgroup}")),
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

fn held(ms: u64, cookie: u64) -> Event {
    let kind = KernelEventKind::Held {
        container: Some(APP),
        pid: Some(4711),
        uid: 1000,
        comm: "app".to_owned(),
        destination: SocketAddr::from((Ipv4Addr::new(203, 0, 113, 9), 443)),
        connect_at: at(ms),
    };
    kernel(ms, cookie, kind)
}

/// A machine and everything it asked for.
struct Run {
    machine: Machine,
    actions: Vec<Action>,
}

impl Run {
    fn new() -> Self {
        let options = MachineOptions { timeout: Duration::from_secs(60), profile: &ISTIO };
        Self { machine: Machine::new(options), actions: Vec::new() }
    }

    /// A node of which the API has said all it knows.
    fn listed(hold: Option<&str>, views: Vec<PodView>) -> Self {
        let mut run = Self::new();
        run.apply(0, Event::NamespacesListed(vec![namespace(hold)]));
        run.apply(0, Event::PodsListed(views));
        run
    }

    fn apply(&mut self, ms: u64, event: Event) -> Vec<Action> {
        let actions = self.machine.apply(event, at(ms));
        self.actions.extend(actions.iter().cloned());
        actions
    }

    fn gate(&self) -> Option<gate::GatePhase> {
        self.machine.pods.get(&uid()).map(|pod| pod.gate)
    }

    fn is_closed(&self) -> bool {
        matches!(self.gate(), Some(gate::GatePhase::Closed { .. }))
    }
}

fn closes(actions: &[Action]) -> Option<Monotonic> {
    actions.iter().find_map(|action| match action {
        Action::CloseGate(close) => Some(close.deadline),
        _ => None,
    })
}

fn opened(actions: &[Action]) -> Option<OpenReason> {
    actions.iter().find_map(|action| match action {
        Action::Log(Line::GateOpened { reason, .. }) => Some(*reason),
        _ => None,
    })
}

fn outcomes(actions: &[Action]) -> Vec<Outcome> {
    let outcome = |action: &Action| match action {
        Action::Log(Line::Released { outcome, .. }) => Some(*outcome),
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
    let held = vec![SocketCookie(1)];
    assert_eq!(actions[0], Action::OpenGate { uid: uid(), cgroup: CGROUP, held });
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
    assert!(actions.contains(&Action::StopProbe(uid())));

    let actions = run.apply(2_001, kernel(2_001, 1, KernelEventKind::Connected));
    assert_eq!(outcomes(&actions), [Outcome::Connected]);
    assert_eq!(run.machine.next_wakeup(), Some(at(2_030)));
    let actions = run.apply(2_030, Event::Tick);
    assert!(matches!(actions[0], Action::DetachGate { .. }));
    assert_eq!(run.gate(), Some(gate::GatePhase::Open));
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
        assert!(!run.actions.iter().any(|a| matches!(a, Action::CloseGate(_))), "{view:?}");

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
    let mut run = Run::listed(Some("enabled"), vec![ready_view()]);
    run.apply(10, found(true));
    assert_eq!(run.gate(), Some(gate::GatePhase::Open));
}

#[test]
fn labels_take_effect_while_a_pod_starts() {
    let mut run = Run::listed(None, vec![view()]);
    run.apply(10, found(false));
    assert_eq!(run.gate(), Some(gate::GatePhase::Absent));
    run.apply(20, Event::NamespaceApplied(namespace(Some("enabled"))));
    assert_eq!(run.gate(), Some(gate::GatePhase::Checking));
    run.apply(30, Event::ProxyNotReady(uid()));
    assert!(run.is_closed());
    let actions = run.apply(40, Event::NamespaceApplied(namespace(None)));
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::NotEnabled)));
    run.apply(100, Event::Tick);
    assert_eq!(run.gate(), Some(gate::GatePhase::Absent));
    run.apply(110, Event::NamespaceApplied(namespace(Some("enabled"))));
    assert_eq!(run.gate(), Some(gate::GatePhase::Checking));
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
    assert_eq!(run.gate(), Some(gate::GatePhase::Open));
    let actions = run.apply(60_300, Event::PodApplied(view()));
    assert!(actions.is_empty());
}

#[test]
fn the_deadline_counts_from_the_first_connect_that_waits() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    // An image is pulled for two minutes; the kernel has a deadline all the time.
    for renewal in [30_000, 60_000, 90_000, 120_000] {
        assert_eq!(run.machine.next_wakeup(), Some(at(renewal)));
        let actions = run.apply(renewal, Event::Tick);
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
fn a_hold_that_is_read_too_late_is_told_and_not_kept() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(10, Event::ProxyReady(uid()));
    run.apply(100, Event::Tick);
    let actions = run.apply(110, held(5, 1));
    assert_eq!(outcomes(&actions), [Outcome::StillConnecting]);
    assert!(run.machine.pods[&uid()].held.is_empty());
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
fn an_opened_gate_waits_for_its_sockets_but_not_for_ever() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(100, held(100, 1));
    run.apply(1_000, Event::ProxyReady(uid()));
    assert!(run.apply(1_500, Event::Tick).is_empty());
    assert_eq!(run.machine.next_wakeup(), Some(at(4_000)));
    let actions = run.apply(4_000, Event::Tick);
    assert!(matches!(actions[0], Action::DetachGate { .. }));
    assert_eq!(outcomes(&actions), [Outcome::StillConnecting]);
}

#[test]
fn the_ends_of_a_hold_are_told_apart() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    for cookie in 1..=2 {
        run.apply(100, held(100, cookie));
    }
    run.apply(200, kernel(200, 1, KernelEventKind::Closed));
    run.apply(300, kernel(300, 2, KernelEventKind::Failed));
    run.apply(300, kernel(300, 2, KernelEventKind::Failed));
    assert_eq!(outcomes(&run.actions), [Outcome::ClosedByApplication, Outcome::TimedOut]);
    assert!(run.actions.contains(&Action::SetPace { uid: uid(), pace: Pace::Idle }));
}

#[test]
fn containers_are_held_until_they_are_known_to_pass() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let actions = run.apply(10, container(PROXY, Some("istio-proxy")));
    let passes = |container| Action::SetVerdict { container, verdict: Verdict::Pass };
    assert_eq!(actions, [passes(PROXY)]);
    assert!(run.apply(11, container(APP, Some("app"))).is_empty());
    assert!(run.apply(12, container(PROXY, Some("istio-proxy"))).is_empty());

    // No bundle: held, until the API names it; what it sent in the meantime is replayed.
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    assert!(run.apply(10, container(APP, None)).is_empty());
    run.apply(20, held(20, 1));
    let mut named = view();
    named.containers[0].id = Some(ContainerId::new(&format!("id{APP}")));
    let actions = run.apply(30, Event::PodApplied(named));
    let held = vec![SocketCookie(1)];
    let replay = Action::ReplayContainer { uid: uid(), cgroup: CGROUP, container: APP, held };
    assert_eq!(actions, [passes(APP), replay]);
}

#[test]
fn a_pod_that_is_enabled_while_its_gate_opens_is_held_again() {
    let mut run = Run::listed(Some("disabled"), vec![]);
    run.apply(0, found(false));
    let actions = run.apply(10, Event::PodApplied(view()));
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::NotEnabled)));
    run.apply(11, Event::NamespaceApplied(namespace(Some("enabled"))));
    run.apply(50, Event::Tick);
    assert_eq!(run.gate(), Some(gate::GatePhase::Checking));
    run.apply(60, Event::ProxyNotReady(uid()));
    assert!(run.is_closed());
}

#[test]
fn an_invalid_label_is_told_once_for_each_change() {
    let told = |actions: &[Action]| {
        let invalid = |action: &&Action| matches!(action, Action::Log(Line::InvalidLabel { .. }));
        actions.iter().filter(invalid).count()
    };
    let mut run = Run::new();
    assert_eq!(told(&run.apply(0, Event::NamespacesListed(vec![namespace(Some("on"))]))), 1);
    assert_eq!(told(&run.apply(1, Event::NamespacesListed(vec![namespace(Some("on"))]))), 0);
    assert_eq!(told(&run.apply(2, Event::NamespaceApplied(namespace(Some("on"))))), 0);
    assert_eq!(told(&run.apply(3, Event::NamespaceApplied(namespace(Some("yes"))))), 1);
    let mut pod = view();
    pod.labels = labels(Some("no"));
    assert_eq!(told(&run.apply(4, Event::PodApplied(pod.clone()))), 1);
    assert_eq!(told(&run.apply(5, Event::PodsListed(vec![pod]))), 0);
}

#[test]
fn a_release_names_the_container_that_was_unknown_when_it_was_held() {
    for gone_first in [false, true] {
        let mut run = Run::listed(Some("enabled"), vec![view()]);
        run.apply(0, found(false));
        run.apply(10, container(APP, None));
        run.apply(20, held(20, 1));
        let id = ContainerId::new(&format!("id{APP}"));
        let mut named = view();
        named.containers[1].id = Some(id.clone());
        run.apply(30, Event::PodApplied(named));
        if gone_first {
            run.apply(35, Event::ContainerGone { uid: uid(), id });
        }
        let actions = run.apply(40, kernel(40, 1, KernelEventKind::Closed));
        let names = actions.iter().find_map(|action| match action {
            Action::Log(Line::Released { connect, .. }) => connect.container.clone(),
            _ => None,
        });
        assert_eq!(names.as_deref(), Some("app"));
    }
}

#[test]
fn a_connect_that_overtakes_the_news_of_its_container_is_noticed() {
    let unreported = |run: &Run| {
        let Event::Kernel(event) = held(20, 1) else { panic!("not a kernel event") };
        run.machine.unreported_container(&event)
    };
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    assert_eq!(unreported(&run), None);
    run.apply(0, found(false));
    assert_eq!(unreported(&run), Some((uid(), APP)));
    run.apply(10, container(APP, None));
    assert_eq!(unreported(&run), None);
}

#[test]
fn a_gate_that_fails_stays_open() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(1, Event::GateFailed { uid: uid(), error: "no memory".to_owned() });
    assert_eq!(run.gate(), Some(gate::GatePhase::Open));
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

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_event() -> impl Strategy<Value = Event> {
        let hold = prop_oneof![Just(None), Just(Some("enabled")), Just(Some("disabled"))];
        let view =
            (any::<bool>(), any::<bool>(), hold.clone()).prop_map(|(ready, leaving, own)| {
                let mut view = if ready { ready_view() } else { view() };
                view.terminating = leaving;
                view.labels = labels(own);
                view
            });
        prop_oneof![
            hold.clone().prop_map(|hold| Event::NamespacesListed(vec![namespace(hold)])),
            hold.prop_map(|hold| Event::NamespaceApplied(namespace(hold))),
            proptest::collection::vec(view.clone(), 0..2).prop_map(Event::PodsListed),
            view.prop_map(Event::PodApplied),
            Just(Event::PodDeleted(uid())),
            any::<bool>().prop_map(found),
            Just(Event::PodCgroupGone(uid())),
            Just(container(APP, Some("app"))),
            Just(container(PROXY, Some("istio-proxy"))),
            Just(Event::ProxyReady(uid())),
            Just(Event::ProxyNotReady(uid())),
            Just(Event::GateFailed { uid: uid(), error: String::new() }),
            (1_u64..4).prop_map(|cookie| held(0, cookie)),
            (1_u64..4).prop_map(|cookie| kernel(0, cookie, KernelEventKind::Connected)),
            Just(Event::Tick),
        ]
    }

    proptest! {
        #[test]
        fn every_closed_gate_has_a_deadline_and_ends(
            events in proptest::collection::vec((any_event(), 0_u64..5_000), 0..60)
        ) {
            let mut run = Run::new();
            let mut now = 0;
            let mut attached = false;
            for (event, step) in events {
                now += step;
                for action in run.apply(now, event) {
                    match action {
                        Action::CloseGate(close) => {
                            prop_assert!(close.deadline <= at(now + 60_000));
                            attached = true;
                        }
                        Action::OpenGate { .. } | Action::SetPace { .. } => prop_assert!(attached),
                        Action::DetachGate { .. } => {
                            attached = false;
                        }
                        _ => {}
                    }
                }
                prop_assert_eq!(run.machine.attached() == 1, attached);
                prop_assert_eq!(run.machine.next_wakeup().is_some(), attached);
            }
            // Once somebody waits, every gate is open and off within its deadline and the grace
            // after it.
            run.apply(now, held(now, 9));
            for _ in 0..2 {
                if let Some(end) = run.machine.next_wakeup() {
                    run.machine.apply(Event::Tick, end);
                }
            }
            prop_assert_eq!(run.machine.attached(), 0);
        }
    }
}
