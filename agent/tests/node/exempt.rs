//! What is never held: each time compared with the same on a node without an agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use testbed::{
    Agent, BACKEND_PORTS, BACKEND_V4, BACKEND_V6, Node, PROXY, PROXY_ID, PROXY_PORT, Pod, PodSpec,
    Process, apps, backend_v4, backend_v4_mapped, backend_v6, bpf,
};

use crate::common::{ENABLED, SOON, enabled_node, eventually, lines, start_agent, wait_for};

const LOOPBACK_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Starts a container that only runs, to have clients started in it.
fn idle(pod: &Pod, container: &str) -> Process {
    pod.start_container(container, apps::testbed_app().unwrap().arg("pause")).unwrap()
}

/// How the connects of one client after the other to these destinations end.
fn dial(pod: &Pod, container: &str, uid: u32, destinations: &[SocketAddr]) -> Vec<String> {
    let dialled = destinations.iter().map(|to| {
        let client = apps::connect(*to).unwrap().user(uid, uid);
        pod.exec(container, client).unwrap().wait_attempt(SOON).unwrap().outcome
    });
    dialled.collect()
}

/// How the connects end on a node without an agent, from the container of a pod like this.
fn without_agent(
    node: &Node,
    spec: PodSpec,
    container: &str,
    uid: u32,
    to: &[SocketAddr],
) -> Vec<String> {
    let pod = node.create_pod(spec).unwrap();
    let _idle = idle(&pod, container);
    dial(&pod, container, uid, to)
}

/// Waits until the kernel has been told that this container of the pod is not held.
fn wait_passes(agent: &Agent, pod: &Pod, container: &str) {
    let cgroup = pod.container_cgroup(container).unwrap().id().unwrap();
    agent
        .wait_log(SOON, |line| {
            line["message"] == "container's verdict set"
                && line["container_cgroup"] == cgroup
                && line["verdict"].as_str().is_some_and(|verdict| verdict.starts_with("Pass"))
        })
        .unwrap();
}

/// Opens the pod's gate, which has been closed until now, and asserts that it has not dropped a
/// single SYN.
fn assert_nothing_was_held(agent: &Agent, pod: &Pod) {
    assert!(lines(agent, pod, "gate opened").is_empty(), "the gate did not stay closed");
    pod.patch(&serde_json::json!({"metadata": {"labels": {"holdfast.dev/hold": "disabled"}}}));
    let counts = wait_for(agent, pod, "gate detaches");
    assert_eq!(counts["dropped"], 0, "{counts}");
    assert!(lines(agent, pod, "connect held").is_empty());
}

/// Waits until the agent has looked at the pod and left it alone: a pod that came later is held,
/// and what may have been attached before the API named this one is off.
fn wait_left_alone(node: &Node, agent: &Agent, pod: &Pod) {
    let later = node.create_pod(PodSpec::new("shop", format!("after-{}", pod.name()))).unwrap();
    wait_for(agent, &later, "gate closed");
    eventually("no program on the cgroup of an exempt pod", || programs(pod).is_empty());
}

fn programs(pod: &Pod) -> Vec<&'static str> {
    bpf::programs_below(pod.cgroup()).unwrap()
}

/// A pod like this is left alone: its connects end as without an agent, and no program is on it.
fn assert_left_alone(node: &Node, spec: &PodSpec, to: &[SocketAddr], expected: &[&str]) {
    let before = without_agent(node, spec.clone(), "app", 0, to);
    assert_eq!(before, expected);
    let agent = start_agent(node);
    let pod = node.create_pod(spec.clone()).unwrap();
    let app = idle(&pod, "app");
    wait_left_alone(node, &agent, &pod);
    let held = lines(&agent, &pod, "connect held").len();
    assert_eq!(dial(&pod, "app", 0, to), before);
    assert_eq!(programs(&pod), [""; 0]);
    assert_eq!(lines(&agent, &pod, "connect held").len(), held);
    drop(app);
    agent.stop(SOON).unwrap();
}

#[test]
fn destinations_that_bypass_the_proxy_are_not_held() {
    let by_port = BACKEND_PORTS[2];
    let direct = [
        SocketAddr::from((BACKEND_V4, by_port)),
        SocketAddr::from((BACKEND_V4.to_ipv6_mapped(), by_port)),
        SocketAddr::from((BACKEND_V6, by_port)),
    ];
    let by_range = [backend_v4(), backend_v4_mapped(), backend_v6()];
    let node = enabled_node();
    for (name, exclude, to) in [
        ("port", PodSpec::new("shop", "port").exclude_port(by_port), direct),
        (
            "range",
            PodSpec::new("shop", "range").exclude_cidr("10.96.0.0/16").exclude_cidr("fd00:96::/64"),
            by_range,
        ),
    ] {
        let before = without_agent(&node, exclude.clone(), "app", 0, &to);
        assert_eq!(before, ["connected"; 3], "{name}");
        let agent = start_agent(&node);
        let pod = node.create_pod(exclude).unwrap();
        wait_for(&agent, &pod, "gate closed");
        let _app = idle(&pod, "app");
        assert_eq!(dial(&pod, "app", 0, &to), before, "{name}");
        assert_nothing_was_held(&agent, &pod);
    }
}

#[test]
fn loopback_ports_other_than_the_proxy_s_are_not_held() {
    /// The pod's own checks: Istio's readiness and pilot-agent's health.
    const CHECKS: [u16; 2] = [15021, 15020];
    /// Where the application itself listens.
    const OWN: u16 = 8080;
    let to: Vec<SocketAddr> = [CHECKS[0], CHECKS[1], OWN]
        .into_iter()
        .flat_map(|port| {
            [LOOPBACK_V4, LOOPBACK_V6].into_iter().map(move |ip| SocketAddr::new(ip, port))
        })
        .collect();
    let listen = |pod: &Pod| {
        let server = pod.start_container("app", apps::listener(OWN, 16).unwrap()).unwrap();
        server.wait_record(SOON, |line| line["event"] == "listening").unwrap();
        server
    };
    let node = enabled_node();
    let spec = PodSpec::new("shop", "cart");
    let before = {
        let pod = node.create_pod(spec.clone()).unwrap();
        let _server = listen(&pod);
        dial(&pod, "app", 0, &to)
    };
    let refused = "ECONNREFUSED";
    assert_eq!(before, [refused, refused, refused, refused, "connected", "connected"]);

    let agent = start_agent(&node);
    let pod = node.create_pod(spec).unwrap();
    wait_for(&agent, &pod, "gate closed");
    let _server = listen(&pod);
    assert_eq!(dial(&pod, "app", 0, &to), before);
    assert_nothing_was_held(&agent, &pod);
}

#[test]
fn the_proxy_s_own_connects_are_not_held() {
    // The last two are where a gate holds others: its rules let the proxy reach itself.
    let to = [
        backend_v4(),
        backend_v6(),
        SocketAddr::new(LOOPBACK_V4, PROXY_PORT),
        SocketAddr::new(LOOPBACK_V6, PROXY_PORT),
    ];
    for (name, spec) in [
        ("classic", PodSpec::new("shop", "classic")),
        ("native", PodSpec::new("shop", "native").native_sidecar()),
    ] {
        let node = enabled_node();
        let before = without_agent(&node, spec.clone(), PROXY, PROXY_ID, &to);
        assert_eq!(before, ["connected", "connected", "ECONNREFUSED", "ECONNREFUSED"], "{name}");

        let agent = start_agent(&node);
        let pod = node.create_pod(spec).unwrap();
        wait_for(&agent, &pod, "gate closed");
        let _proxy = idle(&pod, PROXY);
        wait_passes(&agent, &pod, PROXY);
        assert_eq!(dial(&pod, PROXY, PROXY_ID, &to), before, "{name}");
        assert_nothing_was_held(&agent, &pod);
    }
}

#[test]
fn a_pod_of_a_namespace_that_is_not_enabled_is_left_alone() {
    let node = enabled_node();
    node.api().put_namespace("plain", &[]);
    let spec = PodSpec::new("plain", "cart");
    assert_left_alone(&node, &spec, &[backend_v4(), backend_v6()], &["ECONNREFUSED"; 2]);
}

#[test]
fn a_pod_labelled_disabled_in_an_enabled_namespace_is_left_alone() {
    let node = enabled_node();
    let spec = PodSpec::new("shop", "cart").label("holdfast.dev/hold", "disabled");
    assert_left_alone(&node, &spec, &[backend_v4(), backend_v6()], &["ECONNREFUSED"; 2]);
}

#[test]
fn a_pod_labelled_enabled_in_a_plain_namespace_is_held() {
    let node = Node::new().unwrap();
    node.api().put_namespace("plain", &[]);
    let agent = start_agent(&node);
    let spec = PodSpec::new("plain", "cart").label("holdfast.dev/hold", "enabled");
    let pod = node.create_pod(spec).unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.start_ns < ready, "{attempt:?}");
}

#[test]
fn a_pod_without_a_proxy_is_left_alone() {
    let node = enabled_node();
    let spec = PodSpec::new("shop", "cart").not_meshed();
    let to = [backend_v4(), SocketAddr::new(LOOPBACK_V4, PROXY_PORT)];
    assert_left_alone(&node, &spec, &to, &["connected", "ECONNREFUSED"]);
}

#[test]
fn a_pod_on_the_host_network_is_left_alone() {
    let node = enabled_node();
    let spec = PodSpec::new("shop", "cart").host_network().label("holdfast.dev/hold", "enabled");
    let to = [SocketAddr::new(LOOPBACK_V4, PROXY_PORT), SocketAddr::new(LOOPBACK_V6, PROXY_PORT)];
    assert_left_alone(&node, &spec, &to, &["ECONNREFUSED"; 2]);
}

#[test]
fn a_pod_on_the_host_network_is_let_go_although_the_api_does_not_know_it() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.pod(PodSpec::new("shop", "cart").host_network()).unwrap();
    pod.set_up().unwrap();
    let to = SocketAddr::new(LOOPBACK_V4, PROXY_PORT);
    let app = pod.start_container("app", apps::connect(to).unwrap()).unwrap();
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "pod uses the host network");
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    wait_for(&agent, &pod, "gate detached");
    assert_eq!(programs(&pod), [""; 0]);
}

#[test]
fn pods_of_kubernetes_and_of_the_mesh_are_left_alone_even_if_labelled() {
    for namespace in ["kube-system", "istio-system"] {
        let node = enabled_node();
        node.api().put_namespace(namespace, &ENABLED);
        let spec = PodSpec::new(namespace, "cart").label("holdfast.dev/hold", "enabled");
        assert_left_alone(&node, &spec, &[backend_v4(), backend_v6()], &["ECONNREFUSED"; 2]);
    }
}

#[test]
fn an_init_container_before_a_classic_proxy_is_not_held() {
    let node = enabled_node();
    let spec = PodSpec::new("shop", "cart").init_containers(["migrate"]);
    let to = [backend_v4(), backend_v6()];
    let before = without_agent(&node, spec.clone(), "migrate", 0, &to);
    assert_eq!(before, ["ECONNREFUSED"; 2]);

    let agent = start_agent(&node);
    let pod = node.create_pod(spec.clone()).unwrap();
    wait_for(&agent, &pod, "gate closed");
    let migrate = idle(&pod, "migrate");
    wait_passes(&agent, &pod, "migrate");
    assert_eq!(dial(&pod, "migrate", 0, &to), before);
    drop(migrate);
    assert_nothing_was_held(&agent, &pod);

    // One that dials in its first instant may be quicker than the agent; it is let go all the same,
    // before any proxy and long before the deadline.
    let hasty = node.create_pod(PodSpec::new("shop", "hasty").init_containers(["migrate"]));
    let hasty = hasty.unwrap();
    let client = apps::connect(backend_v4()).unwrap();
    let migrate = hasty.start_container("migrate", client).unwrap();
    assert_eq!(migrate.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    assert!(lines(&agent, &hasty, "gate opened").is_empty());
}

#[test]
fn an_init_container_behind_a_native_sidecar_is_held() {
    let node = enabled_node();
    let spec = PodSpec::new("shop", "cart").native_sidecar().init_containers(["migrate"]);
    let before = without_agent(&node, spec.clone(), "migrate", 0, &[backend_v4()]);
    assert_eq!(before, ["ECONNREFUSED"]);

    let agent = start_agent(&node);
    let pod = node.create_pod(spec).unwrap();
    let client = apps::connect(backend_v4()).unwrap();
    let migrate = pod.start_container("migrate", client).unwrap();
    wait_for(&agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    let attempt = migrate.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.start_ns < ready, "{attempt:?}");
    assert_eq!(wait_for(&agent, &pod, "connect released")["container"], "migrate");
}

#[test]
fn a_terminating_pod_is_let_go() {
    let node = enabled_node();
    let spec = PodSpec::new("shop", "cart");
    let before = without_agent(&node, spec.clone(), "app", 0, &[backend_v4()]);
    assert_eq!(before, ["ECONNREFUSED"]);

    let agent = start_agent(&node);
    let pod = node.create_pod(spec).unwrap();
    let _app = idle(&pod, "app");
    let client = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    pod.mark_terminating();
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "pod is terminating");
    assert_eq!(client.wait_attempt(SOON).unwrap().outcome, before[0]);
    assert_eq!(wait_for(&agent, &pod, "connect released")["outcome"], "refused");
    wait_for(&agent, &pod, "gate detached");
    assert_eq!(programs(&pod), [""; 0]);
    assert_eq!(dial(&pod, "app", 0, &[backend_v4()]), before);
    assert_eq!(lines(&agent, &pod, "connect held").len(), 1);
}
