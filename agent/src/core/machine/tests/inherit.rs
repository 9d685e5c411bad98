//! The gates that an agent before this one has left.

use super::*;
use crate::core::{InheritedGate, InheritedState};

fn closed(reason: CloseReason, since: u64, deadline: u64) -> InheritedState {
    InheritedState::Closed {
        reason,
        since: at(since),
        reached_before: Some(0),
        deadline: at(deadline),
    }
}

fn left(state: InheritedState, waiting: &[u64]) -> InheritedGate {
    let waiting = waiting.iter().map(|&cookie| (SocketCookie(cookie), caller(0))).collect();
    InheritedGate { state, waiting, reached: 0 }
}

fn found_with(gate: InheritedGate) -> Event {
    Event::PodCgroupFound { uid: uid(), cgroup: CGROUP, at_start: true, inherited: Some(gate) }
}

/// A start's gate behind which one waits since 10 s, taken over at 20 s.
fn waited_for() -> InheritedGate {
    let state = InheritedState::Closed {
        reason: CloseReason::Start,
        since: at(10_000),
        reached_before: None,
        deadline: at(70_000),
    };
    InheritedGate { reached: 1, ..left(state, &[1]) }
}

#[test]
fn what_waits_waits_on_and_is_let_go_when_the_proxy_is_ready() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    let actions = run.apply(20_000, found_with(waited_for()));
    assert!(run.is_closed());
    let told = |action: &Action| {
        matches!(action, Action::Log(_, Line::GateInherited { reason: Some(_), held: 1 }))
    };
    assert!(actions.iter().any(told), "{actions:?}");
    // Somebody waits, so the proxy is asked as for those.
    let probes = |action: &Action| matches!(action, Action::StartProbe { pace: Pace::Held(since), .. } if *since == at(0));
    assert!(actions.iter().any(probes), "{actions:?}");

    let actions = run.apply(21_000, Event::ProxyReady(uid()));
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
    let replays = |action: &Action| matches!(action, Action::OpenGate { replay: Some(held), .. } if *held == [SocketCookie(1)]);
    assert!(actions.iter().any(replays), "{actions:?}");
    let actions = run.apply(21_001, kernel(21_001, 1, KernelEventKind::Connected));
    assert_eq!(outcomes(&actions), [Outcome::Connected]);
}

#[test]
fn no_change_of_agents_moves_a_deadline_for_which_somebody_waits() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    let actions = run.apply(20_000, found_with(waited_for()));
    // The kernel is told again, with this agent's plan, and with the same time.
    assert_eq!(closes(&actions), Some(at(70_000)));
    run.apply(40_000, Event::Tick);
    run.apply(40_000, counted(1));
    assert_eq!(run.machine.next_wakeup(), Some(at(70_000)));
    assert_eq!(opened(&run.apply(70_000, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn who_cannot_be_found_waits_all_the_same() {
    // The table was full, so nothing is known but that the gate has dropped something.
    let gate = InheritedGate { waiting: Vec::new(), ..waited_for() };
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(20_000, found_with(gate));
    assert_eq!(opened(&run.apply(70_000, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn a_deadline_for_which_nobody_waits_moves_on() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    let actions = run.apply(20_000, found_with(left(closed(CloseReason::Start, 0, 60_000), &[])));
    // With this agent's plan first, then, once the kernel has said that nobody has come, with the new time.
    assert_eq!(closes(&actions), Some(at(60_000)));
    assert_eq!(closes(&run.apply(20_000, counted(0))), Some(at(80_000)));
    assert_eq!(run.machine.next_wakeup(), Some(at(50_000)));
    // From the first that waits it stands.
    assert_eq!(closes(&run.apply(55_000, held(55_000, 1))), Some(at(115_000)));
}

#[test]
fn what_a_gate_has_counted_before_is_no_reason_to_think_that_somebody_waits() {
    // It has held one, was opened, guarded, and closed again: nobody has waited since.
    let state = InheritedState::Closed {
        reason: CloseReason::ProxyDied,
        since: at(10_000),
        reached_before: Some(1),
        deadline: at(70_000),
    };
    let gate = InheritedGate { reached: 1, ..left(state, &[]) };
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(20_000, found_with(gate));
    assert_eq!(closes(&run.apply(20_000, counted(1))), Some(at(80_000)));

    // One more has reached it, and is known: its own connect counts.
    let caller = Caller { connect_at: at(15_000), ..caller(0) };
    let gate = InheritedGate { state, waiting: vec![(SocketCookie(7), caller)], reached: 2 };
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(20_000, found_with(gate.clone()));
    assert_eq!(run.machine.next_wakeup(), Some(at(75_000)));

    // Two more, of which one is not known: from when nobody waited.
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(20_000, found_with(InheritedGate { reached: 3, ..gate }));
    assert_eq!(run.machine.next_wakeup(), Some(at(70_000)));
}

#[test]
fn who_came_before_the_gate_was_closed_again_waits_and_moves_no_deadline() {
    // It was not sent while the gate was open; since that was closed again nobody has come.
    let state = InheritedState::Closed {
        reason: CloseReason::ProxyDied,
        since: at(10_000),
        reached_before: Some(0),
        deadline: at(70_000),
    };
    let caller = Caller { connect_at: at(9_900), ..caller(0) };
    let gate = InheritedGate { waiting: vec![(SocketCookie(7), caller)], ..left(state, &[]) };
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(20_000, found_with(gate));
    run.apply(20_000, counted(0));
    assert_eq!(run.machine.next_wakeup(), Some(at(70_000)));
    assert_eq!(opened(&run.apply(70_000, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn nothing_is_due_before_the_api_tells_but_the_deadline() {
    let mut run = Run::new();
    run.apply(20_000, found_with(left(closed(CloseReason::Start, 0, 60_000), &[])));
    for ms in [20_001, 20_002, 40_000] {
        assert!(run.apply(ms, Event::Tick).is_empty());
        assert_eq!(run.machine.next_wakeup(), Some(at(60_000)));
    }
}

#[test]
fn a_gate_that_refuses_goes_on_refusing() {
    let test = TestRules { refuse: true, ..TestRules::default() };
    let refusing = || left(InheritedState::Refusing { reason: CloseReason::Start }, &[]);
    let mut run = Run::ruled(test, Some("enabled"), vec![view()]);
    let actions = run.apply(90_000, found_with(refusing()));
    assert!(matches!(run.gate(), Some(GatePhase::Refusing { .. })), "{:?}", run.gate());
    // Never again with a time in which somebody waits.
    assert!(
        actions.iter().filter_map(|a| closes(std::slice::from_ref(a))).all(|to| to <= at(90_000))
    );
    let actions = run.apply(91_000, Event::ProxyReady(uid()));
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));

    // The owner has changed their mind meanwhile.
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    let actions = run.apply(90_000, found_with(refusing()));
    assert_eq!(opened(&actions), Some(OpenReason::Deadline));
}

#[test]
fn a_container_that_goes_takes_along_what_the_kernel_was_told_of_it() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(20_000, found_with(waited_for()));
    run.apply(20_001, container(APP, None));
    let actions = run.apply(20_002, Event::ContainerGone { uid: uid(), id: id_of(APP) });
    assert!(actions.contains(&Action::ForgetVerdict { container: APP }), "{actions:?}");
}

#[test]
fn a_deadline_that_passed_between_two_agents_has_opened_the_gate_for_good() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    let actions = run.apply(90_000, found_with(waited_for()));
    assert_eq!(opened(&actions), Some(OpenReason::Deadline));
    run.apply(94_000, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::GivenUp { reason: CloseReason::Start }));
}

#[test]
fn until_the_api_tells_the_gate_keeps_the_settings_it_had() {
    let mut run = Run::new();
    let actions = run.apply(20_000, found_with(waited_for()));
    assert_eq!(closes(&actions), None, "{actions:?}");
    let actions = run.apply(20_001, container(APP, Some("app")));
    assert_eq!(closes(&actions), None, "{actions:?}");
    run.apply(20_010, Event::NamespacesListed(vec![namespace(Some("enabled"))]));
    let actions = run.apply(20_020, Event::PodsListed(vec![view()]));
    assert_eq!(closes(&actions), Some(at(70_000)));

    // The probe does not need the API, nor does the deadline.
    for (event, reason) in
        [(Event::ProxyReady(uid()), OpenReason::ProbeReady), (Event::Tick, OpenReason::Deadline)]
    {
        let mut run = Run::new();
        run.apply(20_000, found_with(waited_for()));
        assert_eq!(opened(&run.apply(70_000, event)), Some(reason));
    }
}

#[test]
fn a_pod_that_is_not_to_be_held_any_more_is_let_go() {
    let mut run = Run::listed(None, vec![view()]);
    let actions = run.apply(20_000, found_with(waited_for()));
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::NotEnabled)));
    run.apply(24_000, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::Absent));
}

#[test]
fn a_gate_closed_for_a_deaf_proxy_does_not_open_on_kubelets_old_word() {
    let mut run = Run::listed(Some("enabled"), vec![ready_view()]);
    run.apply(20_000, found_with(left(closed(CloseReason::NobodyListens, 19_000, 79_000), &[])));
    run.apply(20_001, container(PROXY, Some("istio-proxy")));
    assert!(run.is_closed());
    let actions = run.apply(21_000, Event::ProxyReady(uid()));
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
}

#[test]
fn a_guarded_gate_guards_on() {
    let mut run = Run::ruled(
        TestRules { guard: true, ..TestRules::default() },
        Some("enabled"),
        vec![view()],
    );
    let actions = run.apply(20_000, found_with(left(InheritedState::Guarded, &[])));
    assert!(matches!(run.gate(), Some(GatePhase::Guarded { .. })));
    let guards = |action: &Action| matches!(action, Action::SetGate(set) if matches!(set.state, GateSetting::Guarded { .. }));
    assert!(actions.iter().any(guards), "{actions:?}");
    // What found nobody listening between the agents is why it closes now.
    let mut run = Run::ruled(
        TestRules { guard: true, ..TestRules::default() },
        Some("enabled"),
        vec![view()],
    );
    run.apply(20_000, found_with(left(InheritedState::Guarded, &[1])));
    assert!(run.is_closed());
}

#[test]
fn an_open_gate_comes_off_and_its_proxy_is_asked() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    let actions = run.apply(20_000, found_with(left(InheritedState::Open, &[1])));
    let replays = |action: &Action| matches!(action, Action::OpenGate { replay: Some(held), .. } if *held == [SocketCookie(1)]);
    assert!(actions.iter().any(replays), "{actions:?}");
    let actions = run.apply(24_000, Event::Tick);
    assert!(actions.iter().any(|action| matches!(action, Action::DetachGate { .. })));
    assert_eq!(run.gate(), Some(GatePhase::Checking));
}

#[test]
fn what_the_former_agent_told_the_kernel_of_containers_is_told_anew() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(20_000, found_with(waited_for()));
    let verdict = |actions: &[Action], of: CgroupId| {
        actions.iter().find_map(|action| match action {
            Action::SetVerdict { container, verdict } if *container == of => Some(*verdict),
            _ => None,
        })
    };
    let actions = run.apply(20_001, container(APP, Some("app")));
    assert_eq!(verdict(&actions, APP), Some(Verdict::Hold));
    let actions = run.apply(20_002, container(PROXY, Some("istio-proxy")));
    assert_eq!(verdict(&actions, PROXY), Some(Verdict::Pass));
}
