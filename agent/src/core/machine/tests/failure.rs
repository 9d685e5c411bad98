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
fn a_gate_that_cannot_be_renewed_stands_and_is_renewed_soon() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let wanted = closes(&run.apply(20_000, held(20_000, 1)));
    assert_eq!(wanted, Some(at(80_000)));
    assert!(run.apply(20_001, not_renewed()).is_empty());
    assert!(run.is_closed());
    // A pod that makes many reports does not make as many trials.
    assert_eq!(closes(&run.apply(20_100, held(20_100, 2))), None);
    assert_eq!(run.machine.next_wakeup(), Some(at(20_251)));
    assert_eq!(closes(&run.apply(20_251, Event::Tick)), wanted);
    assert_eq!(run.machine.next_wakeup(), Some(at(80_000)));
}
