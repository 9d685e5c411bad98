//! How long a connect is held at most, and that nothing else is held up.

use std::{net::SocketAddr, thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::{
    Agent, DEAD_V4, DEAD_V6, Node, Pod, PodSpec, Process, apps, backend_v4, backend_v6, bpf,
};

use crate::common::{
    SOON, enabled_node, lines, options, start_agent, start_agent_with, wait_for, wait_for_all,
};

/// `--timeout` of the tests in which the deadline passes.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How late a connect may learn that the deadline has passed.
const LATE_AT_MOST: Duration = Duration::from_secs(1);

/// Far longer than the 6 s for which a held SYN's own budget of retransmissions would last, and
/// longer than the 64 s that the kernel's largest budget lasts at 500 ms each.
const LONG: Duration = Duration::from_secs(75);

#[test]
fn a_connect_is_held_for_75_seconds_and_is_itself_again_afterwards() {
    const OWN_SYNCNT: u32 = 3;
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().arg("--timeout=120s"));
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(["app", "other"])).unwrap();
    let client = |to| apps::connect(to).unwrap().sockopts_after().get("/bytes/100000");
    let own = pod.start_container("app", client(backend_v4()).syncnt(OWN_SYNCNT)).unwrap();
    let default = pod.start_container("other", client(backend_v6())).unwrap();
    wait_for_all(&agent, &pod, "connect held", 2);
    thread::sleep(LONG);
    assert!(own.exit_status().is_none() && default.exit_status().is_none());

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    // Six retransmissions are the kernel's default (tcp_syn_retries).
    for (app, syncnt) in [(&own, OWN_SYNCNT), (&default, 6)] {
        let attempt = app.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected() && attempt.elapsed() >= LONG, "{attempt:?}");
        let sockopts = app.wait_record(SOON, |line| line["event"] == "sockopts").unwrap();
        assert_eq!(sockopts["tcp_syncnt"], syncnt);
        assert!(app.wait_body(SOON).unwrap().ok);
    }
    for released in wait_for_all(&agent, &pod, "connect released", 2) {
        assert_eq!(released["outcome"], "connected");
        assert!(released["held_ms"].as_f64().unwrap() >= LONG.as_millis() as f64);
    }
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "the proxy says it is ready");
    assert_eq!(opened["check"], "http://:15021/healthz/ready");
}

#[test]
fn at_the_deadline_the_application_sees_what_it_would_have_seen_without_a_hold() {
    let (_node, agent, pod) = node_with_timeout();
    // A gate that nobody waits at stays closed: what counts is how long a connect has waited.
    thread::sleep(TIMEOUT + Duration::from_secs(1));
    let (app, deadline) = held(&agent, &pod);
    let attempt = app.wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    assert_ends_at(deadline, attempt.end_ns);

    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "deadline passed");
    assert_eq!(opened["last_finding"], "nobody listens on port 15001");
    assert_ends_at(deadline, mono_ns(&opened));
    assert_eq!(wait_for(&agent, &pod, "connect released")["outcome"], "refused");
    wait_for(&agent, &pod, "gate detached");
    assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty());

    // The next one is not held any more.
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    assert_eq!(lines(&agent, &pod, "connect held").len(), 1);
}

#[test]
fn the_kernel_keeps_the_deadline_while_the_agent_stands_still() {
    let (_node, agent, pod) = node_with_timeout();
    let (app, deadline) = held(&agent, &pod);
    // The agent tells of a hold first and then sets the deadline that follows from it.
    thread::sleep(Duration::from_secs(1));
    agent.process().signal(Signal::SIGSTOP);
    let attempt = app.wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    assert_ends_at(deadline, attempt.end_ns);
    assert!(lines(&agent, &pod, "gate opened").is_empty(), "the agent did not stand still");

    agent.process().signal(Signal::SIGCONT);
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "deadline passed");
    assert!(mono_ns(&opened) >= attempt.end_ns);
    assert_eq!(wait_for(&agent, &pod, "connect released")["outcome"], "refused");
    wait_for(&agent, &pod, "gate detached");
    assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty());
}

#[test]
fn a_connect_to_a_dead_host_times_out_as_without_holdfast() {
    /// 7 s or 11 s, depending on the kernel's tcp_syn_linear_timeouts.
    const RETRIES: &str = "2";
    /// What timers and schedulers may add on a busy machine.
    const SLACK: Duration = Duration::from_secs(1);
    let node = enabled_node();
    let agent = start_agent(&node);
    let plain_node = Node::new().unwrap();
    let start = |node: &Node| {
        let spec = PodSpec::new("shop", "cart")
            .containers(["app", "other"])
            .exclude_cidr(format!("{DEAD_V4}/32"))
            .exclude_cidr(format!("{DEAD_V6}/128"));
        let pod = node.create_pod(spec).unwrap();
        // The sysctl counts for both families.
        pod.netns().unwrap().set_sysctl("net.ipv4.tcp_syn_retries", RETRIES).unwrap();
        let apps = [("app", DEAD_V4.into()), ("other", DEAD_V6.into())].map(|(name, ip)| {
            let client = apps::connect(SocketAddr::new(ip, 80)).unwrap();
            pod.start_container(name, client).unwrap()
        });
        (pod, apps)
    };
    let (_plain_pod, without) = start(&plain_node);
    let (pod, with) = start(&node);
    for (without, with) in without.iter().zip(&with) {
        let without = without.wait_attempt(3 * SOON).unwrap();
        let with = with.wait_attempt(3 * SOON).unwrap();
        assert_eq!(without.outcome, "ETIMEDOUT");
        assert_eq!(with.outcome, "ETIMEDOUT");
        let difference = with.elapsed().abs_diff(without.elapsed());
        assert!(difference < SLACK, "{without:?} {with:?}");
    }
    assert_eq!(lines(&agent, &pod, "gate closed").len(), 1);
    assert!(lines(&agent, &pod, "gate opened").is_empty(), "not behind a closed gate");
    assert!(lines(&agent, &pod, "connect held").is_empty());
}

/// A node whose agent holds a connect for [`TIMEOUT`] at most, and a pod with a closed gate.
fn node_with_timeout() -> (Node, Agent, Pod) {
    let node = enabled_node();
    let timeout = format!("--timeout={}ms", TIMEOUT.as_millis());
    let agent = start_agent_with(&node, &options().arg(timeout));
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    wait_for(&agent, &pod, "gate closed");
    (node, agent, pod)
}

/// A connect that is held, and its deadline in nanoseconds of `CLOCK_MONOTONIC`.
fn held(agent: &Agent, pod: &Pod) -> (Process, u64) {
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    let deadline = app.wait_connecting(SOON).unwrap() + TIMEOUT.as_nanos() as u64;
    wait_for(agent, pod, "connect held");
    assert!(app.exit_status().is_none(), "the connect does not wait");
    (app, deadline)
}

fn mono_ns(line: &Value) -> u64 {
    line["mono_ns"].as_u64().unwrap()
}

fn assert_ends_at(deadline: u64, end: u64) {
    let difference = Duration::from_nanos(end.abs_diff(deadline));
    assert!(difference <= LATE_AT_MOST, "{difference:?} off: deadline {deadline}, end {end}");
}
