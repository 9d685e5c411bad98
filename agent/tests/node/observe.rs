//! Pods that nobody enabled: what the agent sees of them, and that it changes nothing for them.

use std::{process::Output, thread, time::Duration};

use serde_json::Value;
use testbed::{Agent, Node, Pod, PodSpec, backend_v4, bpf};

use crate::common::{
    ENABLED, LATE, RELEASED_WITHIN, SOON, dials, events, eventually, known_pod, lines, options,
    start_agent, start_agent_with, wait_for, wait_for_all,
};

const OBSERVED: &str = "pod observed, not held";
const WOULD_WAIT: &str = "connect would have been held";

fn cart() -> PodSpec {
    PodSpec::new("shop", "cart").containers(["app", "worker", "late"])
}

/// A node whose namespace "shop" has no label.
fn unlabelled_node() -> Node {
    let node = Node::new().unwrap();
    node.api().put_namespace("shop", &[]);
    node
}

fn observing_agent(node: &Node) -> Agent {
    start_agent_with(node, &options().arg("--observe").arg("enabled"))
}

fn programs(pod: &Pod) -> Vec<&'static str> {
    bpf::programs_below(pod.cgroup()).unwrap()
}

/// A connect that fails as it does without holdfast: at once.
fn assert_refused(pod: &Pod, container: &str) {
    let attempt = dials(pod, container, backend_v4()).wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    let took = attempt.elapsed();
    assert!(took < RELEASED_WITHIN, "{took:?}");
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn told(agent: &Agent, args: &[&str]) -> String {
    succeeded(agent.command(args).unwrap())
}

/// The words of a text, however they are broken into lines.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is reported of the pod's workload: of the pod itself, as it has none.
fn reported(agent: &Agent, pod: &Pod) -> Option<Value> {
    let report: Value = serde_json::from_str(&told(agent, &["report", "-o", "json"])).unwrap();
    let workloads = report["workloads"].as_array().unwrap();
    workloads.iter().find(|facts| facts["workload"]["name"] == pod.name()).cloned()
}

#[test]
fn a_start_is_seen_counted_and_left_as_it_is() {
    let node = unlabelled_node();
    let agent = observing_agent(&node);
    let pod = known_pod(&node, &agent, cart());
    wait_for(&agent, &pod, OBSERVED);
    eventually("its programs are on", || !programs(&pod).is_empty());
    let pods = told(&agent, &["pods"]);
    let row = pods.lines().find(|line| line.starts_with("shop/cart ")).unwrap();
    assert!(row.contains(" observed "), "{pods}");
    let explained = words(&told(&agent, &["explain", "shop/cart"]));
    assert!(explained.contains("Observed, not held: nothing waits"), "{explained}");
    assert!(explained.contains("observe is enabled"), "{explained}");

    assert_refused(&pod, "app");
    assert_refused(&pod, "worker");
    let seen = wait_for_all(&agent, &pod, WOULD_WAIT, 2);
    for line in &seen {
        assert_eq!((&line["refused"], &line["level"]), (&true.into(), &"DEBUG".into()), "{line}");
        assert_eq!(line["destination"], backend_v4().to_string());
    }
    // What goes on counts already.
    assert_eq!(reported(&agent, &pod).unwrap()["failed"], 2);
    thread::sleep(LATE);
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    wait_for(&agent, &pod, "gate detached");
    assert_eq!(programs(&pod), [""; 0], "it pays only until its proxy is ready");
    assert!(dials(&pod, "late", backend_v4()).wait_attempt(SOON).unwrap().is_connected());

    let sum = wait_for(&agent, &pod, "hold ended");
    assert_eq!(sum["level"], "INFO");
    let numbers = ["held", "refused", "observed", "observed_refused"].map(|key| sum[key].as_u64());
    assert_eq!(numbers, [Some(0), Some(0), Some(2), Some(2)], "{sum}");
    assert!(lines(&agent, &pod, "connect held").is_empty());
    assert_eq!(events(&node, &pod), [Value::Null; 0]);

    let facts = reported(&agent, &pod).unwrap();
    let counted = ["starts", "starts_with_failures", "failed", "too_early", "held", "saved"];
    let counted = counted.map(|key| facts[key].as_u64().unwrap());
    assert_eq!(counted, [1, 1, 2, 0, 0, 0], "{facts}");
    assert_eq!(facts["first"]["destination"], backend_v4().to_string());
    assert_eq!(facts["first"]["container"], "app");
    assert_eq!(facts["enabled_by"], Value::Null);
    let ready_after = Duration::from_secs_f64(facts["ready_after_ms"].as_f64().unwrap() / 1e3);
    assert!(ready_after >= LATE && ready_after < LATE + SOON, "{ready_after:?}");
    let table = told(&agent, &["report"]);
    let row = table.lines().find(|line| line.starts_with("shop ")).unwrap();
    let row = words(row);
    assert!(row.starts_with("shop Pod/cart 1 2 in 1 start "), "{table}");
    assert!(row.ends_with(" no"), "{table}");
    assert!(
        table.ends_with("\n  kubectl label namespace shop holdfast.dev/hold=enabled\n"),
        "{table}"
    );
    // The pods go, what was seen of them stays.
    pod.delete().unwrap();
    assert!(told(&agent, &["report", "-n", "shop"]).contains("Pod/cart"));
    assert!(!told(&agent, &["report", "-n", "bank"]).contains("Pod/cart"));
}

#[test]
fn whoever_is_not_to_be_looked_at_is_not() {
    let node = unlabelled_node();
    node.api().put_namespace("quiet", &[("holdfast.dev/hold", "disabled")]);
    let agent = observing_agent(&node);
    for spec in [
        PodSpec::new("quiet", "namespace-says-no"),
        PodSpec::new("shop", "pod-says-no").label("holdfast.dev/hold", "disabled"),
    ] {
        let pod = known_pod(&node, &agent, spec);
        assert_refused(&pod, "app");
        assert_eq!(programs(&pod), [""; 0], "{}", pod.name());
        assert!(lines(&agent, &pod, OBSERVED).is_empty());
        let name = format!("{}/{}", pod.namespace(), pod.name());
        let diagnosis = words(&told(&agent, &["diagnose", &name, "--for", "1h"]));
        assert!(diagnosis.contains("Not held, because somebody said so."), "{diagnosis}");
        assert!(diagnosis.contains("Its starts are not observed: it, or its namespace, says"));
        assert_eq!(programs(&pod), [""; 0], "{}", pod.name());
    }
}

#[test]
fn without_the_setting_no_program_stays_on_a_pod_that_nobody_enabled() {
    let node = unlabelled_node();
    let agent = start_agent(&node);
    // Its cgroup comes first: it is held in case, until the API tells.
    let pod = node.pod(cart()).unwrap();
    pod.set_up().unwrap();
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    pod.publish().unwrap();
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    wait_for(&agent, &pod, "gate detached");
    assert_eq!(programs(&pod), [""; 0]);
    assert_refused(&pod, "worker");
    assert!(lines(&agent, &pod, OBSERVED).is_empty());
    let report = told(&agent, &["report"]);
    assert!(report.contains("observe is disabled"), "{report}");
    assert!(report.contains("--set config.observe=enabled"), "{report}");
    assert_eq!(reported(&agent, &pod), None);
}

#[test]
fn what_waited_until_the_api_told_goes_on_when_it_is_observed() {
    let node = unlabelled_node();
    let agent = observing_agent(&node);
    let pod = node.pod(cart()).unwrap();
    pod.set_up().unwrap();
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    pod.publish().unwrap();
    // Sent again, it finds nobody: as without holdfast.
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    wait_for(&agent, &pod, OBSERVED);
    assert_refused(&pod, "worker");
    wait_for(&agent, &pod, WOULD_WAIT);
    eventually("both are counted", || {
        reported(&agent, &pod).is_some_and(|facts| facts["failed"] == 2)
    });
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    wait_for(&agent, &pod, "gate detached");
    assert_eq!(programs(&pod), [""; 0]);
}

#[test]
fn what_is_held_is_in_the_report_as_well() {
    let node = unlabelled_node();
    node.api().put_namespace("shop", &ENABLED);
    let agent = observing_agent(&node);
    let pod = known_pod(&node, &agent, cart());
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    wait_for(&agent, &pod, "hold ended");
    let facts = reported(&agent, &pod).unwrap();
    let counted = ["starts", "failed", "held", "saved"].map(|key| facts[key].as_u64().unwrap());
    assert_eq!(counted, [1, 0, 1, 1], "{facts}");
    assert_eq!(facts["enabled_by"], "namespace");
    assert!(told(&agent, &["report"]).contains("yes, 1 saved"));
    let diagnosis = words(&told(&agent, &["diagnose", "shop/cart", "--for", "1h"]));
    assert!(diagnosis.contains("This pod is enabled: holdfast explain"), "{diagnosis}");
    assert!(diagnosis.contains("Its starts are not observed: it is enabled"), "{diagnosis}");
}

#[test]
fn one_pod_is_diagnosed_and_observed_for_a_while() {
    /// Enough for what happens in it on any machine that the other tests run on.
    const WHILE: &str = "12s";
    let node = unlabelled_node();
    let agent = start_agent(&node);
    let pod = known_pod(&node, &agent, cart());
    assert_refused(&pod, "app");
    assert_eq!(programs(&pod), [""; 0]);
    let diagnosis = words(&told(&agent, &["diagnose", "shop/cart"]));
    for part in [
        "Not held: nobody enabled it.",
        "Just now nobody listens on port 15001",
        "observe is disabled on this node",
        "Container istio-proxy would be its proxy (profile istio)",
        "kubectl label namespace shop holdfast.dev/hold=enabled",
        "holdfast diagnose shop/cart --for 10m",
    ] {
        assert!(diagnosis.contains(part), "{part} in\n{diagnosis}");
    }
    assert_eq!(programs(&pod), [""; 0], "a question changes nothing");

    let output = thread::scope(|scope| {
        let watching = scope.spawn(|| agent.command(["diagnose", "shop/cart", "--for", WHILE]));
        wait_for(&agent, &pod, OBSERVED);
        assert_refused(&pod, "worker");
        wait_for(&agent, &pod, WOULD_WAIT);
        watching.join().unwrap().unwrap()
    });
    let text = words(&succeeded(output));
    assert!(text.contains("Observing shop/cart for 12.0 s"), "{text}");
    assert!(
        text.contains(
            "1 start of Pod/cart seen; in 1 of them 1 connection failed because nobody was there to \
             take it. The first was from worker (testbed-app) to"
        ),
        "{text}"
    );
    eventually("its programs are off", || programs(&pod).is_empty());
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let diagnosis = words(&told(&agent, &["diagnose", "shop/cart"]));
    assert!(diagnosis.contains("Just now istio-proxy is ready"), "{diagnosis}");
    assert!(diagnosis.contains("Not held, and it would have helped"), "{diagnosis}");
    let nobody = agent.command(["diagnose", "shop/nobody"]).unwrap();
    assert_eq!(nobody.status.code(), Some(66), "{}", String::from_utf8_lossy(&nobody.stderr));
}
