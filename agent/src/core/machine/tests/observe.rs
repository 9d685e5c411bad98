//! Pods that nobody enabled, and that are observed.

use super::{super::pod::Standing, *};
use crate::core::{Mode, PodState, SetGate, Workload};

const OBSERVE: TestRules = TestRules { guard: false, refuse: false, observe: true };

/// The operator wants it observed until then.
pub(super) fn watched(until: u64) -> Event {
    Event::Watched { pod: PodName::new("shop", "cart"), until: at(until) }
}

fn observed(ms: u64, cookie: u64) -> Event {
    kernel(ms, cookie, KernelEventKind::Observed { caller: caller(ms), refused: true })
}

fn sets(actions: &[Action]) -> Vec<&SetGate> {
    let set = actions.iter().filter_map(|action| match action {
        Action::SetGate(set) => Some(set),
        _ => None,
    });
    set.collect()
}

fn modes(actions: &[Action]) -> Vec<Mode> {
    sets(actions).iter().map(|set| set.mode).collect()
}

fn told(actions: &[Action]) -> Vec<&'static str> {
    let message = |action: &Action| match action {
        Action::Log(_, line) => Some(line.message()),
        _ => None,
    };
    actions.iter().filter_map(message).collect()
}

fn state(run: &Run) -> PodState {
    run.machine.report(crate::core::Epoch::default())[0].state
}

#[test]
fn a_pod_that_nobody_enabled_is_observed_until_its_proxy_is_ready() {
    let rules = TestRules { guard: true, refuse: true, ..OBSERVE };
    let mut run = Run::ruled(rules, None, vec![view()]);
    let actions = run.apply(10, found(false));
    assert_eq!(modes(&actions), [Mode::Observe]);
    assert_eq!(told(&actions), ["pod observed, not held"]);
    let report = &run.machine.report(crate::core::Epoch::default())[0];
    assert_eq!((report.state, report.exemption), (PodState::Observed, Some(Exemption::NotEnabled)));
    assert!(report.observed && report.is_concerned() && !report.wanted);

    let actions = run.apply(500, observed(500, 1));
    assert_eq!(told(&actions), ["connect would have been held"]);
    let actions = run.apply(2_000, Event::ProxyReady(uid()));
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
    run.apply(2_030, Event::Tick);
    // With guard or without: who only looks has no business there any more.
    assert_eq!((run.gate(), run.machine.attached()), (Some(GatePhase::Open), 0));
    assert_eq!(run.machine.next_wakeup(), None);
    assert_eq!(state(&run), PodState::Exempt);
}

#[test]
fn an_observed_pods_time_ends_as_any_other() {
    let rules = TestRules { refuse: true, ..OBSERVE };
    let mut run = Run::ruled(rules, None, vec![view()]);
    run.apply(10, found(false));
    run.apply(500, observed(500, 1));
    let actions = run.apply(60_500, Event::Tick);
    assert_eq!(opened(&actions), Some(OpenReason::Deadline));
    run.apply(60_530, Event::Tick);
    assert_eq!(run.machine.attached(), 0);
    assert_eq!(state(&run), PodState::Exempt);
}

#[test]
fn the_death_of_an_observed_pods_proxy_is_observed_too() {
    let mut run = Run::ruled(OBSERVE, None, vec![view()]);
    run.apply(10, found(false));
    for (cgroup, name) in [(APP, "app"), (PROXY, "istio-proxy")] {
        run.apply(20, container(cgroup, Some(name)));
        run.apply(20, populated(cgroup, true));
    }
    run.apply(2_000, Event::ProxyReady(uid()));
    run.apply(2_030, Event::Tick);
    assert_eq!(modes(&run.apply(9_000, populated(PROXY, false))), [Mode::Observe]);
}

#[test]
fn nobody_looks_at_pods_that_are_not_to_be_held_or_have_no_proxy() {
    let mut opted_out = view();
    opted_out.labels = labels(Some("disabled"));
    let mut mesh_opted_out = view();
    mesh_opted_out.annotations.insert(
        "proxy.istio.io/config".to_owned(),
        "holdApplicationUntilProxyStarts: false".to_owned(),
    );
    let mut unmeshed = view();
    unmeshed.containers.pop();
    let mut on_host = view();
    on_host.host_network = true;
    let mut terminating = view();
    terminating.terminating = true;
    let cases = [opted_out, mesh_opted_out, unmeshed, on_host, terminating];
    let cases = cases.map(|view| (None, view)).into_iter().chain([(Some("disabled"), view())]);
    for (namespace, view) in cases {
        let mut run = Run::ruled(OBSERVE, namespace, vec![view.clone()]);
        run.apply(10, found(false));
        // Not even for somebody who asks.
        run.apply(20, watched(60_000));
        assert!(sets(&run.actions).is_empty(), "{namespace:?} {view:?}");
        assert!(!run.actions.iter().any(|action| matches!(action, Action::StartProbe { .. })));
    }
}

#[test]
fn what_waited_until_a_pod_was_known_goes_on_when_it_is_observed() {
    let mut run = Run::ruled(OBSERVE, None, vec![]);
    assert_eq!(modes(&run.apply(10, found(false))), [Mode::Hold]);
    run.apply(15, held(15, 1));
    run.apply(16, query(16, 2, 7));
    let actions = run.apply(20, Event::PodApplied(view()));
    assert_eq!(modes(&actions), [Mode::Observe]);
    assert!(sets(&actions)[0].renews);
    let sent = Action::Replay {
        uid: uid(),
        cgroup: CGROUP,
        container: None,
        held: vec![SocketCookie(1), SocketCookie(2)],
    };
    let set = actions.iter().position(|action| matches!(action, Action::SetGate(_)));
    assert!(actions.iter().position(|action| *action == sent) > set, "{actions:?}");
    assert_eq!(outcomes(&actions), [Outcome::QuerySent]);
    assert_eq!(told(&actions)[0], "pod observed, not held");
    // The SYN that was sent again found nobody, as without holdfast.
    let actions = run.apply(21, kernel(21, 1, KernelEventKind::Failed));
    assert_eq!(outcomes(&actions), [Outcome::Refused]);
}

#[test]
fn a_label_that_comes_or_goes_meanwhile_begins_anew() {
    for (before, after, was, is) in [
        (None, Some("enabled"), Mode::Observe, Mode::Hold),
        (Some("enabled"), None, Mode::Hold, Mode::Observe),
    ] {
        let mut run = Run::ruled(OBSERVE, before, vec![view()]);
        assert_eq!(modes(&run.apply(10, found(false))), [was]);
        let actions = run.apply(1_000, Event::NamespaceApplied(namespace(after)));
        assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::NotEnabled)));
        assert!(sets(&actions).is_empty());
        // It may work by now: its proxy is asked first.
        run.apply(1_030, Event::Tick);
        assert_eq!(run.gate(), Some(GatePhase::Checking));
        assert_eq!(modes(&run.apply(1_100, Event::ProxyNotReady(uid()))), [is]);
    }
}

#[test]
fn somebody_who_asks_sees_the_pod_and_its_successors_for_as_long_as_he_wants() {
    let of_cart = |mut view: PodView| {
        view.workload = Some(Workload::new("Deployment", "cart"));
        view
    };
    let mut run = Run::listed(None, vec![of_cart(view())]);
    run.apply(10, found(false));
    assert!(sets(&run.actions).is_empty());
    let actions = run.apply(1_000, watched(61_000));
    assert!(actions.iter().any(|action| matches!(action, Action::StartProbe { .. })));
    assert_eq!(modes(&run.apply(1_010, Event::ProxyNotReady(uid()))), [Mode::Observe]);

    // The next pod of the Deployment has another name, and is observed from its first moment.
    let next = PodUid::new("1e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11");
    let mut successor = of_cart(view());
    successor.uid = next.clone();
    successor.name = PodName::new("shop", "cart-2");
    run.apply(2_000, Event::PodApplied(successor));
    let cgroup = CgroupId(200);
    let actions = run.apply(
        2_010,
        Event::PodCgroupFound { uid: next.clone(), cgroup, at_start: false, inherited: None },
    );
    assert_eq!(modes(&actions), [Mode::Observe]);

    assert!(run.machine.next_wakeup() <= Some(at(61_000)));
    let actions = run.apply(61_000, Event::Tick);
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::NotEnabled)));
    run.apply(61_030, Event::Tick);
    assert_eq!((run.machine.attached(), run.machine.next_wakeup()), (0, None));
}

#[test]
fn who_asks_no_more_may_name_a_successor() {
    let successor = PodUid::new("7b1f0c3d-9d5c-4a53-9b1e-7a1f0c3d2e12");
    let workload = Workload::new("Deployment", "cart");
    let first = PodView { workload: Some(workload.clone()), ..view() };
    let mut run = Run::ruled(TestRules::default(), None, vec![first]);
    run.apply(10, found(true));
    run.apply(1_000, watched(61_000));
    let pod = PodName::new("shop", "cart-2");
    let next =
        PodView { uid: successor.clone(), name: pod.clone(), workload: Some(workload), ..view() };
    run.apply(1_500, Event::PodDeleted(uid()));
    run.apply(1_600, Event::PodCgroupGone(uid()));
    run.apply(2_000, Event::PodApplied(next));
    let cgroup = CgroupId(CGROUP.0 + 1);
    let found = Event::PodCgroupFound { uid: successor, cgroup, at_start: false, inherited: None };
    assert_eq!(modes(&run.apply(2_010, found)), [Mode::Observe]);
    // Its name, and another than that for which it was asked.
    let actions = run.apply(3_000, Event::Watched { pod, until: at(3_000) });
    assert!(opened(&actions).is_some(), "{actions:?}");
}

#[test]
fn asking_changes_nothing_for_a_pod_that_is_held() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(10, found(false));
    let gate = run.gate();
    assert!(run.apply(1_000, watched(61_000)).is_empty());
    assert_eq!(run.gate(), gate);
    assert_eq!(run.machine.pods[&uid()].standing(), Standing::Hold);
}

#[test]
fn an_order_to_close_holds_no_pod_that_nobody_enabled() {
    let mut run = Run::ruled(OBSERVE, None, vec![view()]);
    run.apply(10, found(false));
    let order = Some(Order::Closed { until: at(90_000) });
    run.apply(20, Event::Ordered { uid: uid(), order });
    run.apply(2_000, Event::ProxyReady(uid()));
    run.apply(2_030, Event::Tick);
    assert_eq!((run.gate(), run.machine.attached()), (Some(GatePhase::Open), 0));
    assert!(modes(&run.actions).iter().all(|mode| *mode == Mode::Observe));
}

#[test]
fn an_order_to_open_ends_the_observing() {
    let mut run = Run::ruled(OBSERVE, None, vec![view()]);
    run.apply(10, found(false));
    run.apply(20, Event::Ordered { uid: uid(), order: Some(Order::Open { until: None }) });
    run.apply(50, Event::Tick);
    assert_eq!((run.gate(), run.machine.attached()), (Some(GatePhase::Absent), 0));
}

#[test]
fn what_is_observed_is_not_held_because_less_is_known_again() {
    let mut run = Run::ruled(OBSERVE, None, vec![view()]);
    run.apply(10, found(false));
    run.apply(20, Event::NamespacesListed(vec![]));
    run.apply(25, Event::PodApplied(view()));
    assert_eq!(run.machine.pods[&uid()].standing(), Standing::Unknown);
    run.apply(30_010, Event::Tick);
    run.apply(30_010, counted(0));
    assert!(run.is_closed());
    assert!(modes(&run.actions).iter().all(|mode| *mode == Mode::Observe), "{:?}", run.actions);
    run.apply(30_020, Event::NamespacesListed(vec![namespace(None)]));
    assert!(modes(&run.actions).iter().all(|mode| *mode == Mode::Observe));
    assert_eq!(state(&run), PodState::Observed);
}
