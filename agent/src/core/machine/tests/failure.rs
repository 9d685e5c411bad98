//! Gates that could not be worked.

use super::*;
use crate::core::Action;

fn proves(actions: &[Action]) -> bool {
    actions.contains(&Action::ProveGate { uid: uid(), cgroup: CGROUP })
}

fn tells_failure(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|action| match action {
        Action::Log(_, Line::GateFailed { again, .. }) => Some(*again),
        _ => None,
    })
}

fn not_renewed(deadline: u64) -> Event {
    Event::GateNotRenewed {
        uid: uid(),
        error: "no memory".to_owned(),
        deadline: Some(at(deadline)),
    }
}

fn failing() -> Run {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let actions = run.apply(1, failed("no descriptors", true));
    assert_eq!(tells_failure(&actions), Some(true));
    run
}

#[test]
fn a_shortage_that_passes_costs_a_moment_of_the_hold() {
    let mut run = failing();
    assert_eq!(run.machine.next_wakeup(), Some(at(101)));
    assert_eq!(run.machine.undecided().collect::<Vec<_>>(), [CGROUP], "it may be held again");
    assert!(run.apply(100, Event::Tick).is_empty());
    assert!(proves(&run.apply(101, Event::Tick)));
    assert!(run.apply(102, Event::Tick).is_empty(), "nobody has said how it went");
    // The pod has run without a gate: never start by holding what may work.
    run.apply(103, Event::GateProven(uid()));
    assert_eq!(run.gate(), Some(GatePhase::Checking));
    assert_eq!(reason(&run.apply(104, Event::ProxyNotReady(uid()))), Some(CloseReason::NotReady));
}

#[test]
fn a_proxy_that_has_become_ready_meanwhile_is_not_held() {
    let mut run = failing();
    run.apply(101, Event::Tick);
    run.apply(102, Event::GateProven(uid()));
    run.apply(103, Event::ProxyReady(uid()));
    assert_eq!(run.gate(), Some(GatePhase::Open));
}

#[test]
fn a_shortage_that_lasts_is_tried_for_a_minute_and_told_at_both_ends() {
    let mut run = failing();
    let (mut trials, mut now) = (0, 1);
    while let Some(end) = run.machine.next_wakeup() {
        let waited = end.0 / 1_000_000 - now;
        assert!((100..=5_000).contains(&waited), "{waited}");
        now += waited;
        assert!(proves(&run.apply(now, Event::Tick)));
        let told = tells_failure(&run.apply(now, failed("no descriptors", true)));
        trials += 1;
        // Once more when that was the last.
        let is_last = run.machine.next_wakeup().is_none();
        assert_eq!(told, is_last.then_some(false));
    }
    assert!((50_000..60_000).contains(&now) && trials < 20, "{trials} in {now} ms");
    assert_eq!(run.gate(), Some(GatePhase::Failed { retry_at: None }));
    assert_eq!(run.machine.undecided().count(), 0);
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let actions = run.apply(1, failed("no such program type", false));
    assert_eq!(tells_failure(&actions), Some(false));
    assert_eq!(run.machine.next_wakeup(), None);
    // Not told again, by whatever it is tried.
    run.apply(2, Event::Ordered { uid: uid(), order: None });
    run.apply(3, Event::ProxyNotReady(uid()));
    assert_eq!(tells_failure(&run.apply(4, failed("no such program type", false))), None);
}

#[test]
fn a_gate_that_has_stood_for_long_fails_anew() {
    let mut run = failing();
    run.apply(101, Event::Tick);
    run.apply(102, Event::GateProven(uid()));
    run.apply(103, Event::ProxyNotReady(uid()));
    assert!(run.is_closed());
    let actions = run.apply(40_000, failed("no descriptors", true));
    assert_eq!(tells_failure(&actions), Some(true));
    assert_eq!(run.machine.next_wakeup(), Some(at(40_100)));
}

#[test]
fn nobody_tries_for_a_pod_that_is_gone() {
    for event in [Event::PodCgroupGone(uid()), Event::PodDeleted(uid())] {
        let mut run = failing();
        run.apply(50, event);
        assert_eq!(run.machine.next_wakeup(), None);
        assert!(!proves(&run.apply(200, Event::GateProven(uid()))));
    }
}

#[test]
fn a_gate_that_failed_while_nothing_was_to_be_held_is_worked_again_afterwards() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let until = Some(at(5_000));
    run.apply(10, Event::Ordered { uid: uid(), order: Some(Order::Open { until }) });
    run.apply(10, failed("no such program", false));
    assert_eq!(run.machine.next_wakeup(), until);
    let actions = run.apply(5_000, Event::Tick);
    let asks = actions.iter().any(|action| matches!(action, Action::StartProbe { .. }));
    assert!(asks, "{actions:?}");
}

#[test]
fn a_gate_that_cannot_be_renewed_stands_and_is_renewed_soon() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let wanted = closes(&run.apply(20_000, held(20_000, 1)));
    assert_eq!(wanted, Some(at(80_000)));
    assert!(run.apply(20_001, not_renewed(60_000)).is_empty());
    assert!(run.is_closed());
    // A pod that makes many reports does not make as many trials.
    assert_eq!(closes(&run.apply(20_100, held(20_100, 2))), None);
    assert_eq!(run.machine.next_wakeup(), Some(at(20_251)));
    assert_eq!(closes(&run.apply(20_251, Event::Tick)), wanted);
    assert_eq!(run.machine.next_wakeup(), Some(at(80_000)));
}

#[test]
fn the_proxy_is_asked_on_while_a_gate_cannot_be_renewed() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(20_000, held(20_000, 1));
    run.apply(20_000, Event::ProxyNotReady(uid()));
    for trial in 0..20 {
        let now = 20_000 + 250 * trial;
        run.apply(now, not_renewed(60_000));
        let actions = run.apply(now + 250, Event::Tick);
        assert!(matches!(&actions[..], [Action::SetGate(set)] if set.renews), "{actions:?}");
    }
    // Nor is what it has said forgotten.
    assert_eq!(run.machine.pods[&uid()].probed, Some(false));
}

#[test]
fn a_guarding_gate_is_told_again_too() {
    let test = TestRules { guard: true, ..TestRules::default() };
    let mut run = Run::ruled(test, Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(1_000, Event::ProxyReady(uid()));
    run.apply(1_100, Event::Tick);
    run.apply(
        2_000,
        Event::GateNotRenewed { uid: uid(), error: "no memory".to_owned(), deadline: None },
    );
    let actions = run.apply(2_250, Event::Tick);
    assert!(matches!(&actions[..], [Action::SetGate(set)] if set.renews), "{actions:?}");
    assert_eq!(run.machine.next_wakeup(), None);
}

fn with_timeout(timeout: Duration) -> Run {
    let Rules { defaults, profiles, own_pod } = rules(TestRules::default());
    let choices = Choices { timeout: Some(timeout), ..Choices::default() };
    let rules = Rules { defaults: defaults.with(choices), profiles, own_pod };
    let mut run = Run { machine: Machine::new(rules), actions: Vec::new() };
    run.apply(0, Event::NamespacesListed(vec![namespace(Some("enabled"))]));
    run.apply(0, Event::PodsListed(vec![view()]));
    run.apply(0, found(false));
    run
}

#[test]
fn a_short_deadline_is_tried_again_before_it_passes() {
    let mut run = with_timeout(Duration::from_millis(400));
    run.apply(200, Event::Tick);
    assert_eq!(closes(&run.apply(200, counted(0))), Some(at(600)));
    run.apply(200, not_renewed(400));
    assert_eq!(run.machine.next_wakeup(), Some(at(250)));
    assert_eq!(closes(&run.apply(250, Event::Tick)), Some(at(400)));
    assert_eq!(closes(&run.apply(250, counted(0))), Some(at(650)));
    assert_eq!(run.machine.next_wakeup(), Some(at(450)));
}

#[test]
fn a_gate_that_is_never_renewed_is_known_to_open_when_the_kernel_opens_it() {
    for waits in [false, true] {
        let mut run = with_timeout(Duration::from_millis(400));
        let (mut now, mut wakeups) = (if waits { 100 } else { 200 }, 0);
        let mut events = vec![if waits { held(100, 1) } else { Event::Tick }];
        let reason = loop {
            let mut opened_for = None;
            while let Some(event) = events.pop() {
                let actions = run.apply(now, event);
                opened_for = opened_for.or(opened(&actions));
                for action in actions {
                    match action {
                        Action::CountGate { .. } => events.insert(0, counted(0)),
                        Action::SetGate(_) => events.insert(0, not_renewed(400)),
                        _ => {}
                    }
                }
            }
            if let Some(reason) = opened_for {
                break reason;
            }
            let due = run.machine.next_wakeup().expect("it is closed");
            now = due.0.div_ceil(1_000_000);
            events.push(Event::Tick);
            wakeups += 1;
            assert!(wakeups < 60, "at {now} ms");
        };
        assert_eq!((reason, now), (OpenReason::Deadline, 400));
    }
}

#[test]
fn a_verdict_that_could_not_be_written_is_written_again() {
    let passes = |actions: &[Action]| {
        actions.contains(&Action::SetVerdict { container: PROXY, verdict: Verdict::Pass })
    };
    let failed = || Event::VerdictFailed { uid: uid(), container: PROXY };
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    assert!(passes(&run.apply(1, container(PROXY, Some("istio-proxy")))));
    for (fails_at, again_at) in [(1, 101), (101, 301)] {
        assert!(run.apply(fails_at, failed()).is_empty());
        assert_eq!(run.machine.next_wakeup(), Some(at(again_at)));
        assert!(!passes(&run.apply(again_at - 1, Event::Tick)));
        assert!(passes(&run.apply(again_at, Event::Tick)));
    }
    assert!(!passes(&run.apply(302, Event::Tick)), "it is written now");
    assert!(run.machine.next_wakeup() > Some(at(1_000)), "and nothing is due for it");
}
