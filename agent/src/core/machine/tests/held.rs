//! The connects that wait, and the containers they come from.

use super::*;

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
fn who_was_refused_before_the_gate_closed_again_was_not_timed_out() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    for (cgroup, name) in [(PROXY, "istio-proxy"), (APP, "app")] {
        run.apply(1, container(cgroup, Some(name)));
        run.apply(2, populated(cgroup, true));
    }
    for cookie in 1..=2 {
        run.apply(100, held(100, cookie));
    }
    run.apply(1_000, Event::ProxyReady(uid()));
    let actions = run.apply(1_010, populated(PROXY, false));
    assert_eq!(reason(&actions), Some(CloseReason::ProxyDied));
    run.apply(1_011, kernel(1_005, 1, KernelEventKind::Failed));
    run.apply(2_000, kernel(2_000, 2, KernelEventKind::Failed));
    assert_eq!(outcomes(&run.actions), [Outcome::Refused, Outcome::TimedOut]);
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
    named.containers.insert(1, migrate(&format!("id{APP}")));
    let actions = run.apply(30, Event::PodApplied(named));
    let held = vec![SocketCookie(1)];
    let replay = Action::Replay { uid: uid(), cgroup: CGROUP, container: Some(APP), held };
    let tells = Action::SetVerdict { container: APP, verdict: Verdict::PassAndTell };
    assert_eq!(actions[..2], [tells, replay]);
    // The kernel could not report it: it was held before it was known whose connect it is.
    let told = actions.iter().any(|action| match action {
        Action::Log(_, Line::InitPassed { connect, .. }) => {
            connect.container.as_deref() == Some("migrate")
        }
        _ => false,
    });
    assert!(told, "{actions:?}");
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
            Action::Log(_, Line::Released { connect, .. }) => connect.container.clone(),
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
fn an_init_container_that_has_ended_before_its_report_is_read_is_told_of_by_name() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(10, container(APP, Some("migrate")));
    run.apply(20, Event::ContainerGone { uid: uid(), id: id_of(APP) });
    let actions = run.apply(30, kernel(15, 1, KernelEventKind::InitPassed(caller(15))));
    let told = actions.iter().find_map(|action| match action {
        Action::Log(_, Line::InitPassed { connect, .. }) => connect.container.clone(),
        _ => None,
    });
    assert_eq!(told.as_deref(), Some("migrate"));
}

#[test]
fn who_waited_before_there_was_a_gate_was_held_by_the_sentry() {
    let by_sentry = |actions: &[Action]| {
        let told = actions.iter().find_map(|action| match action {
            Action::Log(_, Line::Held(connect)) => Some(connect.by_sentry),
            _ => None,
        });
        told.expect("a connect is held")
    };
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(10_000, found(false));
    assert!(run.is_closed());
    let unseen = |ms| Caller { pid: None, comm: String::new(), ..caller(ms) };
    let waits = |run: &mut Run, cookie, caller| {
        by_sentry(&run.apply(10_400, kernel(10_300, cookie, KernelEventKind::Held(caller))))
    };
    assert!(waits(&mut run, 1, unseen(4_000)));
    assert_eq!(closes(&run.actions), Some(at(70_000)), "counted from its closing at first");
    // The first SYN that the gate has dropped, of a socket for which there was no room.
    assert!(!waits(&mut run, 2, unseen(10_300)));
    // The gate's own hook has seen it.
    assert!(!waits(&mut run, 3, caller(9_999)));
    let actions = run.apply(11_000, kernel(11_000, 1, KernelEventKind::Connected));
    let Some(Line::Released { connect, waited, .. }) =
        actions.iter().find_map(|action| match action {
            Action::Log(_, line) => Some(line),
            _ => None,
        })
    else {
        panic!("{actions:?}")
    };
    assert!(connect.by_sentry);
    assert_eq!(*waited, Duration::from_secs(7));
}

#[test]
fn who_found_nobody_listening_through_an_open_gate_was_not_the_sentrys() {
    let mut run = Run::ruled(
        TestRules { guard: true, ..TestRules::default() },
        Some("enabled"),
        vec![view()],
    );
    run.apply(0, found(false));
    for (cgroup, name) in [(PROXY, "istio-proxy"), (APP, "app")] {
        run.apply(1, container(cgroup, Some(name)));
        run.apply(2, populated(cgroup, true));
    }
    run.apply(1_000, Event::ProxyReady(uid()));
    run.apply(2_000, populated(PROXY, false));
    let caller = Caller { pid: None, ..caller(1_900) };
    let actions = run.apply(2_001, kernel(1_950, 1, KernelEventKind::Held(caller)));
    let held = actions
        .iter()
        .any(|action| matches!(action, Action::Log(_, Line::Held(connect)) if !connect.by_sentry));
    assert!(held, "{actions:?}");
}

#[test]
fn a_connect_that_waits_is_told_of_once_the_kernel_has_its_deadline() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let actions = run.apply(900, held(900, 1));
    let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    let set = place(|action| matches!(action, Action::SetGate(_)));
    let told = place(|action| matches!(action, Action::Log(_, Line::Held(_))));
    assert!(set < told, "{actions:?}");
}
