//! When and by what a pod comes to be held: labels, start orders, sources of identity and readiness.

use std::net::SocketAddr;

use serde_json::{Value, json};
use testbed::{
    Agent, CgroupDriver, Command, Node, NodeOptions, PROXY, PROXY_PORT, Pod, PodSpec, Process, Qos,
    apps, backend_v4, bpf,
};

use crate::common::{ENABLED, SOON, enabled_node, eventually, is, lines, start_agent, wait_for};

const LABEL: &str = "holdfast.dev/hold";

/// The agent's warning about a value that means nothing.
const INVALID: &str = "invalid setting";

/// Answers 200 to everything on Istio's readiness port, and does nothing else that a proxy does.
const READY_SERVER: &str = r#"
import http.server

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", 15021), Ready).serve_forever()
"#;

/// Starts a container that only runs, to have clients started in it.
fn idle(pod: &Pod, container: &str) -> Process {
    pod.start_container(container, apps::testbed_app().unwrap().arg("pause")).unwrap()
}

/// One more client in the running container `app`.
fn dial(pod: &Pod) -> Process {
    pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap()
}

fn outcome(client: &Process) -> String {
    client.wait_attempt(SOON).unwrap().outcome
}

/// Waits for the pod's log line number `count` with this message.
fn wait_for_nth(agent: &Agent, pod: &Pod, message: &str, count: usize) -> Value {
    let mut seen = 0;
    let nth = agent.wait_log(SOON, |line| {
        seen += usize::from(is(line, pod, message));
        seen == count
    });
    nth.unwrap()
}

/// Starts the proxy and asserts that these clients, which wait, connect once it is ready.
fn assert_held_until_ready(pod: &Pod, clients: &[Process]) {
    for client in clients {
        assert!(client.exit_status().is_none(), "{:?}", client.stdout());
    }
    let proxy = pod.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    for client in clients {
        let attempt = client.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected() && attempt.start_ns < ready, "{attempt:?}");
    }
}

fn label_pod(pod: &Pod, value: Option<&str>) {
    pod.patch(&json!({"metadata": {"labels": {LABEL: value}}}));
}

/// Whether a log line is of a probe of this pod that found its proxy ready.
fn is_ready(line: &Value, pod: &Pod) -> bool {
    is(line, pod, "probed") && line["finding"].as_str().unwrap().ends_with("says ready")
}

/// Waits until the agent has found the pod's proxy ready by asking it.
fn wait_probed_ready(agent: &Agent, pod: &Pod) {
    agent.wait_log(SOON, |line| is_ready(line, pod)).unwrap();
}

/// Waits until the agent has seen all that the API has told of the pod so far: it warns of a label
/// that comes after that and means nothing.
fn wait_seen(agent: &Agent, pod: &Pod) {
    label_pod(pod, Some("seen"));
    agent.wait_log(SOON, |line| is(line, pod, INVALID)).unwrap();
}

fn programs(pod: &Pod) -> Vec<&'static str> {
    bpf::programs_below(pod.cgroup()).unwrap()
}

/// Waits until the agent has looked at the pod and left it alone: a pod that came later is held.
fn wait_left_alone(node: &Node, agent: &Agent, pod: &Pod) {
    node.api().put_namespace("later", &ENABLED);
    let later = node.create_pod(PodSpec::new("later", format!("after-{}", pod.name()))).unwrap();
    wait_for(agent, &later, "gate closed");
    eventually("no program on the cgroup of an exempt pod", || programs(pod).is_empty());
}

/// A node with a namespace "plain" that has no label, a pod in it whose application runs, and an
/// agent that has seen it.
fn plain_pod() -> (Node, Agent, Pod, Process) {
    let node = Node::new().unwrap();
    node.api().put_namespace("plain", &[]);
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("plain", "cart")).unwrap();
    let app = idle(&pod, "app");
    wait_left_alone(&node, &agent, &pod);
    (node, agent, pod, app)
}

#[test]
fn a_pod_enabled_before_its_proxy_is_ready_is_held_from_then_on() {
    let (node, agent, pod, _app) = plain_pod();
    assert_eq!(outcome(&dial(&pod)), "ECONNREFUSED");
    let closed = lines(&agent, &pod, "gate closed").len();
    node.api().label_namespace("plain", LABEL, Some("enabled"));
    wait_for_nth(&agent, &pod, "gate closed", closed + 1);
    let client = dial(&pod);
    wait_for(&agent, &pod, "connect held");
    assert_held_until_ready(&pod, &[client]);
    assert_eq!(wait_for(&agent, &pod, "connect released")["outcome"], "connected");
}

#[test]
fn a_pod_enabled_after_its_proxy_is_ready_is_never_touched() {
    let (node, agent, pod, _app) = plain_pod();
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let closed = lines(&agent, &pod, "gate closed").len();
    node.api().label_namespace("plain", LABEL, Some("enabled"));
    wait_probed_ready(&agent, &pod);
    assert_eq!(outcome(&dial(&pod)), "connected");
    assert_eq!(programs(&pod), [""; 0]);
    assert_eq!(lines(&agent, &pod, "gate closed").len(), closed);
    assert!(lines(&agent, &pod, "connect held").is_empty());
}

#[test]
fn a_namespace_that_is_disabled_lets_go_what_it_held() {
    let node = enabled_node();
    node.api().put_namespace("store", &ENABLED);
    let agent = start_agent(&node);
    for (namespace, value) in [("shop", Some("disabled")), ("store", None)] {
        let pod = node.create_pod(PodSpec::new(namespace, "cart")).unwrap();
        let _app = idle(&pod, "app");
        let client = dial(&pod);
        wait_for(&agent, &pod, "connect held");
        node.api().label_namespace(namespace, LABEL, value);
        let opened = wait_for(&agent, &pod, "gate opened");
        assert_eq!((&opened["reason"], &opened["held"]), (&json!("not enabled"), &json!(1)));
        // No proxy is there: what it would have seen without a hold, only later.
        assert_eq!(outcome(&client), "ECONNREFUSED");
        assert_eq!(wait_for(&agent, &pod, "connect released")["outcome"], "refused");
        wait_for(&agent, &pod, "gate detached");
        assert_eq!(programs(&pod), [""; 0]);
        assert_eq!(outcome(&dial(&pod)), "ECONNREFUSED");
    }
}

#[test]
fn a_pod_s_own_label_takes_effect_whenever_it_changes() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _app = idle(&pod, "app");
    let first = dial(&pod);
    wait_for(&agent, &pod, "connect held");

    label_pod(&pod, Some("disabled"));
    wait_for(&agent, &pod, "gate detached");
    assert_eq!(outcome(&first), "ECONNREFUSED");

    label_pod(&pod, Some("enabled"));
    wait_for_nth(&agent, &pod, "gate closed", 2);
    let second = dial(&pod);
    wait_for_nth(&agent, &pod, "connect held", 2);

    // The namespace's label no longer counts, ...
    node.api().label_namespace("shop", LABEL, Some("disabled"));
    let third = dial(&pod);
    wait_for_nth(&agent, &pod, "connect held", 3);
    // ... until the pod has none of its own.
    label_pod(&pod, None);
    wait_for_nth(&agent, &pod, "gate detached", 2);
    assert_eq!(outcome(&second), "ECONNREFUSED");
    assert_eq!(outcome(&third), "ECONNREFUSED");
}

#[test]
fn an_invalid_label_is_told_and_changes_nothing() {
    let node = enabled_node();
    node.api().put_namespace("typo", &[(LABEL, "true")]);
    let agent = start_agent(&node);
    let told = |namespace: &str, pod: Option<&str>, value: &str| {
        let of = |line: &Value| {
            line["message"] == INVALID
                && line["key"] == LABEL
                && line["namespace"] == namespace
                && line["pod"] == json!(pod)
                && line["value"] == value
        };
        agent.wait_log(SOON, of).unwrap();
    };
    // One that was there before the agent, and one that comes later.
    told("typo", None, "true");
    node.api().label_namespace("typo", LABEL, Some("Enabled"));
    told("typo", None, "Enabled");
    let unheld = node.create_pod(PodSpec::new("typo", "cart")).unwrap();
    let _app = idle(&unheld, "app");
    wait_left_alone(&node, &agent, &unheld);
    assert_eq!(outcome(&dial(&unheld)), "ECONNREFUSED");

    let pod = node.create_pod(PodSpec::new("shop", "cart").label(LABEL, "no")).unwrap();
    told("shop", Some("cart"), "no");
    let _app = idle(&pod, "app");
    let client = dial(&pod);
    wait_for(&agent, &pod, "connect held");
    label_pod(&pod, Some("off"));
    told("shop", Some("cart"), "off");
    // A change of something else is no reason to tell it again.
    pod.patch(&json!({"metadata": {"annotations": {"a": "b"}}}));
    assert_held_until_ready(&pod, &[client]);
    assert_eq!(agent.logged(INVALID).len(), 4);
}

#[test]
fn an_agent_that_comes_before_the_application_holds_its_first_connect() {
    let node = enabled_node();
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let agent = start_agent(&node);
    wait_for(&agent, &pod, "gate closed");
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    assert_held_until_ready(&pod, &[app]);
}

#[test]
fn an_agent_that_comes_while_a_pod_starts_holds_its_later_connects() {
    let node = enabled_node();
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _app = idle(&pod, "app");
    assert_eq!(outcome(&dial(&pod)), "ECONNREFUSED");
    let agent = start_agent(&node);
    wait_for(&agent, &pod, "gate closed");
    let client = dial(&pod);
    wait_for(&agent, &pod, "connect held");
    assert_held_until_ready(&pod, &[client]);
}

#[test]
fn an_agent_that_comes_after_a_pod_is_ready_does_not_touch_it() {
    let node = enabled_node();
    let start = |name: &str| {
        let pod = node.create_pod(PodSpec::new("shop", name)).unwrap();
        let app = idle(&pod, "app");
        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        (pod, app, proxy)
    };
    // Kubelet knows of the one, and is late with the other.
    let known = start("known");
    known.0.set_kube_ready(PROXY, true).unwrap();
    let unknown = start("unknown");
    let agent = start_agent(&node);
    wait_probed_ready(&agent, &unknown.0);
    for (pod, ..) in [&known, &unknown] {
        assert_eq!(outcome(&dial(pod)), "connected");
        assert_eq!(programs(pod), [""; 0]);
    }
    assert!(agent.logged("gate closed").is_empty());
    assert!(lines(&agent, &known.0, "probed").is_empty());
}

#[test]
fn a_pod_that_the_api_does_not_know_yet_is_held_and_kept_when_it_is_enabled() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.pod(PodSpec::new("shop", "cart")).unwrap();
    pod.set_up().unwrap();
    // The sandbox's bundle has been read, which names the pod.
    agent.wait_message(SOON, "container's verdict set").unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    let held = wait_for(&agent, &pod, "connect held");
    assert_eq!((&held["namespace"], &held["pod"]), (&json!("shop"), &json!("cart")));
    pod.publish().unwrap();
    wait_seen(&agent, &pod);
    assert_held_until_ready(&pod, &[app]);
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "the proxy says it is ready");
    assert_eq!(lines(&agent, &pod, "gate closed").len(), 1);
}

#[test]
fn a_pod_that_the_api_does_not_know_yet_is_let_go_when_it_is_not_enabled() {
    let node = enabled_node();
    node.api().put_namespace("plain", &[]);
    let agent = start_agent(&node);
    for (spec, reason) in [
        (PodSpec::new("plain", "cart"), "not enabled"),
        (PodSpec::new("shop", "off").label(LABEL, "disabled"), "not enabled"),
        (PodSpec::new("kube-system", "dns"), "pod belongs to the control plane"),
    ] {
        let pod = node.pod(spec).unwrap();
        pod.set_up().unwrap();
        let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
        wait_for(&agent, &pod, "connect held");
        pod.publish().unwrap();
        assert_eq!(wait_for(&agent, &pod, "gate opened")["reason"], reason);
        assert_eq!(outcome(&app), "ECONNREFUSED");
        wait_for(&agent, &pod, "gate detached");
        assert_eq!(programs(&pod), [""; 0]);
    }
}

#[test]
fn pods_are_found_with_both_cgroup_drivers_and_in_every_qos_class() {
    for driver in [CgroupDriver::Systemd, CgroupDriver::Cgroupfs] {
        let node = Node::with(NodeOptions { driver, ..NodeOptions::default() }).unwrap();
        node.api().put_namespace("shop", &ENABLED);
        let agent = start_agent(&node);
        for (name, qos) in [
            ("guaranteed", Qos::Guaranteed),
            ("burstable", Qos::Burstable),
            ("besteffort", Qos::BestEffort),
        ] {
            let pod = node.create_pod(PodSpec::new("shop", name).qos(qos)).unwrap();
            let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
            wait_for(&agent, &pod, "connect held");
            assert_held_until_ready(&pod, &[app]);
            let released = wait_for(&agent, &pod, "connect released");
            assert_eq!(released["container"], "app", "{driver:?} {qos:?}");
        }
    }
}

#[test]
fn an_application_without_a_bundle_is_held_and_named_by_the_api_later() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let container = pod.create_container_without_bundle("app").unwrap();
    let id = container.id().to_string();
    let app = container.start_silently(apps::connect(backend_v4()).unwrap()).unwrap();
    let held = wait_for(&agent, &pod, "connect held");
    assert_eq!(held["container"], id);
    pod.report_hidden();
    wait_seen(&agent, &pod);
    assert_held_until_ready(&pod, &[app]);
    let released = wait_for(&agent, &pod, "connect released");
    assert_eq!(
        (&released["container"], &released["outcome"]),
        (&json!("app"), &json!("connected"))
    );
}

#[test]
fn a_proxy_without_a_bundle_is_let_go_when_the_api_names_it() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    // Its own port is where a gate holds whoever is not known to pass.
    let to = ([127, 0, 0, 1], PROXY_PORT).into();
    // Not as the proxy's user, which passes whatever its container is called.
    let client = apps::connect(to).unwrap();
    let container = pod.create_container_without_bundle(PROXY).unwrap();
    let client = container.start_silently(client).unwrap();
    wait_for(&agent, &pod, "connect held");
    pod.report_hidden();
    assert_eq!(outcome(&client), "ECONNREFUSED");
    assert!(lines(&agent, &pod, "gate opened").is_empty());
    assert_eq!(wait_for(&agent, &pod, "connect released")["container"], PROXY);
}

#[test]
fn kubelet_s_word_alone_opens_a_gate() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, spec) in [
        ("classic", PodSpec::new("shop", "classic")),
        ("native", PodSpec::new("shop", "native").native_sidecar()),
    ] {
        let pod = node.create_pod(spec).unwrap();
        let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
        wait_for(&agent, &pod, "connect held");
        // A proxy with its outbound port, but without the readiness endpoint.
        let proxy = pod.start_container(PROXY, apps::listener(PROXY_PORT, 16).unwrap()).unwrap();
        proxy.wait_record(SOON, |line| line["event"] == "listening").unwrap();
        wait_for_nth(&agent, &pod, "probed", lines(&agent, &pod, "probed").len() + 20);
        assert!(app.exit_status().is_none(), "{name}");
        assert!(lines(&agent, &pod, "gate opened").is_empty(), "{name}");

        pod.set_kube_ready(PROXY, true).unwrap();
        let opened = wait_for(&agent, &pod, "gate opened");
        assert_eq!(opened["reason"], "kubelet reports the proxy ready", "{name}");
        assert_eq!(outcome(&app), "connected", "{name}");
        assert!(lines(&agent, &pod, "probed").iter().all(|line| !is_ready(line, &pod)));
    }
}

#[test]
fn a_proxy_that_calls_itself_ready_before_it_listens_opens_nothing() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    let _ready = pod.start_container(PROXY, Command::new("python3").args(["-c", READY_SERVER]));
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 15021));
    eventually("a readiness endpoint", || {
        let client = pod.exec("app", apps::connect(endpoint).unwrap()).unwrap();
        outcome(&client) == "connected"
    });
    wait_for_nth(&agent, &pod, "probed", lines(&agent, &pod, "probed").len() + 20);
    assert!(app.exit_status().is_none());
    assert!(lines(&agent, &pod, "gate opened").is_empty());

    let proxy = pod.exec(PROXY, apps::listener(PROXY_PORT, 16).unwrap()).unwrap();
    proxy.wait_record(SOON, |line| line["event"] == "listening").unwrap();
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "the proxy says it is ready");
    assert_eq!(outcome(&app), "connected");
}
