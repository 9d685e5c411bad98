//! A real application, a real Envoy that comes late, and the agent between them.

use std::{collections::HashSet, thread, time::Duration};

use testbed::{
    Agent, AgentOptions, Node, Pod, PodSpec, Process, apps, apps::FastOpen, backend_v4,
    backend_v4_mapped, backend_v6, bpf,
};

use crate::common::{
    SOON, enabled_node, eventually, lines, options, start_agent, start_agent_with, wait_for,
    wait_for_all,
};

/// Long enough that nothing but a hold explains a connect that waits.
const LATE: Duration = Duration::from_millis(1_500);

#[test]
fn a_blocking_connect_waits_for_the_proxy_and_its_data_arrives() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (index, to) in [backend_v4(), backend_v6(), backend_v4_mapped()].into_iter().enumerate() {
        let pod = node.create_pod(PodSpec::new("shop", format!("cart-{index}"))).unwrap();
        let client = apps::connect(to).unwrap().get("/bytes/1048576");
        let app = pod.start_container("app", client).unwrap();
        let held = wait_for(&agent, &pod, "connect held");
        assert_eq!(held["namespace"], "shop");
        assert_eq!(held["pod"], pod.name());
        assert_eq!(held["container"], "app");
        assert_eq!(held["comm"], "testbed-app");
        assert_eq!(held["pid"], app.pid());
        assert_eq!(held["destination"], to.to_string());
        thread::sleep(LATE);
        assert!(app.exit_status().is_none(), "{to} does not wait");

        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        let attempt = app.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected(), "{to}: {attempt:?}");
        assert!(attempt.elapsed() >= LATE);
        let body = app.wait_body(SOON).unwrap();
        assert!(body.ok && body.bytes == 1_048_576, "{to}: {body:?}");

        let released = wait_for(&agent, &pod, "connect released");
        assert_eq!(released["outcome"], "connected");
        assert_eq!(released["cookie"], held["cookie"]);
        assert!(released["held_ms"].as_f64().unwrap() >= LATE.as_millis() as f64);
        wait_for(&agent, &pod, "gate detached");
        assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    }
}

#[test]
fn a_non_blocking_connect_becomes_writable_only_when_the_proxy_is_there() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (index, to) in [backend_v4(), backend_v6()].into_iter().enumerate() {
        let pod = node.create_pod(PodSpec::new("shop", format!("cart-{index}"))).unwrap();
        let client = apps::connect(to).unwrap().nonblocking().count(3).get("/bytes/100000");
        let app = pod.start_container("app", client).unwrap();
        for held in wait_for_all(&agent, &pod, "connect held", 3) {
            assert_eq!(held["destination"], to.to_string());
        }
        thread::sleep(LATE);
        // epoll has not told of any socket so far, neither of an error nor of a connection.
        assert!(app.records().iter().all(|line| line["event"] != "connect"), "{to}");

        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        for attempt in app.wait_attempts(SOON, 3).unwrap() {
            assert!(attempt.is_connected() && attempt.elapsed() >= LATE, "{to}: {attempt:?}");
        }
        // Its status tells that each of the three bodies was right.
        assert!(app.wait(SOON).unwrap().success(), "{to}");
        for released in wait_for_all(&agent, &pod, "connect released", 3) {
            assert_eq!(released["outcome"], "connected");
        }
    }
}

#[test]
fn a_fast_open_waits_with_its_data_which_then_arrives_once() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, way) in [("sendto", FastOpen::Sendto), ("deferred", FastOpen::Connect)] {
        let pod = node.create_pod(PodSpec::new("shop", name)).unwrap();
        // Without a cookie from an earlier connection only bit 4 puts data into a SYN.
        pod.netns().unwrap().set_sysctl("net.ipv4.tcp_fastopen", "5").unwrap();
        let path = format!("/visit/{name}");
        let client = apps::connect(backend_v4()).unwrap().fast_open(way).get(&path);
        let app = pod.start_container("app", client).unwrap();
        wait_for(&agent, &pod, "connect held");
        thread::sleep(LATE);
        assert!(app.exit_status().is_none(), "{name} does not wait");

        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        // The answer to the request: it was the first of this name.
        assert_eq!(app.wait_body(SOON).unwrap().text.as_deref(), Some("1"), "{name}");
        assert!(app.wait_attempt(SOON).unwrap().is_connected(), "{name}");
        let released = wait_for(&agent, &pod, "connect released");
        assert_eq!(released["outcome"], "connected");
        assert!(released["held_ms"].as_f64().unwrap() >= LATE.as_millis() as f64);
        let ask = apps::connect(backend_v4()).unwrap().get(&format!("/visits/{name}"));
        let visits = pod.start_container("app", ask).unwrap().wait_body(SOON).unwrap().text;
        assert_eq!(visits.as_deref(), Some("1"), "{name}");
    }
}

#[test]
fn two_hundred_connects_wait_together_and_none_is_refused() {
    const COUNT: usize = 200;
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let client = apps::connect(backend_v4()).unwrap().count(COUNT as u32).get("/bytes/1000");
    let app = pod.start_container("app", client).unwrap();
    wait_for_all(&agent, &pod, "connect held", COUNT);
    thread::sleep(LATE);

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    for attempt in app.wait_attempts(SOON, COUNT).unwrap() {
        assert!(attempt.is_connected() && attempt.elapsed() >= LATE, "{attempt:?}");
    }
    assert!(app.wait(SOON).unwrap().success());
    wait_for_all(&agent, &pod, "connect released", COUNT);
    wait_for(&agent, &pod, "gate detached");
    let cookies = |message| {
        let lines = lines(&agent, &pod, message);
        assert_eq!(lines.len(), COUNT, "{message}");
        lines.iter().map(|line| line["cookie"].as_u64().unwrap()).collect::<HashSet<_>>()
    };
    let held = cookies("connect held");
    assert_eq!(held.len(), COUNT, "a line for each socket");
    assert_eq!(held, cookies("connect released"));
    for released in lines(&agent, &pod, "connect released") {
        assert_eq!(released["outcome"], "connected");
    }
    assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty());
}

#[test]
fn without_a_bpf_file_system_a_killed_agent_leaves_no_program_and_no_connect_waiting() {
    let (_node, agent, pod, app) = holding(&options().without_bpffs());
    let warns =
        "no BPF file system at /sys/fs/bpf, and no --bpffs: gates open when this agent ends";
    assert_eq!(agent.logged(warns).len(), 1);
    agent.kill();
    goes_on(&pod, &app);
}

#[test]
fn an_agent_that_is_told_to_stop_lets_the_held_connects_go() {
    let (_node, agent, pod, app) = holding(&options());
    assert!(agent.stop(SOON).unwrap().success());
    assert_eq!(agent.logged("stopping; all gates open").len(), 1);
    assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty(), "stopped, yet not detached");
    goes_on(&pod, &app);
}

/// A node on which the agent holds one connect of one pod, for two seconds or more: the socket has
/// then been given a larger budget of retransmissions.
fn holding(options: &AgentOptions) -> (Node, Agent, Pod, Process) {
    let node = enabled_node();
    let agent = start_agent_with(&node, options);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    assert!(!bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    thread::sleep(Duration::from_secs(2));
    assert!(app.exit_status().is_none(), "the connect does not wait");
    (node, agent, pod, app)
}

/// With the agent gone the pod is as it would be without holdfast: no program, and a connect that
/// is refused until the proxy is there.
fn goes_on(pod: &Pod, app: &Process) {
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let client = apps::connect(backend_v4()).unwrap().get("/bytes/1000");
    let app = pod.start_container("app", client).unwrap();
    assert!(app.wait_body(SOON).unwrap().ok);
}
