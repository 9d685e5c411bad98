//! A proxy that dies in the middle of its pod's life, and comes back.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use testbed::{
    BACKEND_PORTS, BACKEND_V4, Mesh, Node, PROXY, Pod, PodSpec, Proxy, apps, apps::Load,
    backend_v4, bpf, clock::monotonic_ns,
};

use crate::common::{
    LATE, SOON, assert_released, dials, enabled_node, eventually, idle, lines, start_agent,
    wait_for, wait_for_all,
};

const GUARD: (&str, &str) = ("holdfast.dev/guard", "enabled");

fn ready_proxy(pod: &Pod) -> Proxy {
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    proxy
}

/// Waits until the gate has been closed for the `count`th time, this time for the proxy's death.
fn wait_closed_again(agent: &testbed::Agent, pod: &Pod, count: usize) {
    let closed = wait_for_all(agent, pod, "gate closed", count);
    assert_eq!(closed[count - 1]["reason"], "the proxy's container has ended");
}

#[test]
fn connects_after_the_proxy_s_death_wait_for_the_next_one() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, mesh, native) in [
        ("istio", Mesh::Istio, false),
        ("istio-native", Mesh::Istio, true),
        ("linkerd", Mesh::Linkerd, false),
    ] {
        let spec =
            PodSpec::new("shop", name).mesh(mesh).annotation("holdfast.dev/guard", "disabled");
        let pod = node.create_pod(if native { spec.native_sidecar() } else { spec }).unwrap();
        let _app = idle(&pod, "app");
        let mut proxy = ready_proxy(&pod);
        for deaths in 1..=2 {
            wait_for_all(&agent, &pod, "gate detached", deaths);
            assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty(), "{name}");
            proxy.kill();
            wait_closed_again(&agent, &pod, deaths + 1);
            let client = apps::connect(backend_v4()).unwrap().get("/bytes/1000");
            let app = pod.exec("app", client).unwrap();
            wait_for_all(&agent, &pod, "connect held", deaths);
            thread::sleep(LATE);
            assert!(app.exit_status().is_none(), "{name}: the connect does not wait");
            proxy = pod.start_proxy().unwrap();
            assert_released(&app, proxy.wait_ready(SOON).unwrap(), name);
        }
    }
}

#[test]
fn a_dead_container_that_the_runtime_has_not_removed_is_dead() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _app = idle(&pod, "app");
    pod.keep_dead_containers();
    let proxy = ready_proxy(&pod);
    wait_for(&agent, &pod, "gate opened");
    let cgroup = pod.container_cgroup(PROXY).unwrap();
    proxy.kill();
    wait_closed_again(&agent, &pod, 2);
    assert!(cgroup.path().exists() && !cgroup.is_populated().unwrap());
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap().get("/bytes/1000")).unwrap();
    wait_for(&agent, &pod, "connect held");
    pod.remove_dead().unwrap();
    assert!(!cgroup.path().exists());
    let proxy = pod.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "after the removal");
}

#[test]
fn kubelet_s_outdated_word_about_a_dead_proxy_opens_nothing() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _app = idle(&pod, "app");
    let proxy = ready_proxy(&pod);
    pod.set_kube_ready(PROXY, true).unwrap();
    wait_for(&agent, &pod, "gate opened");
    proxy.kill();
    wait_closed_again(&agent, &pod, 2);
    let client = apps::connect(backend_v4()).unwrap().get("/bytes/1000");
    let app = pod.exec("app", client).unwrap();
    wait_for(&agent, &pod, "connect held");
    pod.set_kube_ready(PROXY, true).unwrap();
    thread::sleep(LATE);
    assert!(app.exit_status().is_none(), "let go on the word about a dead container");
    let proxy = pod.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "the next one");
}

#[test]
fn a_proxy_that_drains_with_its_terminating_pod_closes_nothing() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, guard) in [("plain", "disabled"), ("guarded", "enabled")] {
        let spec = PodSpec::new("shop", name).annotation(GUARD.0, guard);
        let pod = node.create_pod(spec).unwrap();
        let _app = idle(&pod, "app");
        let proxy = ready_proxy(&pod);
        wait_for(&agent, &pod, "gate opened");
        pod.mark_terminating();
        eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
        proxy.stop().unwrap();
        for _ in 0..3 {
            // The application's own shutdown calls fail at once, as without holdfast.
            let app = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
            assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED", "{name}");
        }
        assert_eq!(lines(&agent, &pod, "gate closed").len(), 1, "{name}");
    }
}

#[test]
fn the_guard_holds_the_very_connect_that_finds_nobody() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").mesh(Mesh::Own).annotation(GUARD.0, GUARD.1);
    let pod = node.create_pod(spec).unwrap();
    let _app = idle(&pod, "app");
    // A proxy of two processes, of which one listens: its end is not the container's.
    let _container = idle(&pod, Mesh::Own.proxy());
    let listen = || {
        let listener = apps::listener(Mesh::Own.port(), 16).unwrap();
        let listener = pod.exec(Mesh::Own.proxy(), listener).unwrap();
        listener.wait_record(SOON, |line| line["event"] == "listening").unwrap();
        listener
    };
    let dial = || {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, Mesh::Own.port()));
        pod.exec("app", apps::connect(to).unwrap()).unwrap()
    };
    let mut listener = listen();
    wait_for(&agent, &pod, "gate guards");
    for round in 1..=2 {
        assert!(dial().wait_attempt(SOON).unwrap().is_connected());
        assert_eq!(lines(&agent, &pod, "connect held").len(), round - 1);
        listener.kill();
        let app = dial();
        wait_for_all(&agent, &pod, "connect held", round);
        thread::sleep(LATE);
        assert!(app.exit_status().is_none(), "the connect does not wait");
        listener = listen();
        assert!(app.wait_attempt(SOON).unwrap().is_connected());
        wait_for_all(&agent, &pod, "gate guards", round + 1);
    }
}

/// Connects at this rate, in the short form as in the long one.
const RATE: u32 = 1_000;

/// After a proxy's end. A SYN that found a listener may reach it when it has closed. That takes microseconds, but on a
/// machine whose cores all tests fight for the SYN may lie in a queue for so long; without the
/// guard connects are refused for the ten times longer that the proxy is away.
const CLOSES_WITHIN_NS: u64 = 50_000_000;

/// Kills and restarts the proxy several times under a steady load; gives what became of it, and from
/// when until when each proxy ended, with its listener.
fn kill_under_load(
    node: &Node,
    spec: PodSpec,
    time: Duration,
    kills: u32,
) -> (Load, Vec<Range<u64>>) {
    let agent = start_agent(node);
    let pod = node.create_pod(spec).unwrap();
    let netns = pod.netns().unwrap();
    // One address dials three ports for half a minute: neither its own ports nor conntrack's
    // entries may run out. The proxy's own ports lie below.
    netns.set_sysctl("net.ipv4.ip_local_port_range", "20000 65535").unwrap();
    netns.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1").unwrap();
    let mut proxy = ready_proxy(&pod);
    wait_for(&agent, &pod, "gate guards");
    let to = BACKEND_PORTS.map(|port| SocketAddr::from((BACKEND_V4, port)));
    let app = pod.start_container("app", apps::load(&to, RATE, time).unwrap()).unwrap();
    let started = Instant::now();
    let every = time / (kills + 1);
    let (mut away, mut ends_ns) = (Vec::new(), Vec::new());
    for kill in 1..=kills {
        thread::sleep((every * kill).saturating_sub(started.elapsed()));
        let killed = Instant::now();
        let from = monotonic_ns();
        proxy.kill();
        ends_ns.push(from..monotonic_ns());
        // The runtime's work; kubelet's back-off would be ten seconds the next time.
        thread::sleep(Duration::from_millis(300));
        proxy = ready_proxy(&pod);
        away.push(killed.elapsed());
    }
    let load = app.wait_load(time + Duration::from_secs(60)).unwrap();
    eprintln!("ended {ends_ns:?}, away for {away:?}: {load:?}");
    (load, ends_ns)
}

fn assert_survived(load: &Load, time: Duration) {
    let expected = u64::from(RATE) * time.as_millis() as u64 / 1000;
    assert_eq!(load.started, expected, "{load:?}");
    assert_eq!((load.failed, load.unfinished), (0, 0), "{load:?}");
    // What a dying proxy had accepted, or had in its queue, is lost with it.
    assert_eq!(load.ok + load.reset + load.cut + load.refused, load.started, "{load:?}");
    assert!(load.longest_wait_ms >= 300.0, "no connect ever waited: {load:?}");
}

#[test]
fn the_guard_lets_no_connect_be_refused_while_proxies_die_under_load() {
    let time = Duration::from_secs(8);
    let spec = PodSpec::new("shop", "cart").annotation(GUARD.0, GUARD.1);
    let (load, ends_ns) = kill_under_load(&enabled_node(), spec, time, 2);
    assert_survived(&load, time);
    for at in &load.refused_at_ns {
        let closes = |end: &Range<u64>| (end.start..end.end + CLOSES_WITHIN_NS).contains(at);
        let closing = ends_ns.iter().any(closes);
        assert!(closing, "refused while no listener was closing: {load:?}, ended {ends_ns:?}");
    }
}

#[test]
#[ignore = "half a minute of load that wants a machine of its own: --ignored"]
fn the_guard_survives_five_deaths_in_half_a_minute() {
    let time = Duration::from_secs(30);
    let spec = PodSpec::new("shop", "cart").annotation(GUARD.0, GUARD.1);
    let (load, _) = kill_under_load(&enabled_node(), spec, time, 5);
    assert_survived(&load, time);
    assert_eq!(load.refused, 0, "{load:?}");
}

#[test]
fn without_an_agent_the_same_load_is_refused() {
    let node = enabled_node();
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let proxy = ready_proxy(&pod);
    let client = apps::load(&[backend_v4()], RATE, Duration::from_secs(2)).unwrap();
    let app = pod.start_container("app", client).unwrap();
    thread::sleep(Duration::from_millis(500));
    proxy.kill();
    let load = app.wait_load(Duration::from_secs(60)).unwrap();
    assert!(load.refused > 0 && load.ok > 0, "{load:?}");
    assert_eq!(load.unfinished, 0, "{load:?}");
    // Another connect in its stead would be no better off.
    let app = dials(&pod, "app", backend_v4());
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
}
