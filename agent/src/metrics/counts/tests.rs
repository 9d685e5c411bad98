//! What lines come to in the metrics.

use std::time::Instant;

use super::*;
use crate::{
    core::{
        Caller, CloseReason, Epoch, HeldConnect, History, Mode, Monotonic, Origin, Outcome,
        PodName, SocketCookie,
    },
    metrics::{Format, fixtures::reading, namespaces, pods, render},
};

const MS: u64 = 1_000_000;

/// A journal's history and counts.
struct Run {
    history: History,
    counts: Counts,
}

impl Run {
    fn new(pods: PodMetrics) -> Self {
        Self { history: History::new(Epoch::default()), counts: Counts::new(pods) }
    }

    fn tell(&mut self, pod: &PodRef, line: &Line, ms: u64) {
        let noted = self.history.record(pod, line, Monotonic(ms * MS));
        self.counts.record(pod, line, &noted);
    }

    fn lines(&self) -> Vec<String> {
        render(&self.counts, &reading(), Format::Classic).lines().map(str::to_owned).collect()
    }

    fn value(&self, series: &str) -> Option<f64> {
        let lines = self.lines();
        let value = lines.iter().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    fn with(&self, part: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(part)).count()
    }
}

fn pod(namespace: &str, name: &str) -> PodRef {
    let uid = format!("uid-of-{namespace}-{name}");
    PodRef::new(PodUid::new(&uid), Some(PodName::new(namespace, name)))
}

fn connect(cookie: u64, called_ms: u64) -> HeldConnect {
    HeldConnect {
        cookie: SocketCookie(cookie),
        container: Some("app".to_owned()),
        by_sentry: false,
        caller: Caller {
            container: None,
            pid: Some(1),
            uid: 0,
            comm: "app".to_owned(),
            destination: "203.0.113.9:443".parse().unwrap(),
            connect_at: Monotonic(called_ms * MS),
            query: None,
        },
    }
}

fn closed(ms: u64, enabled_by: Option<Origin>) -> Line {
    Line::GateClosed {
        at: Monotonic(ms * MS),
        reason: CloseReason::Start,
        profile: "istio".to_owned(),
        proxy: "istio-proxy".to_owned(),
        mode: Mode::Hold,
        enabled_by,
        observes: false,
        timeout: Duration::from_secs(60),
    }
}

fn opened(ms: u64, reason: OpenReason) -> Line {
    Line::GateOpened { at: Monotonic(ms * MS), reason, held: 0, finding: None }
}

fn released(cookie: u64, called_ms: u64, waited_us: u64, outcome: Outcome) -> Line {
    let waited = Duration::from_micros(waited_us);
    Line::Released { connect: connect(cookie, called_ms), waited, outcome }
}

#[test]
fn a_start_is_counted_and_timed() {
    let mut run = Run::new(PodMetrics::Off);
    let cart = pod("shop", "cart");
    // Closed before it is known what it is, and told again when it is.
    run.tell(&PodRef { name: None, ..cart.clone() }, &closed(0, None), 0);
    run.tell(&cart, &closed(0, Some(Origin::Namespace)), 5);
    assert_eq!(run.value("holdfast_gates_closed_total{reason=\"start\"}"), Some(1.0));
    // Its namespace's series begin before anything is in them.
    assert_eq!(run.value("holdfast_gates_timed_out_total{namespace=\"shop\"}"), Some(0.0));
    for cookie in 1..=3 {
        run.tell(&cart, &Line::Held(connect(cookie, 100)), 100);
    }
    run.tell(&cart, &opened(4_000, OpenReason::ProbeReady), 4_000);
    for cookie in 1..=2 {
        run.tell(&cart, &released(cookie, 100, 3_901_500, Outcome::Connected), 4_010);
    }
    run.tell(&cart, &released(3, 100, 2_000_000, Outcome::ClosedByApplication), 4_010);
    run.tell(&cart, &Line::GateDetached, 4_050);
    for (series, expected) in [
        ("holdfast_connects_held_total{namespace=\"shop\"}", 3.0),
        ("holdfast_connects_released_total{namespace=\"shop\",outcome=\"connected\"}", 2.0),
        (
            "holdfast_connects_released_total{namespace=\"shop\",outcome=\"closed-by-application\"}",
            1.0,
        ),
        ("holdfast_connects_released_total{namespace=\"shop\",outcome=\"refused\"}", 0.0),
        ("holdfast_gates_opened_total{reason=\"probe-ready\"}", 1.0),
        ("holdfast_gates_opened_total{reason=\"deadline\"}", 0.0),
        ("holdfast_entries_total{kind=\"released\"}", 3.0),
        ("holdfast_hold_duration_seconds_bucket{le=\"1.0\"}", 0.0),
        ("holdfast_hold_duration_seconds_bucket{le=\"2.5\"}", 1.0),
        ("holdfast_hold_duration_seconds_bucket{le=\"5.0\"}", 3.0),
        ("holdfast_hold_duration_seconds_sum", 9.803),
        ("holdfast_ready_to_release_seconds_bucket{le=\"0.001\"}", 0.0),
        ("holdfast_ready_to_release_seconds_bucket{le=\"0.002\"}", 2.0),
        ("holdfast_ready_to_release_seconds_count", 2.0),
    ] {
        assert_eq!(run.value(series), Some(expected), "{series}");
    }
}

#[test]
fn a_gate_whose_time_is_up_is_counted_with_its_namespace() {
    let mut run = Run::new(PodMetrics::Off);
    let cart = pod("shop", "cart");
    run.tell(&cart, &closed(0, Some(Origin::Pod)), 0);
    run.tell(&cart, &opened(60_000, OpenReason::Deadline), 60_000);
    assert_eq!(run.value("holdfast_gates_timed_out_total{namespace=\"shop\"}"), Some(1.0));
    let refused = released(1, 100, 59_950_000, Outcome::Refused);
    run.tell(&cart, &refused, 60_050);
    // Nobody was ready.
    assert_eq!(run.value("holdfast_ready_to_release_seconds_count"), Some(0.0));
}

#[test]
fn further_namespaces_are_counted_together_and_those_that_go_make_room() {
    let mut run = Run::new(PodMetrics::Off);
    let held = |run: &mut Run, namespace: &str| {
        run.tell(&pod(namespace, "cart"), &Line::Held(connect(1, 0)), 0);
    };
    for number in 0..namespaces::MAX + 50 {
        held(&mut run, &format!("team-{number}"));
    }
    assert_eq!(run.with("holdfast_connects_held_total{"), namespaces::MAX + 1);
    let other = format!("holdfast_connects_held_total{{namespace=\"{}\"}}", namespaces::OTHER);
    assert_eq!(run.value(&other), Some(50.0));

    run.counts.forget_namespace("team-7");
    run.counts.forget_namespace("never-seen");
    assert_eq!(run.with("namespace=\"team-7\""), 0);
    held(&mut run, "late");
    assert_eq!(run.value("holdfast_connects_held_total{namespace=\"late\"}"), Some(1.0));
    run.counts.keep_namespaces(|name| name == "late");
    assert_eq!(run.with("namespace=\"team-"), 0);
    assert_eq!(run.with("holdfast_connects_held_total{"), 2);
}

#[test]
fn pods_have_series_only_if_asked_for_and_as_long_as_they_are_there() {
    let mut run = Run::new(PodMetrics::Off);
    let cart = pod("shop", "cart");
    run.tell(&cart, &Line::Held(connect(1, 0)), 0);
    assert_eq!(run.with("holdfast_pod_"), 0);

    let mut run = Run::new(PodMetrics::On);
    run.tell(&PodRef { name: None, ..cart.clone() }, &Line::Held(connect(1, 0)), 0);
    run.tell(&cart, &Line::Held(connect(2, 0)), 0);
    run.tell(&cart, &released(1, 0, 1_500_000, Outcome::Connected), 1_500);
    let labels = "{namespace=\"shop\",pod=\"cart\",uid=\"uid-of-shop-cart\"}";
    assert_eq!(run.value(&format!("holdfast_pod_connects_held_total{labels}")), Some(2.0));
    assert_eq!(run.value(&format!("holdfast_pod_hold_seconds_total{labels}")), Some(1.5));
    run.counts.forget_pod(&cart.uid);
    assert_eq!(run.with("uid-of-shop-cart"), 0);
    // What its namespace has counted stays.
    assert_eq!(run.value("holdfast_connects_held_total{namespace=\"shop\"}"), Some(1.0));

    for number in 0..pods::MAX + 10 {
        let pod = pod("shop", &format!("cart-{number}"));
        run.tell(&pod, &Line::Held(connect(1, 0)), 0);
    }
    assert_eq!(run.with("holdfast_pod_connects_held_total{"), pods::MAX);
}

/// `cargo test --release -p holdfast --lib a_line_costs -- --nocapture --ignored` prints the number.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the number is what it is made for")]
fn a_line_costs_less_than_a_microsecond() {
    const LINES: u32 = 1_000_000;
    let counts = Counts::new(PodMetrics::On);
    let all: Vec<PodRef> = (0..110).map(|n| pod(&format!("team-{}", n % 20), "cart")).collect();
    let noted = Noted { after_ready: Some(Duration::from_millis(1)), ..Noted::default() };
    let line = released(1, 0, 1_500_000, Outcome::Connected);
    let start = Instant::now();
    for number in 0..LINES as usize {
        counts.record(&all[number % all.len()], &line, &noted);
    }
    println!("{:?} a line", start.elapsed() / LINES);
}
