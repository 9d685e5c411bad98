//! What the probe has found is told, and nothing follows from it.

use super::*;
use crate::core::{Finding, RefuseErrno};

fn probe_found(finding: Finding) -> Event {
    Event::ProbeFound { uid: uid(), finding }
}

fn unavailable() -> Finding {
    let check = ReadyCheck::Http { port: 15021, path: "/healthz/ready".to_owned() };
    Finding::Answered { check, status: 503 }
}

/// The finding of the line that tells the end of the closing.
fn told(actions: &[Action]) -> Option<Option<Finding>> {
    actions.iter().find_map(|action| match action {
        Action::Log(
            _,
            Line::GateOpened { finding, .. } | Line::DeadlineRefuses { finding, .. },
        ) => Some(finding.clone()),
        _ => None,
    })
}

#[test]
fn a_passed_deadline_tells_what_the_probe_found_last() {
    for refuse in [false, true] {
        let test = TestRules { refuse, ..TestRules::default() };
        let mut run = Run::ruled(test, Some("enabled"), vec![view()]);
        run.apply(0, found(false));
        run.apply(100, held(100, 1));
        let nobody = Finding::NobodyListens { ports: vec![15001] };
        assert!(run.apply(110, probe_found(nobody)).is_empty());
        assert!(run.apply(9_000, probe_found(unavailable())).is_empty());
        let actions = run.apply(60_100, Event::Tick);
        assert_eq!(told(&actions), Some(Some(unavailable())), "{actions:?}");
    }
}

#[test]
fn a_probe_that_starts_anew_has_found_nothing_yet() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    run.apply(100, held(100, 1));
    run.apply(110, probe_found(unavailable()));
    // Another setting: the probe is another one.
    let mut changed = view();
    changed.annotations.insert("holdfast.dev/ready".to_owned(), "tcp://:15001".to_owned());
    let actions = run.apply(200, Event::PodApplied(changed));
    assert!(actions.iter().any(|action| matches!(action, Action::StartProbe { .. })));
    assert_eq!(told(&run.apply(60_100, Event::Tick)), Some(None));
}

#[test]
fn the_check_that_opened_the_gate_is_told() {
    let mut run = Run::listed(Some("enabled"), vec![view()]);
    run.apply(0, found(false));
    let ready = Finding::Ready { check: ReadyCheck::Tcp { port: 15001 } };
    assert!(run.apply(100, probe_found(ready.clone())).is_empty());
    let actions = run.apply(100, Event::ProxyReady(uid()));
    assert_eq!(opened(&actions), Some(OpenReason::ProbeReady));
    assert_eq!(told(&actions), Some(Some(ready)));
}

#[test]
fn a_refusal_tells_its_errno_where_the_setting_has_a_say() {
    let mut view = view();
    for (key, value) in [("mode", "refuse"), ("errno", "EAGAIN")] {
        view.annotations.insert(format!("holdfast.dev/{key}"), value.to_owned());
    }
    let mut run = Run::listed(Some("enabled"), vec![view]);
    run.apply(0, found(false));
    let mut errno_of = |ms, caller| {
        let actions = run.apply(ms, kernel(ms, ms, KernelEventKind::Refused(caller)));
        let told = actions.iter().find_map(|action| match action {
            Action::Log(_, Line::Refused { errno, .. }) => Some(*errno),
            _ => None,
        });
        told.unwrap_or_else(|| panic!("{actions:?}"))
    };
    // The hook refuses in the moment of the call, a SYN comes after it, or of nobody known.
    assert_eq!(errno_of(100, caller(100)), Some(RefuseErrno::Again));
    assert_eq!(errno_of(201, caller(200)), None);
    assert_eq!(errno_of(300, Caller { pid: None, ..caller(300) }), None);
}
