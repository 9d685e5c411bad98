use super::*;
use crate::core::{
    Caller, Epoch, HeldConnect, History, Mode, Monotonic, Origin, PodName, PodUid, SocketCookie,
};

const fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

fn pod() -> PodRef {
    PodRef::new(PodUid::new("4d0b6cfa"), Some(PodName::new("shop", "cart")))
}

fn closed(ms: u64) -> Line {
    Line::GateClosed {
        at: at(ms),
        reason: CloseReason::NotReady,
        profile: "istio".to_owned(),
        proxy: "istio-proxy".to_owned(),
        mode: Mode::Hold,
        enabled_by: Some(Origin::Namespace),
        observes: false,
        timeout: Duration::from_secs(60),
    }
}

fn connect(called_ms: u64, comm: &str, by_sentry: bool) -> HeldConnect {
    HeldConnect {
        cookie: SocketCookie(1),
        container: Some("app".to_owned()),
        by_sentry,
        caller: Caller {
            container: None,
            pid: None,
            uid: 0,
            comm: comm.to_owned(),
            destination: ([127, 0, 0, 1], 15_001).into(),
            connect_at: at(called_ms),
            query: None,
        },
    }
}

/// What an Event says when the lines have been told at these instants.
fn notes(lines: Vec<(u64, Line)>) -> Vec<String> {
    let mut history = History::new(Epoch::default());
    let told = lines.into_iter().flat_map(|(ms, line)| {
        let noted = history.record(&pod(), &line, at(ms));
        let now = history.epoch().stamp(at(ms));
        let of_line = of_line(&line, &noted, history.running(&pod().uid), now);
        let of_end = noted.ended.as_deref().and_then(released);
        of_line.into_iter().chain(of_end).map(|notice| notice.note).collect::<Vec<_>>()
    });
    told.collect()
}

fn opened(ms: u64) -> Line {
    Line::GateOpened { at: at(ms), reason: OpenReason::ProbeReady, held: 1, finding: None }
}

fn connected(connect: HeldConnect, waited_ms: u64) -> Line {
    let waited = Duration::from_millis(waited_ms);
    Line::Released { connect, waited, outcome: Outcome::Connected }
}

#[test]
fn who_begins_to_wait_has_all_of_its_time() {
    let connect = || connect(10_100, "cart", false);
    let told = notes(vec![
        (10_000, closed(10_000)),
        (10_101, Line::Held(connect())),
        (14_000, opened(14_000)),
        (14_001, connected(connect(), 3_901)),
        (14_010, Line::GateDetached),
    ]);
    let expected = [
        "app (cart) connects to 127.0.0.1:15001 before istio-proxy is ready; it waits, for 60.0 s at most",
        "1 connection, longest 3.90 s; istio-proxy ready after 4.00 s",
    ];
    assert_eq!(told, expected);
}

#[test]
fn who_waited_at_the_sentry_is_told_of_with_what_has_passed_and_without_a_name() {
    let connect = || connect(200, "", true);
    let told = notes(vec![
        (10_000, closed(10_000)),
        (10_200, Line::Held(connect())),
        (25_800, opened(25_800)),
        (25_810, connected(connect(), 25_610)),
        (25_820, Line::GateDetached),
    ]);
    let expected = [
        "app connects to 127.0.0.1:15001 before istio-proxy is ready; it has waited for 10.0 s, until \
         now at the sentry, and does for 50.0 s more at most",
        "1 connection, longest 25.6 s; istio-proxy ready 25.6 s after the first of them, which the \
         sentry held until the agent came",
    ];
    assert_eq!(told, expected);
}

#[test]
fn who_has_waited_while_the_pod_was_not_known_is_told_what_is_left() {
    let unknown = |line| match line {
        Line::GateClosed { at, reason, profile, proxy, mode, observes, timeout, .. } => {
            Line::GateClosed {
                at,
                reason,
                profile,
                proxy,
                mode,
                enabled_by: None,
                observes,
                timeout,
            }
        }
        line => line,
    };
    let told = notes(vec![
        (0, unknown(closed(0))),
        (100, Line::Held(connect(100, "cart", false))),
        (20_100, closed(0)),
    ]);
    let expected = "app (cart) connects to 127.0.0.1:15001 before istio-proxy is ready; it has waited \
                    for 20.0 s, and does for 40.0 s more at most";
    assert_eq!(told, [expected]);
}
