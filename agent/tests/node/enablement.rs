//! A label on a namespace, from `kubectl label` to its effect on the pods that start.

use std::time::Duration;

use serde_json::Value;
use testbed::{Agent, Node, Pod, PodSpec, Process, apps, backend_v4, clock::monotonic_ns};

use crate::common::{CLOSED_UNKNOWN, SOON, eventually, idle, is, lines, start_agent, wait_for};

const LABEL: &str = "holdfast.dev/hold";

/// What is promised. It takes some milliseconds.
const EFFECT_WITHIN: Duration = Duration::from_secs(1);

/// Pods that start when the label changes.
const PODS: usize = 8;

/// A namespace without the label, in which pods start whose proxies are not there yet, and an agent
/// that has seen all of them.
fn starting_pods(node: &Node) -> (Agent, Vec<(Pod, Process)>) {
    node.api().put_namespace("shop", &[]);
    let agent = start_agent(node);
    let pods: Vec<_> = (0..PODS)
        .map(|index| {
            let pod = node.create_pod(PodSpec::new("shop", format!("cart-{index}"))).unwrap();
            let app = idle(&pod, "app");
            (pod, app)
        })
        .collect();
    for (pod, _) in &pods {
        assert_eq!(dial(pod).wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
        // A pod that was found before the API had told of it is held until then.
        eventually("a gate that was closed in case opens", || {
            lines(&agent, pod, CLOSED_UNKNOWN).len() == lines(&agent, pod, "gate detached").len()
        });
    }
    (agent, pods)
}

/// One more client in the running container `app`.
fn dial(pod: &Pod) -> Process {
    pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap()
}

/// Waits for a line of this pod that is not older than `since`, and gives its age then.
fn after(agent: &Agent, pod: &Pod, message: &str, since: u64) -> Duration {
    let at = |line: &Value| line["mono_ns"].as_u64().unwrap();
    let line = agent.wait_log(SOON, |line| is(line, pod, message) && at(line) >= since).unwrap();
    Duration::from_nanos(at(&line) - since)
}

#[test]
fn a_label_counts_within_a_second_for_pods_that_start_and_for_new_ones() {
    let node = Node::new().unwrap();
    let (agent, pods) = starting_pods(&node);
    let set = monotonic_ns();
    node.api().label_namespace("shop", LABEL, Some("enabled"));
    for (pod, _) in &pods {
        let closed = after(&agent, pod, "gate closed", set);
        assert!(closed < EFFECT_WITHIN, "{}: closed {closed:?} after the label", pod.name());
    }
    // One that nobody had heard of before: its very first connect waits, and is let go by readiness.
    let new = node.create_pod(PodSpec::new("shop", "new")).unwrap();
    let app = new.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    let held = wait_for(&agent, &new, "connect held");
    assert_eq!(held["container"], "app");
    let proxy = new.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.start_ns < ready, "{attempt:?}");
}

#[test]
fn a_label_that_goes_opens_every_gate_of_the_namespace_at_once() {
    let node = Node::new().unwrap();
    let (agent, pods) = starting_pods(&node);
    let set = monotonic_ns();
    node.api().label_namespace("shop", LABEL, Some("enabled"));
    let mut clients = Vec::new();
    for (pod, _) in &pods {
        after(&agent, pod, "gate closed", set);
        clients.push(dial(pod));
        wait_for(&agent, pod, "connect held");
    }
    let removed = monotonic_ns();
    node.api().label_namespace("shop", LABEL, None);
    for ((pod, _), client) in pods.iter().zip(&clients) {
        let opened = after(&agent, pod, "gate opened", removed);
        assert!(opened < EFFECT_WITHIN, "{}: opened after {opened:?}", pod.name());
        // Nobody listens: what waited learns that now, and not by a timeout of its own.
        let attempt = client.wait_attempt(SOON).unwrap();
        assert_eq!(attempt.outcome, "ECONNREFUSED");
        let ended = Duration::from_nanos(attempt.end_ns.saturating_sub(removed));
        assert!(ended < EFFECT_WITHIN, "{}: went on after {ended:?}", pod.name());
        after(&agent, pod, "gate detached", removed);
    }
    // Nor is a pod held that comes afterwards.
    let new = node.create_pod(PodSpec::new("shop", "new")).unwrap();
    let _app = idle(&new, "app");
    assert_eq!(dial(&new).wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
}
