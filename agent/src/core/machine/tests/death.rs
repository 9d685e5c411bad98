//! The proxy's death, and what else closes a gate again.

use super::*;

/// A pod whose containers run and whose proxy has been ready.
fn running(rules: TestRules) -> Run {
    let mut run = Run::with(rules);
    run.apply(0, Event::NamespacesListed(vec![namespace(Some("enabled"))]));
    run.apply(0, Event::PodsListed(vec![view()]));
    run.apply(0, found(false));
    for (cgroup, name) in [(PROXY, "istio-proxy"), (APP, "app")] {
        run.apply(1, container(cgroup, Some(name)));
        run.apply(2, populated(cgroup, true));
    }
    run.apply(100, Event::ProxyReady(uid()));
    run.apply(200, Event::Tick);
    run
}

#[test]
fn a_proxys_death_closes_its_gate_again_with_a_budget_of_its_own() {
    for guard in [false, true] {
        let mut run = running(TestRules { guard, ..TestRules::default() });
        assert_eq!(run.machine.attached(), usize::from(guard));
        let actions = run.apply(500_000, populated(PROXY, false));
        assert_eq!(reason(&actions), Some(CloseReason::ProxyDied), "guard {guard}");
        assert_eq!(closes(&actions), Some(at(560_000)));
        assert!(actions.iter().any(|action| matches!(action, Action::StartProbe { .. })));
        run.apply(500_100, held(500_100, 1));
        run.apply(501_000, container(CgroupId(104), Some("istio-proxy")));
        run.apply(501_000, populated(CgroupId(104), true));
        assert!(run.is_closed(), "a new container is not yet a ready one");
        let actions = run.apply(502_000, Event::ProxyReady(uid()));
        let replay = Some(vec![SocketCookie(1)]);
        assert_eq!(actions[0], Action::OpenGate { uid: uid(), cgroup: CGROUP, replay });
    }
}

#[test]
fn a_proxy_that_never_was_ready_has_one_budget_however_often_it_dies() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(1, container(PROXY, Some("istio-proxy")));
    run.apply(1, container(APP, Some("app")));
    run.apply(2, populated(PROXY, true));
    run.apply(3, held(3, 1));
    run.apply(1_000, populated(PROXY, false));
    run.apply(2_000, populated(PROXY, true));
    assert_eq!(opened(&run.apply(60_003, Event::Tick)), Some(OpenReason::Deadline));
    run.apply(63_100, Event::Tick);
    assert!(reason(&run.apply(70_000, populated(PROXY, false))).is_none());
    assert_eq!(run.gate(), Some(GatePhase::GivenUp { reason: CloseReason::Start }));
}

#[test]
fn a_proxy_that_becomes_ready_after_the_deadline_is_guarded_by_kubelets_word() {
    let mut run = Run::with(TestRules { guard: true, ..TestRules::default() });
    run.apply(0, Event::NamespacesListed(vec![namespace(Some("enabled"))]));
    run.apply(0, Event::PodsListed(vec![view()]));
    run.apply(0, found(false));
    run.apply(1, held(1, 1));
    run.apply(60_001, Event::Tick);
    run.apply(64_000, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::GivenUp { reason: CloseReason::Start }));
    run.apply(70_000, Event::PodApplied(ready_view()));
    assert_eq!(run.gate(), Some(GatePhase::Guarded { since: at(70_000) }));
}

#[test]
fn nobody_is_held_for_a_proxy_that_ends_with_its_pod() {
    // The application has ended first, as a Job's does.
    let mut run = running(TestRules::default());
    run.apply(1_000, populated(APP, false));
    assert!(reason(&run.apply(2_000, populated(PROXY, false))).is_none());
    // It starts again without a proxy: now somebody would be refused.
    let actions = run.apply(3_000, container(CgroupId(105), Some("app")));
    assert_eq!(reason(&actions), Some(CloseReason::ProxyDied));

    // The pod is being deleted: its proxy drains and goes.
    let mut run = running(TestRules { guard: true, ..TestRules::default() });
    let mut leaving = view();
    leaving.terminating = true;
    run.apply(1_000, Event::PodApplied(leaving));
    assert_eq!(run.machine.attached(), 0);
    assert!(reason(&run.apply(2_000, populated(PROXY, false))).is_none());
}

#[test]
fn an_old_word_of_kubelet_does_not_open_a_gate_that_the_proxys_death_closed() {
    let mut run = running(TestRules::default());
    let mut ready = ready_view();
    ready.containers[2].id = Some(id_of(PROXY));
    run.apply(300, Event::PodApplied(ready.clone()));
    run.apply(1_000, populated(PROXY, false));
    assert!(run.is_closed());
    run.apply(1_100, Event::PodApplied(ready.clone()));
    run.apply(1_200, Event::ContainerGone { uid: uid(), id: id_of(PROXY) });
    assert!(opened(&run.apply(1_300, Event::PodApplied(ready.clone()))).is_none());
    run.apply(2_000, container(CgroupId(104), Some("istio-proxy")));
    run.apply(2_000, populated(CgroupId(104), true));
    ready.containers[2].id = Some(id_of(CgroupId(104)));
    let actions = run.apply(3_000, Event::PodApplied(ready));
    assert_eq!(opened(&actions), Some(OpenReason::KubeReady));
}

#[test]
fn a_guarded_gate_closes_when_the_kernel_found_nobody_listening() {
    let mut run = running(TestRules { guard: true, ..TestRules::default() });
    run.apply(300, Event::PodApplied(ready_view()));
    let actions = run.apply(9_000, held(8_990, 7));
    assert_eq!(reason(&actions), Some(CloseReason::NobodyListens));
    // The connect that waits has used some of its time.
    assert_eq!(closes(&actions), Some(at(68_990)));
    assert!(run.is_closed(), "kubelet's word is older than the missing listener");
    let actions = run.apply(9_500, Event::ProxyReady(uid()));
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
}

#[test]
fn a_report_from_before_the_guard_closes_nothing() {
    let mut run = running(TestRules { guard: true, ..TestRules::default() });
    let actions = run.apply(300, held(150, 7));
    assert_eq!(outcomes(&actions), [Outcome::StillConnecting]);
    assert_eq!(run.gate(), Some(GatePhase::Guarded { since: at(200) }));
}

#[test]
fn failed_probes_close_nothing() {
    for guard in [false, true] {
        let mut run = running(TestRules { guard, ..TestRules::default() });
        let before = run.gate();
        assert!(run.apply(1_000, Event::ProxyNotReady(uid())).is_empty());
        assert_eq!(run.gate(), before);
    }
}

#[test]
fn after_the_deadline_connects_fail_where_the_user_wants_it_until_the_proxy_is_ready() {
    let mut run = Run::with(TestRules { refuse: true, ..TestRules::default() });
    run.apply(0, Event::NamespacesListed(vec![namespace(Some("enabled"))]));
    run.apply(0, Event::PodsListed(vec![view()]));
    run.apply(0, found(false));
    run.apply(5, held(5, 1));
    let actions = run.apply(60_005, Event::Tick);
    assert_eq!(opened(&actions), None);
    let held = vec![SocketCookie(1)];
    let replay = Action::Replay { uid: uid(), cgroup: CGROUP, container: None, held };
    assert!(actions.contains(&replay), "{actions:?}");
    for renewal in [65_005, 70_005] {
        assert_eq!(run.machine.next_wakeup(), Some(at(renewal)));
        let actions = run.apply(renewal, Event::Tick);
        // One that cannot be renewed stands.
        assert!(matches!(&actions[..], [Action::SetGate(set)] if set.renews), "{actions:?}");
    }
    let actions = run.apply(71_000, Event::ProxyReady(uid()));
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
}

#[test]
fn a_query_waits_for_nine_seconds_at_most_and_is_sent_when_the_proxy_is_ready() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(100, query(100, 1, 10));
    run.apply(200, query(200, 1, 11));
    assert_eq!(run.machine.next_wakeup(), Some(at(9_100)));
    let actions = run.apply(9_100, Event::Tick);
    assert_eq!(outcomes(&actions), [Outcome::QueryExpired]);
    let actions = run.apply(9_150, Event::ProxyReady(uid()));
    assert_eq!(outcomes(&actions), [Outcome::QuerySent]);
    let replay = Some(vec![SocketCookie(1)]);
    assert_eq!(actions[0], Action::OpenGate { uid: uid(), cgroup: CGROUP, replay });
}

#[test]
fn the_operator_outweighs_the_facts_until_his_order_ends() {
    let order = |order| Event::Ordered { uid: uid(), order };
    let mut run = running(TestRules::default());
    let actions = run.apply(1_000, order(Some(Order::Closed { until: at(11_000) })));
    assert_eq!(reason(&actions), Some(CloseReason::Operator));
    assert_eq!(closes(&actions), Some(at(61_000)));
    assert!(opened(&run.apply(2_000, Event::ProxyReady(uid()))).is_none());
    let actions = run.apply(11_000, Event::Tick);
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));

    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let actions = run.apply(10, order(Some(Order::Open { until: None })));
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::Operator)));
    run.apply(100, Event::Tick);
    run.apply(200, order(None));
    assert_eq!(run.gate(), Some(GatePhase::Checking));
}

#[test]
fn a_proxy_that_restarted_before_the_application_did_is_not_the_ready_one() {
    let mut run = running(TestRules::default());
    run.apply(1_000, populated(APP, false));
    run.apply(1_100, populated(PROXY, false));
    run.apply(1_200, container(CgroupId(104), Some("istio-proxy")));
    run.apply(1_200, populated(CgroupId(104), true));
    let actions = run.apply(1_300, container(CgroupId(105), Some("app")));
    assert_eq!(reason(&actions), Some(CloseReason::ProxyDied));

    // Unless kubelet calls the new one ready; and a later doubt of kubelet's closes nothing.
    let mut run = running(TestRules::default());
    run.apply(1_000, populated(APP, false));
    run.apply(1_100, populated(PROXY, false));
    run.apply(1_200, container(CgroupId(104), Some("istio-proxy")));
    run.apply(1_200, populated(CgroupId(104), true));
    let mut ready = ready_view();
    ready.containers[2].id = Some(id_of(CgroupId(104)));
    run.apply(1_250, Event::PodApplied(ready.clone()));
    assert!(reason(&run.apply(1_300, container(CgroupId(105), Some("app")))).is_none());
    ready.containers[2].ready = false;
    assert!(reason(&run.apply(1_400, Event::PodApplied(ready))).is_none());
}

#[test]
fn a_proxy_that_restarted_while_its_gate_opened_is_not_the_ready_one() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    for (cgroup, name) in [(PROXY, "istio-proxy"), (APP, "app")] {
        run.apply(1, container(cgroup, Some(name)));
        run.apply(2, populated(cgroup, true));
    }
    run.apply(90, held(90, 1));
    run.apply(100, Event::ProxyReady(uid()));
    run.apply(110, populated(APP, false));
    run.apply(120, populated(PROXY, false));
    run.apply(130, container(CgroupId(104), Some("istio-proxy")));
    run.apply(140, populated(CgroupId(104), true));
    run.apply(3_100, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::Open));
    let actions = run.apply(3_200, container(CgroupId(105), Some("app")));
    assert_eq!(reason(&actions), Some(CloseReason::ProxyDied));
}

#[test]
fn a_ready_proxy_whose_container_is_known_only_later_is_the_ready_one() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(100, Event::ProxyReady(uid()));
    run.apply(110, container(PROXY, Some("istio-proxy")));
    run.apply(110, populated(PROXY, true));
    run.apply(200, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::Open));
    // It restarts before an application is there.
    run.apply(1_000, populated(PROXY, false));
    run.apply(1_100, container(CgroupId(104), Some("istio-proxy")));
    run.apply(1_100, populated(CgroupId(104), true));
    let actions = run.apply(1_200, container(APP, Some("app")));
    assert_eq!(reason(&actions), Some(CloseReason::ProxyDied));
}

#[test]
fn an_old_word_of_kubelet_does_not_arm_a_guard_that_was_given_up() {
    let mut run = running(TestRules { guard: true, ..TestRules::default() });
    run.apply(300, Event::PodApplied(ready_view()));
    run.apply(9_000, held(9_000, 7));
    run.apply(69_000, Event::Tick);
    run.apply(73_000, Event::Tick);
    let given_up = GatePhase::GivenUp { reason: CloseReason::NobodyListens };
    assert_eq!(run.gate(), Some(given_up));
    run.apply(74_000, Event::ProxyReady(uid()));
    assert_eq!(run.gate(), Some(GatePhase::Guarded { since: at(74_000) }));
}

#[test]
fn where_only_kubelet_is_asked_a_listener_that_is_back_ends_the_hold() {
    let mut kube = view();
    kube.annotations.insert("holdfast.dev/ready".to_owned(), "kube".to_owned());
    let mut run = Run::with(TestRules { guard: true, ..TestRules::default() });
    run.apply(0, Event::NamespacesListed(vec![namespace(Some("enabled"))]));
    run.apply(0, Event::PodsListed(vec![kube.clone()]));
    run.apply(0, found(false));
    kube.containers[2].ready = true;
    run.apply(100, Event::PodApplied(kube));
    run.apply(200, Event::Tick);
    let actions = run.apply(300, held(300, 7));
    let asks = actions.iter().find_map(|action| match action {
        Action::StartProbe { checks, .. } => Some(checks.clone()),
        _ => None,
    });
    assert_eq!(asks, Some(vec![ReadyCheck::Tcp { port: 15001 }]));
}

#[test]
fn who_only_wants_to_look_refuses_nobody() {
    let mut watched = view();
    watched.annotations.insert("holdfast.dev/mode".to_owned(), "observe".to_owned());
    let mut run = Run::with(TestRules { refuse: true, ..TestRules::default() });
    run.apply(0, Event::NamespacesListed(vec![namespace(Some("enabled"))]));
    run.apply(0, Event::PodsListed(vec![watched]));
    run.apply(0, found(false));
    run.apply(5, kernel(5, 1, KernelEventKind::Observed { caller: caller(5), refused: true }));
    let actions = run.apply(60_005, Event::Tick);
    assert_eq!(opened(&actions), Some(OpenReason::Deadline));
    let refuses = |action: &Action| match action {
        Action::SetGate(set) => {
            matches!(set.state, GateSetting::Closed { refuse_until: Some(_), .. })
        }
        _ => false,
    };
    assert!(!run.actions.iter().any(refuses));
}

#[test]
fn a_gate_that_is_told_anew_goes_on_counting_from_when_it_closed() {
    let mut run = running(TestRules { guard: true, ..TestRules::default() });
    run.apply(500_000, populated(PROXY, false));
    // Of whoever waits by now nobody has told, nor how many have come.
    let mut annotated = view();
    annotated.annotations.insert("holdfast.dev/on-timeout".to_owned(), "refuse".to_owned());
    let actions = run.apply(540_000, Event::PodApplied(annotated));
    let told = actions.iter().find_map(|action| match action {
        Action::SetGate(set) => match set.state {
            GateSetting::Closed { since, deadline, .. } => Some((since, deadline)),
            GateSetting::Guarded { .. } => None,
        },
        _ => None,
    });
    assert_eq!(told, Some((at(500_000), at(560_000))));
}
