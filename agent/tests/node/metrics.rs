//! What Prometheus sees of holds: a real pod, scraped before, while and after it waits.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use testbed::{Agent, AgentOptions, PodSpec, Resource, apps, backend_v4, promtool};

use crate::common::{
    LATE, SOON, enabled_node, eventually, options, start_agent_with, wait_for, wait_for_all,
};

const OPEN_METRICS: &str =
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// One answer.
pub(crate) struct Scrape {
    content_type: String,
    body: String,
}

fn with_metrics() -> AgentOptions {
    options().arg("--metrics-address=127.0.0.1:0")
}

/// Where this agent serves.
pub(crate) fn address(agent: &Agent) -> SocketAddr {
    let line = agent.wait_message(SOON, "metrics are served").unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

/// What a scrape tells may be a quarter of a second old: so long after something has happened, a scrape
/// has it.
const OLDEST: Duration = Duration::from_millis(250);

fn get(address: SocketAddr, accept: &str) -> Scrape {
    thread::sleep(OLDEST);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let content_type = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    Scrape { content_type: content_type.unwrap().1.to_owned(), body: body.to_owned() }
}

impl Scrape {
    pub(crate) fn take(address: SocketAddr) -> Self {
        get(address, "*/*")
    }

    fn series(&self) -> BTreeMap<&str, f64> {
        let lines = self.body.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(series, value)| (series, value.parse().unwrap()))
            .collect()
    }

    pub(crate) fn value(&self, series: &str) -> f64 {
        self.series()[series]
    }

    /// Asserts that these series have these values; `None`: they are not there.
    fn assert(&self, expected: &[(&str, Option<f64>)]) {
        let series = self.series();
        for (name, value) in expected {
            assert_eq!(series.get(name).copied(), *value, "{name} in\n{}", self.body);
        }
    }

    /// Has promtool read it, which also knows what names are customary.
    fn check(&self) {
        let mut promtool = promtool()
            .unwrap()
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(self.body.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn a_held_pod_is_counted_exactly() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &with_metrics().arg("--pod-metrics"));
    let address = address(&agent);

    let before = Scrape::take(address);
    before.check();
    assert_eq!(before.content_type, "text/plain; version=0.0.4; charset=utf-8");
    before.assert(&[
        ("holdfast_build_info{version=\"0.1.0\"}", Some(1.0)),
        ("holdfast_agent_state{state=\"working\"}", Some(1.0)),
        ("holdfast_armed", Some(1.0)),
        ("holdfast_held_connects", Some(0.0)),
        ("holdfast_pods{state=\"closed\"}", Some(0.0)),
        ("holdfast_watch_lists_total{resource=\"pods\"}", Some(1.0)),
        ("holdfast_watch_lists_total{resource=\"namespaces\"}", Some(1.0)),
        ("holdfast_dropped_packets_total", Some(0.0)),
        ("holdfast_map_max_entries{map=\"sockets\"}", Some(65_536.0)),
    ]);

    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let client = apps::connect(backend_v4()).unwrap().nonblocking().count(3).get("/bytes/1000");
    let app = pod.start_container("app", client).unwrap();
    wait_for_all(&agent, &pod, "connect held", 3);
    thread::sleep(LATE);
    let of_pod = format!("{{namespace=\"shop\",pod=\"cart\",uid=\"{}\"}}", pod.uid());
    let pod_series = |metric: &str| format!("{metric}{of_pod}");
    let (pod_held, pod_waiting, pod_waited) = (
        pod_series("holdfast_pod_connects_held_total"),
        pod_series("holdfast_pod_held_connects"),
        pod_series("holdfast_pod_hold_seconds_total"),
    );
    let during = Scrape::take(address);
    during.check();
    during.assert(&[
        ("holdfast_pods{state=\"closed\"}", Some(1.0)),
        ("holdfast_held_connects", Some(3.0)),
        ("holdfast_connects_held_total{namespace=\"shop\"}", Some(3.0)),
        ("holdfast_connects_released_total{namespace=\"shop\",outcome=\"connected\"}", Some(0.0)),
        ("holdfast_gates_closed_total{reason=\"start\"}", Some(1.0)),
        ("holdfast_found_to_attached_seconds_count", Some(1.0)),
        ("holdfast_map_entries{map=\"sockets\"}", Some(3.0)),
        ("holdfast_probe_rounds_total{result=\"ready\"}", Some(0.0)),
        (&pod_held, Some(3.0)),
        (&pod_waiting, Some(3.0)),
        (&pod_waited, Some(0.0)),
    ]);
    // Each of the three has been sent again by its own stack meanwhile, and dropped again.
    let dropped = during.value("holdfast_dropped_packets_total");
    assert!(dropped >= 6.0, "{dropped}");
    assert!(during.value("holdfast_probe_rounds_total{result=\"refused\"}") >= 1.0);

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait(SOON).unwrap().success());
    wait_for_all(&agent, &pod, "connect released", 3);
    wait_for(&agent, &pod, "gate detached");
    let after = Scrape::take(address);
    after.check();
    after.assert(&[
        ("holdfast_held_connects", Some(0.0)),
        ("holdfast_connects_held_total{namespace=\"shop\"}", Some(3.0)),
        ("holdfast_connects_released_total{namespace=\"shop\",outcome=\"connected\"}", Some(3.0)),
        ("holdfast_connects_released_total{namespace=\"shop\",outcome=\"refused\"}", Some(0.0)),
        ("holdfast_gates_opened_total{reason=\"probe-ready\"}", Some(1.0)),
        ("holdfast_gates_timed_out_total{namespace=\"shop\"}", Some(0.0)),
        ("holdfast_gates_failed_total", Some(0.0)),
        ("holdfast_hold_duration_seconds_count", Some(3.0)),
        ("holdfast_hold_duration_seconds_bucket{le=\"1.0\"}", Some(0.0)),
        ("holdfast_ready_to_release_seconds_count", Some(3.0)),
        ("holdfast_probe_rounds_total{result=\"ready\"}", Some(1.0)),
        ("holdfast_replays_sent_total", Some(3.0)),
        ("holdfast_replays_failed_total", Some(0.0)),
        ("holdfast_map_entries{map=\"sockets\"}", Some(0.0)),
        ("holdfast_pods{state=\"open\"}", Some(1.0)),
        (&pod_held, Some(3.0)),
        (&pod_waiting, None),
    ]);
    // The log tells each hold to the tenth of a millisecond.
    let told: f64 = agent
        .logged("connect released")
        .iter()
        .map(|line| line["held_ms"].as_f64().unwrap() / 1000.0)
        .sum();
    for total in [&*pod_waited, "holdfast_hold_duration_seconds_sum"] {
        let waited = after.value(total);
        assert!((waited - told).abs() < 0.001, "{total}: {waited}, {told}");
    }
    // What its gate has dropped is not forgotten with it.
    assert!(after.value("holdfast_dropped_packets_total") >= dropped);

    let open_metrics = get(address, OPEN_METRICS);
    assert_eq!(
        open_metrics.content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open_metrics.body.ends_with("# EOF\n"));
    assert!(open_metrics.body.contains("\n# UNIT holdfast_hold_duration_seconds seconds\n"));

    let uid = pod.uid().to_owned();
    drop((app, proxy));
    pod.delete().unwrap();
    eventually("the pod's series go with it", || !Scrape::take(address).body.contains(&uid));
    let held = "holdfast_connects_held_total{namespace=\"shop\"}";
    assert_eq!(Scrape::take(address).value(held), 3.0);
    node.api().delete(Resource::Namespaces, None, "shop");
    eventually("the namespace's series go with it", || {
        !Scrape::take(address).body.contains("namespace=\"shop\"")
    });
}

#[test]
fn a_watch_of_which_nothing_is_heard_grows_old_and_others_do_not() {
    const AGE: &str = "holdfast_watch_age_seconds{resource=\"pods\"}";
    const ERRORS: &str = "holdfast_watch_errors_total{resource=\"pods\"}";
    let node = enabled_node();
    let agent = start_agent_with(&node, &with_metrics());
    let address = address(&agent);
    let value = |series| Scrape::take(address).value(series);
    // No object changes, and this API server sends a bookmark each second.
    let quiet = Instant::now();
    let oldest = std::iter::repeat_with(|| {
        thread::sleep(Duration::from_millis(100));
        value(AGE)
    });
    let oldest = oldest.take_while(|_| quiet.elapsed() < 4 * LATE).fold(0.0, f64::max);
    assert!(oldest < (3 * LATE).as_secs_f64(), "{oldest}");
    assert_eq!(value(ERRORS), 0.0);

    node.api().stop();
    eventually("it grows old", || value(AGE) > (3 * LATE).as_secs_f64());
    assert!(value(ERRORS) >= 1.0);
    // The agent goes on to work.
    Scrape::take(address).assert(&[("holdfast_armed", Some(1.0))]);
    node.api().resume().unwrap();
    eventually("it is heard again", || value(AGE) < LATE.as_secs_f64());
}

#[test]
fn an_agent_that_stands_by_says_so() {
    let node = enabled_node();
    let first = start_agent_with(&node, &options());
    assert!(first.logged("metrics are served").is_empty());
    let second = node.start_agent(&with_metrics()).unwrap();
    let address = address(&second);
    second.wait_message(SOON, "standing by for the agent that works on this node to end").unwrap();
    let standing_by = Scrape::take(address);
    standing_by.check();
    standing_by.assert(&[
        ("holdfast_agent_state{state=\"standing-by\"}", Some(1.0)),
        ("holdfast_agent_state{state=\"working\"}", Some(0.0)),
        ("holdfast_armed", Some(0.0)),
        ("holdfast_pods{state=\"closed\"}", None),
        ("holdfast_held_connects", None),
    ]);
    assert!(first.stop(SOON).unwrap().success());
    second.wait_message(SOON, "agent armed").unwrap();
    Scrape::take(address).assert(&[
        ("holdfast_agent_state{state=\"standing-by\"}", Some(0.0)),
        ("holdfast_armed", Some(1.0)),
        ("holdfast_held_connects", Some(0.0)),
    ]);
}
