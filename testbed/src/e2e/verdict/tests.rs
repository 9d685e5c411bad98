use testpod::End;

use super::*;
use crate::e2e::{Place, cases};

/// Milliseconds, in nanoseconds.
const MS: u64 = 1_000_000;

fn record(ms: u64, event: Event) -> Record {
    Record { mono_ns: ms * MS, wall: String::new(), event }
}

fn attempt(start: u64, end: u64, outcome: &str) -> Record {
    let status = (outcome == Attempt::CONNECTED).then_some(200);
    let (start_ns, end_ns) = (start * MS, end * MS);
    let outcome = outcome.to_owned();
    record(end, Event::Attempt(Attempt { number: 1, start_ns, end_ns, outcome, status }))
}

fn connected(start: u64, end: u64) -> Record {
    attempt(start, end, Attempt::CONNECTED)
}

fn refusal(start: u64, end: u64) -> Record {
    attempt(start, end, Attempt::REFUSED)
}

fn unanswered(start: u64, end: u64, status: Option<u16>) -> Record {
    let mut record = connected(start, end);
    if let Event::Attempt(attempt) = &mut record.event {
        attempt.status = status;
    }
    record
}

fn proxy_ready(ms: u64) -> Record {
    record(ms, Event::ProxyReady)
}

fn proxy_died(ms: u64) -> Record {
    record(ms, Event::ProxyEnded { reason: End::DieAfter })
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

/// The rows of a case, by what was seen.
fn rows(name: &str, seen: &Observation) -> Vec<(String, bool)> {
    judge(&case(name), seen).into_iter().map(|row| (row.seen, row.ok)).collect()
}

/// Asserts that the only row of a case holds, and gives its milliseconds.
fn holds(name: &str, seen: &Observation) -> Option<f64> {
    let rows = judge(&case(name), seen);
    assert!(rows.iter().all(|row| row.ok), "{rows:?}");
    assert_eq!(rows.len(), 1);
    rows[0].after_ms
}

/// Asserts that the only row of a case does not hold, for this reason.
fn fails(name: &str, seen: &Observation, reason: &str) {
    assert_eq!(rows(name, seen), [(reason.to_owned(), false)], "{name}");
}

fn held_until_3000() -> Observation {
    Observation {
        proxy: vec![proxy_ready(3_000)],
        client: vec![connected(100, 3_002)],
        ..Observation::default()
    }
}

#[test]
fn every_case_has_a_verdict_on_nothing_at_all_and_it_is_no() {
    for case in cases() {
        let rows = judge(&case, &Observation::default());
        assert_eq!(rows.len(), case.rows().len());
        assert!(rows.iter().all(|row| !row.ok && row.after_ms.is_none()), "{rows:?}");
    }
}

#[test]
fn a_hold_is_a_first_connect_that_begins_before_readiness_and_ends_soon_after_it() {
    assert_eq!(holds("classic-sidecar", &held_until_3000()), Some(2.0));
    let with = |client: Vec<Record>| Observation { client, ..held_until_3000() };
    let timed_out = attempt(0, 60_000, "ETIMEDOUT");
    for (client, reason) in [
        (vec![refusal(100, 101)], "ECONNREFUSED in 1.0 ms"),
        (vec![timed_out], "ETIMEDOUT after 60.00 s"),
        (vec![connected(3_001, 3_002)], "began after the proxy was ready: shows nothing"),
        (vec![connected(100, 2_999)], "connected before the proxy was ready"),
        (vec![connected(100, 3_500)], "only after 500 ms"),
        (vec![unanswered(100, 3_002, None)], "connected, and not answered"),
        (vec![unanswered(100, 3_002, Some(503))], "connected, and answered with 503"),
        (vec![connected(100, 3_002), refusal(3_500, 3_501)], "1 of the later connects failed"),
    ] {
        fails("classic-sidecar", &with(client), reason);
    }
    let never = Observation { proxy: Vec::new(), ..held_until_3000() };
    fails("classic-sidecar", &never, "connected, and the proxy was never ready");
    let trouble = Some("pod is Pending".to_owned());
    let nothing = Observation { trouble, ..Observation::default() };
    fails("classic-sidecar", &nothing, "no connect came to an end: pod is Pending");
}

#[test]
fn a_job_has_to_succeed_as_well() {
    let with = |job_succeeded| Observation { job_succeeded, ..held_until_3000() };
    assert_eq!(holds("job", &with(Some(true))), Some(2.0));
    let waited = "connected, waited 2.90 s";
    fails("job", &with(Some(false)), &format!("{waited}; the Job failed"));
    fails("job", &with(None), &format!("{waited}; the Job has not ended"));
    let refused = Observation { client: vec![refusal(1, 2)], ..with(Some(true)) };
    fails("job", &refused, "ECONNREFUSED in 1.0 ms");
}

#[test]
fn an_application_behind_its_proxy_starts_after_readiness_and_does_not_wait() {
    let with = |record| Observation { client: vec![record], ..held_until_3000() };
    assert_eq!(holds("native-sidecar", &with(connected(3_900, 3_901))), Some(901.0));
    for (record, reason) in [
        (connected(2_999, 3_001), "was started before its proxy was ready"),
        (connected(3_100, 5_600), "connected, but waited 2.50 s"),
        (refusal(3_100, 3_101), "ECONNREFUSED in 1.0 ms"),
        (unanswered(3_100, 3_101, None), "connected, and not answered"),
    ] {
        fails("poststart-sidecar", &with(record), reason);
    }
}

#[test]
fn who_is_not_held_is_refused_at_once() {
    for name in ["opted-out", "not-enabled"] {
        let with = |record| Observation { client: vec![record], ..held_until_3000() };
        assert_eq!(holds(name, &with(refusal(100, 130))), None);
        fails(name, &with(connected(100, 3_002)), "connected after 2.90 s");
        fails(name, &with(refusal(100, 2_200)), "refused, but only after 2.10 s");
        fails(name, &with(attempt(0, 9_000, "ETIMEDOUT")), "ETIMEDOUT after 9.00 s");
    }
    assert_eq!(case("not-enabled").place, Place::NotEnabled);
}

#[test]
fn an_init_container_passes_an_event_tells_and_the_application_waits() {
    let seen = Observation {
        init: vec![refusal(10, 12)],
        events: vec!["Pulled".to_owned(), INIT_EVENT.to_owned()],
        ..held_until_3000()
    };
    assert_eq!(holds("init-container", &seen), Some(2.0));
    let untold = Observation { events: vec!["Pulled".to_owned()], ..seen.clone() };
    let reason = "refused in 2.0 ms, without an Event InitContainerNeedsProxy";
    fails("init-container", &untold, reason);
    let waited = Observation { init: vec![refusal(0, 60_000)], ..seen.clone() };
    fails("init-container", &waited, "init container: ECONNREFUSED after 60.00 s");
    let none = Observation { init: Vec::new(), ..seen.clone() };
    fails("init-container", &none, "the init container did not connect");
    let refused = Observation { client: vec![refusal(100, 101)], ..seen };
    fails("init-container", &refused, "ECONNREFUSED in 1.0 ms");
}

fn restarted(client: Vec<Record>) -> Observation {
    let proxy = vec![proxy_ready(3_000), proxy_died(5_000), proxy_ready(9_000)];
    Observation { proxy, client, ..Observation::default() }
}

#[test]
fn who_connects_while_the_proxy_is_away_waits_for_its_successor() {
    let good = [connected(100, 3_002), connected(5_200, 9_003), connected(9_300, 9_301)];
    for name in ["proxy-restart", "proxy-restart-guarded"] {
        assert_eq!(holds(name, &restarted(good.to_vec())), Some(3.0));
        let with =
            |records: Vec<Record>| restarted([vec![connected(100, 3_002)], records].concat());
        for (records, reason) in [
            (
                vec![connected(9_300, 9_301)],
                "nobody connected while the proxy was away: shows nothing",
            ),
            (vec![connected(5_200, 8_000)], "connected before the proxy was back"),
            (vec![connected(5_200, 9_600)], "only after 600 ms"),
            (vec![connected(5_200, 9_003)], "nobody connected after the proxy was back"),
            (
                vec![connected(5_200, 9_003), refusal(9_100, 9_101)],
                "ECONNREFUSED in 1.0 ms 4100 ms after the proxy's death",
            ),
            (
                vec![refusal(6_100, 6_101), connected(6_300, 9_003)],
                "ECONNREFUSED in 1.0 ms 1100 ms after the proxy's death",
            ),
            (vec![unanswered(5_200, 9_003, None)], "connected, and not answered"),
        ] {
            fails(name, &with(records), reason);
        }
        let once = Observation { proxy: vec![proxy_ready(3_000)], ..restarted(good.to_vec()) };
        fails(name, &once, "the proxy was ready 1 times");
    }
}

#[test]
fn only_without_the_guard_the_first_moment_of_a_death_is_excused() {
    let mut client = vec![connected(100, 3_002), refusal(5_001, 5_002)];
    client.extend([connected(5_200, 9_003), connected(9_300, 9_301)]);
    assert_eq!(holds("proxy-restart", &restarted(client.clone())), Some(3.0));
    let reason = "ECONNREFUSED in 1.0 ms 1 ms after the proxy's death";
    fails("proxy-restart-guarded", &restarted(client), reason);
}

#[test]
fn a_label_holds_from_when_it_is_set_until_it_is_removed() {
    let seen = |client: Vec<Record>| Observation {
        client,
        label: Some(LabelTimes {
            set_ns: 1_000 * MS,
            removed_ns: 5_000 * MS,
            early: Duration::ZERO,
        }),
        ..Observation::default()
    };
    let good = [refusal(900, 901), refusal(1_001, 1_002), refusal_held(), refusal(5_200, 5_201)];
    let rows_of = |client: Vec<Record>| rows("labelled", &seen(client));
    assert_eq!(
        rows_of(good.to_vec()),
        [("waits from 102 ms on".to_owned(), true), ("let go after 4 ms".to_owned(), true)]
    );
    // What a log's way may explain is not held against the label.
    let slow = [refusal(900, 901), refusal(2_500, 7_900), refusal(8_000, 8_001)];
    let read_late = |early: Duration| {
        let observation = seen(slow.to_vec());
        let label = observation.label.map(|label| LabelTimes { early, ..label });
        let rows = rows("labelled", &Observation { label, ..observation });
        rows.into_iter().map(|(_, ok)| ok).collect::<Vec<_>>()
    };
    assert_eq!(read_late(Duration::ZERO), [false, false]);
    assert_eq!(read_late(Duration::from_secs(2)), [true, true]);
    let nothing = "nobody was refused before the label was set: shows nothing";
    assert_eq!(
        rows_of(good[1..].to_vec()),
        [(nothing.to_owned(), false), (nothing.to_owned(), false)]
    );
    let first = |client: Vec<Record>| rows_of([vec![refusal(900, 901)], client].concat());
    for (client, set, removed) in [
        (vec![refusal(1_001, 1_002)], Err("nobody waited"), Err("nobody waited")),
        (
            vec![refusal(4_500, 6_000), refusal(7_000, 7_001)],
            Err("only after 3500 ms"),
            Ok("let go after 1000 ms"),
        ),
        (
            vec![refusal(950, 5_004), refusal(5_200, 5_201)],
            Err("waited before the label was set"),
            Ok("let go after 4 ms"),
        ),
        (
            vec![refusal(1_102, 4_000)],
            Ok("waits from 102 ms on"),
            Err("ECONNREFUSED after 2.90 s before the label was removed"),
        ),
        (vec![connected(1_102, 5_004)], Ok("waits from 102 ms on"), Err("connected after 3.90 s")),
        (vec![refusal(1_102, 9_000)], Ok("waits from 102 ms on"), Err("only after 4000 ms")),
        (vec![refusal_held()], Ok("waits from 102 ms on"), Err("nobody connected afterwards")),
        (
            vec![refusal_held(), refusal(5_200, 7_200)],
            Ok("waits from 102 ms on"),
            Err("afterwards one still waited 2.00 s"),
        ),
    ] {
        let row = |verdict: Result<&str, &str>| match verdict {
            Ok(text) => (text.to_owned(), true),
            Err(text) => (text.to_owned(), false),
        };
        assert_eq!(first(client), [row(set), row(removed)]);
    }
}

/// Waits from just after the label is set until just after it is removed.
fn refusal_held() -> Record {
    refusal(1_102, 5_004)
}
