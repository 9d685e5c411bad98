use std::net::Ipv4Addr;

use super::*;
use crate::core::{
    Caller, Epoch, HeldConnect, History, Line, Mode, Monotonic, Noted, OpenReason, PodRef, PodUid,
    SocketCookie,
};

fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

/// A pod of the Deployment cart.
fn pod(number: u32) -> PodRef {
    let uid = PodUid::new(&format!("{number:08}-9d5c-4a53-9b1e-7a1f0c3d2e11"));
    let name = Some(PodName::new("shop", &format!("cart-{number}")));
    PodRef { uid, name, workload: Some(Workload::new("Deployment", "cart")) }
}

fn connect(cookie: u64, called_ms: u64) -> HeldConnect {
    HeldConnect {
        cookie: SocketCookie(cookie),
        container: Some("app".to_owned()),
        by_sentry: false,
        caller: Caller {
            container: None,
            pid: Some(7),
            uid: 0,
            comm: "curl".to_owned(),
            destination: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 80)),
            connect_at: at(called_ms),
            query: None,
        },
    }
}

fn closed(ms: u64, reason: CloseReason, enabled_by: Option<Origin>) -> Line {
    let observes = enabled_by.is_none();
    Line::GateClosed {
        at: at(ms),
        reason,
        profile: "istio".to_owned(),
        proxy: "istio-proxy".to_owned(),
        mode: if observes { Mode::Observe } else { Mode::Hold },
        enabled_by,
        observes,
        timeout: Duration::from_secs(60),
    }
}

fn ready(ms: u64) -> Line {
    Line::GateOpened { at: at(ms), reason: OpenReason::ProbeReady, held: 0, finding: None }
}

fn observed(cookie: u64, called_ms: u64, refused: bool) -> Line {
    Line::Observed { connect: connect(cookie, called_ms), refused }
}

fn tell(history: &mut History, number: u32, lines: &[(u64, Line)]) -> Vec<Noted> {
    lines.iter().map(|(ms, line)| history.record(&pod(number), line, at(*ms))).collect()
}

fn only(history: &History) -> WorkloadFacts {
    let workloads = history.workloads();
    assert_eq!(workloads.len(), 1, "{workloads:?}");
    workloads[0].clone()
}

#[test]
fn starts_of_all_pods_of_a_workload_add_up_and_outlive_them() {
    let mut history = History::new(Epoch::default());
    let noted = tell(
        &mut history,
        1,
        &[
            (0, closed(0, CloseReason::Start, None)),
            (100, observed(1, 100, true)),
            (200, observed(2, 200, true)),
            (2_900, observed(3, 2_900, false)),
        ],
    );
    assert!(noted.iter().all(|noted| noted.observes && noted.quiet));
    // What goes on counts already.
    let tally = only(&history).tally;
    assert_eq!((tally.starts, tally.failed, tally.too_early), (1, 2, 1));
    tell(&mut history, 1, &[(3_100, ready(3_100)), (3_130, Line::GateDetached)]);
    history.forget(&pod(1).uid, at(9_000));
    tell(
        &mut history,
        2,
        &[
            (10_000, closed(10_000, CloseReason::Start, None)),
            (10_900, ready(10_900)),
            (10_930, Line::GateDetached),
        ],
    );
    tell(
        &mut history,
        3,
        &[
            (20_000, closed(20_000, CloseReason::Start, None)),
            (20_500, observed(4, 20_500, true)),
            (21_500, ready(21_500)),
            (21_530, Line::GateDetached),
        ],
    );
    let facts = only(&history);
    assert_eq!(facts.workload, Workload::new("Deployment", "cart"));
    let expected =
        Tally { starts: 3, starts_with_failures: 2, failed: 3, too_early: 1, ..Tally::default() };
    assert_eq!(facts.tally, expected);
    assert_eq!(facts.enabled_by, None);
    assert_eq!(facts.ready_after, Some(Duration::from_secs(1)));
    assert_eq!(facts.ready_after_max, Some(Duration::from_secs(3)));
    let first = facts.first.unwrap();
    assert_eq!((first.destination.port(), first.comm.as_str()), (80, "curl"));
    assert_eq!(first.at, Stamp::new(Duration::from_millis(100)));
    // A start at which nobody came too early is a number, no story.
    assert_eq!(history.episodes().count(), 2);
}

#[test]
fn what_is_held_counts_as_saved_when_it_is_connected() {
    let mut history = History::new(Epoch::default());
    let released = |cookie, outcome| Line::Released {
        connect: connect(cookie, 100),
        waited: Duration::from_millis(900),
        outcome,
    };
    tell(
        &mut history,
        1,
        &[
            (0, closed(0, CloseReason::Start, Some(Origin::Namespace))),
            (100, Line::Held(connect(1, 100))),
            (100, Line::Held(connect(2, 100))),
            (1_000, ready(1_000)),
            (1_001, released(1, Outcome::Connected)),
            (1_002, Line::GateDetached),
        ],
    );
    assert_eq!(only(&history).tally.saved, 1);
    // Read after the end of what it is about.
    tell(&mut history, 1, &[(1_003, released(2, Outcome::Refused))]);
    let facts = only(&history);
    let expected = Tally {
        starts: 1,
        starts_with_failures: 1,
        failed: 1,
        held: 2,
        saved: 1,
        ..Tally::default()
    };
    assert_eq!((facts.tally, facts.enabled_by), (expected, Some(Origin::Namespace)));
}

#[test]
fn a_death_is_no_start_and_its_failures_count() {
    let mut history = History::new(Epoch::default());
    tell(
        &mut history,
        1,
        &[
            (0, closed(0, CloseReason::ProxyDied, None)),
            (100, observed(1, 100, true)),
            (900, ready(900)),
            (930, Line::GateDetached),
        ],
    );
    let Tally { starts, starts_with_failures, failed, .. } = only(&history).tally;
    assert_eq!((starts, starts_with_failures, failed), (0, 0, 1));
}

#[test]
fn a_pod_of_which_nobody_has_told_is_nobodys() {
    let mut history = History::new(Epoch::default());
    let unknown = Line::GateClosed {
        at: at(0),
        reason: CloseReason::Start,
        profile: String::new(),
        proxy: String::new(),
        mode: Mode::Hold,
        enabled_by: None,
        observes: false,
        timeout: Duration::from_secs(60),
    };
    tell(&mut history, 1, &[(0, unknown), (5, Line::Held(connect(1, 5)))]);
    assert_eq!(history.workloads(), []);
}

#[test]
fn the_workloads_are_bounded_and_the_oldest_go_first() {
    let mut history = History::new(Epoch::default());
    for number in 0..3_000_u32 {
        let name = PodName::new("shop", &format!("job-{number}"));
        let pod = PodRef::new(pod(number).uid, Some(name));
        let now = u64::from(number);
        history.record(&pod, &closed(now, CloseReason::Start, None), at(now));
        history.record(&pod, &Line::GateDetached, at(now));
    }
    let workloads = history.workloads();
    assert_eq!(workloads.len(), MAX_WORKLOADS);
    let oldest = workloads.iter().map(|facts| facts.last_seen).min();
    assert_eq!(oldest, Some(Stamp::new(Duration::from_millis(2_000))));
    // A pod without a controller stands for itself.
    assert!(workloads.iter().any(|facts| facts.workload == Workload::new("Pod", "job-2999")));
}

#[test]
fn the_facts_can_be_read_again_from_json() {
    let mut history = History::new(Epoch::default());
    tell(
        &mut history,
        1,
        &[
            (0, closed(0, CloseReason::Start, None)),
            (100, observed(1, 100, true)),
            (1_100, ready(1_100)),
        ],
    );
    let facts = only(&history);
    let json = serde_json::to_value(&facts).unwrap();
    assert_eq!((&json["failed"], &json["ready_after_ms"]), (&1.into(), &1000.0.into()));
    assert_eq!(serde_json::from_value::<WorkloadFacts>(json).unwrap(), facts);
}
