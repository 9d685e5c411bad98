//! What a command on the node tells of a pod: before, while and after a hold, and where there is
//! none.

use testbed::{Agent, Pod, PodSpec, backend_v4};

use crate::common::{
    ENABLED, SOON, assert_released, dials, enabled_node, eventually, idle, known_pod, start_agent,
    wait_for,
};

/// Columns of a terminal.
const WIDTH: usize = 100;

/// What a command that succeeds prints for people.
fn printed(agent: &Agent, args: &[&str]) -> String {
    let output = agent.command(args).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    text
}

/// The words of an explanation on one line, however they are broken.
fn explained(agent: &Agent, pod: &Pod) -> String {
    let name = format!("{}/{}", pod.namespace(), pod.name());
    let text = printed(agent, &["explain", &name]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn assert_tells(agent: &Agent, pod: &Pod, parts: &[&str]) {
    let text = explained(agent, pod);
    for part in parts {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

/// Waits until an explanation has this: what it is made of comes from several sources.
fn wait_tells(agent: &Agent, pod: &Pod, part: &str) {
    eventually(part, || explained(agent, pod).contains(part));
}

#[test]
fn a_hold_is_explained_before_it_while_it_lasts_and_afterwards() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.pod(PodSpec::new("shop", "cart")).unwrap();
    pod.publish().unwrap();
    wait_listed(&agent, &pod);
    assert_tells(
        &agent,
        &pod,
        &[
            "pending for",
            "kubelet has not started this pod",
            "Holding is enabled by label holdfast.dev/hold=enabled on namespace shop.",
            "Container istio-proxy is its proxy (profile istio)",
        ],
    );

    pod.set_up().unwrap();
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    wait_tells(&agent, &pod, "Nobody listens on port 15001.");
    let who = format!("app (testbed-app, pid {}) connects to {}, for", app.pid(), backend_v4());
    assert_tells(
        &agent,
        &pod,
        &[
            "closed for",
            "1 connection waiting now",
            "Connections through istio-proxy wait until it is ready. The pod is starting.",
            &who,
            "The kernel lets them go on in",
            "http://:15021/healthz/ready answers 200",
            "kubectl -n shop logs cart -c istio-proxy",
            "holdfast gate open shop/cart",
        ],
    );
    let pods = printed(&agent, &["pods"]);
    let row = pods.lines().find(|line| line.starts_with("shop/cart ")).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[..5], ["shop/cart", "closed", "istio-proxy", "hold", "1"], "{pods}");
    assert_eq!(cells[6], "namespace", "{pods}");
    assert!(printed(&agent, &["status"]).contains("waiting   1 connection now"));

    let proxy = pod.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    assert_released(&app, ready, "a blocking connect");
    wait_for(&agent, &pod, "gate detached");
    wait_tells(&agent, &pod, "open for");
    assert_tells(
        &agent,
        &pod,
        &[
            "Nothing waits: istio-proxy is ready",
            "ago: the pod started; 1 connection waited for",
            "istio-proxy was ready",
            "all of them went through.",
        ],
    );
    assert!(!explained(&agent, &pod).contains("what to do"), "{}", explained(&agent, &pod));
    let status = printed(&agent, &["status"]);
    assert!(status.contains(": healthy") && status.contains("1 connected"), "{status}");
}

#[test]
fn a_pod_that_is_not_held_is_told_why_and_how_to_change_that() {
    let node = enabled_node();
    node.api().put_namespace("plain", &[]);
    let agent = start_agent(&node);
    let spec = |name: &str| PodSpec::new("shop", name);
    let mut there = Vec::new();
    for (spec, expected) in [
        (
            PodSpec::new("plain", "not-enabled"),
            &[
                "exempt for",
                "neither this pod nor namespace plain has the label holdfast.dev/hold=enabled",
                "kubectl label namespace plain holdfast.dev/hold=enabled --overwrite",
            ][..],
        ),
        (
            spec("said-no").label(ENABLED[0].0, "disabled"),
            &[
                "label holdfast.dev/hold=disabled on the pod",
                "label pod said-no holdfast.dev/hold-",
            ],
        ),
        (
            spec("no-proxy").not_meshed(),
            &["It has no container of a proxy that holdfast knows", "holdfast profiles"],
        ),
        (
            spec("on-host").host_network(),
            &["hostNetwork: true", "unless it can do without hostNetwork"],
        ),
        (
            spec("redirect-off").annotation("sidecar.istio.io/interceptionMode", "NONE"),
            &[
                "the mesh redirects nothing to it: annotation \
                 sidecar.istio.io/interceptionMode=NONE",
                "refused by its destination",
            ],
        ),
    ] {
        let pod = known_pod(&node, &agent, spec);
        let app = idle(&pod, "app");
        wait_tells(&agent, &pod, "exempt for");
        assert_tells(&agent, &pod, expected);
        there.push((app, pod));
    }
    // Whoever wanted a hold finds those that have none; the others are counted.
    let pods = printed(&agent, &["pods"]);
    assert!(pods.contains("shop/no-proxy") && !pods.contains("plain/not-enabled"), "{pods}");
    assert!(pods.contains("left out"), "{pods}");
    let all = printed(&agent, &["pods", "--all", "-n", "plain"]);
    assert!(all.contains("plain/not-enabled") && !all.contains("shop/"), "{all}");
}

#[test]
fn a_bad_annotation_is_told_with_what_is_used_instead() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").annotation("holdfast.dev/timeout", "soon");
    let pod = node.create_pod(spec).unwrap();
    let _app = idle(&pod, "app");
    wait_for(&agent, &pod, "invalid setting");
    assert_tells(
        &agent,
        &pod,
        &[
            "wrong holdfast.dev/timeout: \"soon\"",
            "used instead: 1m (default)",
            "Correct the labels and annotations above",
        ],
    );
}

/// Waits until the API has told the agent of a pod of which nothing is on the node.
fn wait_listed(agent: &Agent, pod: &Pod) {
    let name = format!("{}/{}", pod.namespace(), pod.name());
    eventually("the pod is known", || agent.command(["explain", &name]).unwrap().status.success());
}
