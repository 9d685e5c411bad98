//! The life of a gate, one way through its states after the other.

use super::*;

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
    assert_eq!(run.machine.undecided().collect::<Vec<_>>(), [CGROUP]);
    run.apply(11, container(PROXY, Some("istio-proxy")));
    assert_eq!(run.gate(), Some(GatePhase::Open));
}

#[test]
fn a_pod_that_ran_before_and_of_which_the_api_has_not_told_is_undecided() {
    let mut run = Run::listed(Some("enabled"), vec![]);
    run.apply(10, found(true));
    assert_eq!(run.gate(), Some(GatePhase::Absent));
    assert_eq!(run.machine.undecided().collect::<Vec<_>>(), [CGROUP]);
    run.apply(20, Event::PodApplied(view()));
    assert_eq!(run.machine.undecided().collect::<Vec<_>>(), [CGROUP], "its proxy is asked");
    run.apply(30, Event::ProxyNotReady(uid()));
    assert!(run.is_closed());
    assert_eq!(run.machine.undecided().count(), 0);
    // Nobody wants this one held.
    let mut run = Run::listed(None, vec![view()]);
    run.apply(10, found(true));
    assert_eq!(run.machine.undecided().count(), 0);
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
    run.apply(1, failed("no such program type", false));
    assert_eq!(run.gate(), Some(GatePhase::Failed { retry_at: None }));
    assert_eq!(run.machine.next_wakeup(), None);
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
