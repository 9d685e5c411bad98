//! The operator's orders.

use super::*;
use crate::core::{OrderRefusal, PodState};

fn close(until: u64) -> Option<Order> {
    Some(Order::Closed { until: at(until) })
}

fn order(order: Option<Order>) -> Event {
    Event::Ordered { uid: uid(), order }
}

fn report(run: &Run) -> crate::core::PodReport {
    run.machine.report_of(&uid(), crate::core::Epoch::default()).unwrap()
}

#[test]
fn an_order_to_open_ends_with_its_time_and_the_facts_decide_again() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(5, held(5, 1));
    let actions = run.apply(10, order(Some(Order::Open { until: Some(at(5_000)) })));
    assert_eq!(opened(&actions), Some(OpenReason::Exempt(Exemption::Operator)));
    // What waited goes on, and the programs come off.
    run.apply(4_000, Event::Tick);
    assert_eq!(report(&run).state, PodState::Exempt);
    assert_eq!(run.machine.next_wakeup(), Some(at(5_000)));
    // It has run without a gate: its proxy is asked first.
    run.apply(5_000, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::Checking));
    assert_eq!(report(&run).order, None);
    // Without a time it stands.
    run.apply(5_010, order(Some(Order::Open { until: None })));
    run.apply(50_000, Event::Tick);
    assert_eq!(report(&run).exemption, Some(Exemption::Operator));
}

#[test]
fn only_what_can_be_held_can_be_closed_and_the_reason_is_told() {
    let mut run = Run::listed(None, vec![view()]);
    run.apply(0, found(false));
    let refused = run.machine.may_order(&uid(), close(60_000)).unwrap_err();
    assert_eq!(refused, OrderRefusal::Exempt(Exemption::NotEnabled));
    assert_eq!(
        refused.to_string(),
        "its gate cannot be closed: not enabled; label it or its namespace holdfast.dev/hold=enabled"
    );
    // To open is to wish for what is, and to take back is always possible.
    for wish in [Some(Order::Open { until: None }), None] {
        assert_eq!(run.machine.may_order(&uid(), wish), Ok(()));
    }
    // His own order to open is no reason not to close.
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(10, order(Some(Order::Open { until: None })));
    run.apply(5_000, Event::Tick);
    assert_eq!(run.machine.may_order(&uid(), close(60_000)), Ok(()));
    let actions = run.apply(6_000, order(close(60_000)));
    assert_eq!(reason(&actions), Some(CloseReason::Operator));
    assert_eq!(closes(&actions), Some(at(66_000)));
}

#[test]
fn who_waits_already_waits_as_long_as_the_order_says() {
    for (until, first) in [(120_000, 5), (10_000, 5)] {
        let mut run = Run::listed(Some("enabled"), vec![view()]);
        run.apply(0, found(false));
        run.apply(first, held(first, 1));
        let actions = run.apply(10, order(close(until)));
        // The hold itself goes on to 60.005 s, and the kernel knows.
        let longer = (until > 60_005).then(|| at(until));
        assert_eq!(closes(&actions), longer, "{until}");
        // Ready or not.
        assert_eq!(opened(&run.apply(20, Event::ProxyReady(uid()))), None);
        assert_eq!(opened(&run.apply(until - 1, Event::Tick)), None);
        assert_eq!(opened(&run.apply(until, Event::Tick)), Some(OpenReason::ProbeReady));
    }
    // The proxy is not ready: the facts' own deadline has long passed.
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(5, held(5, 1));
    run.apply(10, order(close(120_000)));
    assert_eq!(opened(&run.apply(120_000, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn between_an_order_and_the_hold_that_goes_on_the_gate_is_never_open() {
    for waits in [true, false] {
        let mut run = Run::listed(Some("enabled"), vec![view()]);
        run.apply(0, found(false));
        if waits {
            run.apply(5, held(5, 1));
        }
        let mut kernel = at(60_000);
        kernel = closes(&run.apply(10, order(close(10_000)))).unwrap_or(kernel);
        for ms in (1_000..=12_000).step_by(500) {
            assert!(kernel > at(ms), "{waits}: the kernel opens at {kernel:?}, at {ms}");
            let actions = run.apply(ms, Event::Tick);
            assert_eq!(opened(&actions), None, "{waits} {ms}");
            kernel = closes(&actions).unwrap_or(kernel);
        }
    }
}

#[test]
fn what_stays_closed_after_an_order_stays_so_for_a_reason_of_its_own() {
    // The time of this pod was up before the operator closed its gate.
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(5, held(5, 1));
    run.apply(60_005, Event::Tick);
    run.apply(70_000, Event::Tick);
    assert_eq!(report(&run).state, PodState::GivenUp);
    run.apply(80_000, order(close(83_000)));
    assert_eq!(report(&run).closed_for, Some(CloseReason::Operator));
    run.apply(80_100, Event::ProxyNotReady(uid()));
    assert_eq!(report(&run).closed_for, Some(CloseReason::Operator));
    let actions = run.apply(83_000, Event::Tick);
    assert_eq!(reason(&actions), Some(CloseReason::NotReady));
    assert_eq!(report(&run).closed_for, Some(CloseReason::NotReady));
    // Nor is there an order for the agent after this one.
    run.apply(83_100, held(83_050, 2));
    assert_eq!(opened(&run.apply(143_050, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn an_order_taken_back_leaves_the_hold_that_the_facts_ask_for() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(5, held(5, 1));
    run.apply(10, order(close(120_000)));
    let actions = run.apply(20, order(None));
    assert_eq!(closes(&actions), Some(at(60_005)));
    assert_eq!(opened(&run.apply(60_005, Event::Tick)), Some(OpenReason::Deadline));
}

#[test]
fn a_gate_that_refuses_holds_when_it_is_ordered_to() {
    let mut annotated = view();
    annotated.annotations.insert("holdfast.dev/on-timeout".to_owned(), "refuse".to_owned());
    let mut run = Run::listed(Some("enabled"), vec![annotated]);
    run.apply(0, found(false));
    run.apply(5, held(5, 1));
    run.apply(60_005, Event::Tick);
    assert_eq!(report(&run).state, PodState::Refusing);
    let actions = run.apply(61_000, order(close(70_000)));
    assert_eq!(reason(&actions), Some(CloseReason::Operator));
    assert_eq!(report(&run).state, PodState::Closed);
    run.apply(70_000, Event::Tick);
    assert_eq!(report(&run).state, PodState::Refusing);
}

#[test]
fn a_failed_gate_is_tried_again_when_the_facts_are_to_decide() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(10, failed("no such program type", false));
    assert_eq!(run.gate(), Some(GatePhase::Failed { retry_at: None }));
    run.apply(20, Event::Tick);
    assert_eq!(run.gate(), Some(GatePhase::Failed { retry_at: None }));
    assert_eq!(run.machine.may_order(&uid(), close(60_000)), Err(OrderRefusal::Failed));
    // Never start by holding what may work.
    let actions = run.apply(30, order(None));
    assert_eq!(run.gate(), Some(GatePhase::Checking));
    assert!(actions.iter().any(|action| matches!(action, Action::StartProbe { .. })));
    let actions = run.apply(40, Event::ProxyNotReady(uid()));
    assert_eq!(reason(&actions), Some(CloseReason::NotReady));
}
