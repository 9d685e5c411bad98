//! Instants become places.

use serde_json::json;

use super::*;

const ALL: Detail = Detail { containers: 32, connects: 64 };

fn at(millis: i64) -> Stamp {
    let start = Stamp::new(Duration::from_secs(1_790_000_000));
    let offset = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 { start - offset } else { start + offset }
}

/// A gate that closed at 0, opened at 1000 and was off at 1020, with one connect from 100.
fn episode(changes: &serde_json::Value) -> Episode {
    let mut episode = json!({
        "id": 1, "pod_uid": "u", "namespace": "shop", "pod": "cart", "workload": null,
        "reason": "start", "profile": "istio", "proxy": "istio-proxy", "mode": "hold",
        "enabled_by": "pod", "timeout_ms": 60_000, "closed_at": at(0),
        "containers": [{
            "name": "istio-proxy", "role": "app", "is_proxy": true,
            "started_at": at(500), "ended_at": null,
        }],
        "connects": [connect(100, Some(1_002), "held", Some("connected"))],
        "first_connect_at": at(100), "held": 1, "refused": 0, "observed": 0,
        "observed_refused": 0, "outcomes": { "connected": 1 }, "longest_ms": 902, "refuses_at": null,
        "opened_at": at(1_000), "open_reason": "probe-ready", "ended_at": at(1_020),
        "finding": null, "guards": false, "error": null,
    });
    for (key, value) in changes.as_object().unwrap() {
        episode[key] = value.clone();
    }
    serde_json::from_value(episode).unwrap()
}

fn connect(from: i64, until: Option<i64>, fate: &str, outcome: Option<&str>) -> serde_json::Value {
    json!({
        "cookie": 1, "query": null, "container": "app", "comm": "curl", "pid": 7, "uid": 0,
        "destination": "10.0.0.1:80", "fate": fate, "called_at": at(from),
        "ended_at": until.map(at), "outcome": outcome,
    })
}

fn of(changes: &serde_json::Value) -> Timeline {
    Timeline::new(&episode(changes), at(1_500), ALL)
}

/// Shares are compared as the picture has them.
fn close_to(share: f64, expected: f64) -> bool {
    (share - expected).abs() < 0.01
}

#[test]
fn bars_and_flags_stand_where_their_instants_are() {
    let Timeline { rows, flags, ticks, .. } = of(&json!({}));
    // 1020 ms and a twelfth of room.
    let share = |millis: f64| millis / 1_105.0 * 100.0;
    let [proxy, connect] = rows.as_slice() else { panic!("{rows:?}") };
    assert!(close_to(proxy.from, share(500.0)) && close_to(proxy.to, share(1_020.0)), "{proxy:?}");
    assert!(close_to(connect.from, share(100.0)) && close_to(connect.to, share(1_002.0)));
    assert_eq!((proxy.kind, connect.kind), (Kind::Proxy, Kind::Released));
    assert_eq!(connect.label.replace('\u{a0}', " "), "902 ms");
    assert_eq!(connect.detail, "curl · app · pid 7 · uid 0");
    let [closed, ready] = flags.as_slice() else { panic!("{flags:?}") };
    assert!(close_to(closed.at, 0.0) && close_to(ready.at, share(1_000.0)), "{flags:?}");
    assert_eq!((closed.lane, ready.lane, ready.mark), (0, 0, Mark::Ready));
    let labels: Vec<&str> = ticks.iter().map(|tick| tick.label.as_str()).collect();
    assert_eq!(labels, ["0", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1.0 s"]);
}

#[test]
fn what_goes_on_ends_now() {
    let timeline = of(&json!({
        "opened_at": null, "open_reason": null, "ended_at": null,
        "connects": [connect(100, None, "held", None)],
    }));
    let [_, connect] = timeline.rows.as_slice() else { panic!("{timeline:?}") };
    assert!(connect.goes_on && connect.kind == Kind::Waiting);
    assert!(close_to(connect.to, 1_500.0 / 1_625.0 * 100.0), "{connect:?}");
    assert_eq!(connect.label.replace('\u{a0}', " "), "1.40 s");
    assert_eq!(connect.detail, "curl · waits · app · pid 7 · uid 0");
    assert_eq!(timeline.flags.len(), 1);
}

#[test]
fn what_began_long_before_is_cut() {
    let timeline = of(&json!({ "containers": [{
        "name": "app", "role": "app", "is_proxy": false,
        "started_at": at(-86_400_000), "ended_at": null,
    }]}));
    assert!(close_to(timeline.rows[0].from, 0.0), "{timeline:?}");
    assert_eq!(timeline.rows[0].label, "runs");
    // Half a second before the closing, of 1520 ms and a twelfth.
    assert!(
        close_to(timeline.flags[0].at, 500.0 / (1_520.0 * 13.0 / 12.0) * 100.0),
        "{timeline:?}"
    );
}

#[test]
fn each_end_has_its_kind() {
    for (fate, outcome, kind) in [
        ("held", Some("connected"), Kind::Released),
        ("held", Some("query-sent"), Kind::Released),
        ("held", Some("still-connecting"), Kind::Waiting),
        ("held", None, Kind::Waiting),
        ("held", Some("refused"), Kind::Failed),
        ("held", Some("timed-out"), Kind::Failed),
        ("held", Some("closed-by-application"), Kind::Failed),
        ("held", Some("query-expired"), Kind::Failed),
        ("refused", None, Kind::Refused),
        ("observed", None, Kind::Observed),
    ] {
        let timeline = of(&json!({ "connects": [connect(10, Some(20), fate, outcome)] }));
        assert_eq!(timeline.rows[1].kind, kind, "{fate} {outcome:?}");
    }
}

#[test]
fn flags_that_would_meet_have_lines_of_their_own() {
    let lanes = |opened: i64, ended: i64| -> Vec<usize> {
        let timeline = of(&json!({
            "refuses_at": at(900), "opened_at": at(opened), "ended_at": at(ended),
        }));
        timeline.flags.iter().map(|flag| flag.lane).collect()
    };
    assert_eq!(lanes(1_000, 1_020), [0, 0, 1]);
    assert_eq!(lanes(5_000, 5_000), [0, 1, 0]);
}

#[test]
fn the_proxy_is_drawn_even_where_there_is_no_room_for_all() {
    let container = |name: &str, is_proxy, started| {
        json!({
            "name": name, "role": "app", "is_proxy": is_proxy,
            "started_at": at(started), "ended_at": null,
        })
    };
    let episode = episode(&json!({
        "containers": [container("a", false, 1), container("b", false, 2), container("p", true, 3)],
        "connects": [
            connect(30, None, "held", None), connect(10, None, "held", None),
            connect(20, None, "held", None),
        ],
        "held": 1_000,
    }));
    let few = Timeline::new(&episode, at(1_500), Detail { containers: 2, connects: 2 });
    let titles: Vec<&str> = few.rows.iter().map(|row| row.title.as_str()).collect();
    assert_eq!(titles, ["a", "p", "→ 10.0.0.1:80", "→ 10.0.0.1:80"]);
    assert!(few.rows[2].from < few.rows[3].from);
    assert_eq!((few.containers_left, few.connects_left), (1, 998));
}

#[test]
fn axes_of_any_length_have_a_few_round_labels() {
    for (millis, first, last) in [
        (1, "1 ms", "1 ms"),
        (40, "10 ms", "40 ms"),
        (900, "0.2 s", "0.8 s"),
        (3_111, "1 s", "3 s"),
        (61_000, "15 s", "60 s"),
        (300_000, "1 min", "5 min"),
        (3_600_000, "15 min", "60 min"),
        (86_400_000, "5 h", "25 h"),
        (864_000_000_000, "43334 h", "216670 h"),
    ] {
        let axis = Axis { from: at(0), width: Duration::from_millis(millis) * 13 / 12 };
        let ticks = axis.ticks(at(0));
        assert_eq!(ticks[0], Tick { at: 0.0, label: "0".to_owned() });
        assert!(ticks.len() as u64 <= MAX_TICKS + 1, "{ticks:?}");
        assert_eq!((ticks[1].label.as_str(), ticks.last().unwrap().label.as_str()), (first, last));
        assert!(ticks.iter().all(|tick| (0.0..=100.0).contains(&tick.at)), "{ticks:?}");
    }
}

#[test]
fn an_episode_of_no_length_is_drawn() {
    let timeline = Timeline::new(
        &episode(&json!({
            "containers": [], "connects": [], "opened_at": at(0), "ended_at": at(0),
            "first_connect_at": null,
        })),
        at(0),
        ALL,
    );
    assert!(timeline.flags.iter().all(|flag| flag.at.is_finite()), "{timeline:?}");
    assert!(!timeline.ticks.is_empty() && timeline.ticks.len() < 10);
}
