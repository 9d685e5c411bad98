//! Every mesh's own rules, with a real Envoy behind them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use testbed::{BACKEND_PORTS, Mesh, PodSpec, apps, backend_v4, backend_v4_mapped, backend_v6, bpf};

use crate::common::{
    LATE, SOON, assert_released, dials, enabled_node, events, eventually, idle, lines, start_agent,
    wait_for, wait_for_all,
};

fn specs() -> Vec<(&'static str, PodSpec, Mesh)> {
    let spec = |name: &'static str, mesh| (name, PodSpec::new("shop", name).mesh(mesh), mesh);
    let but = |(name, spec, mesh): (_, PodSpec, _), change: fn(PodSpec) -> PodSpec| {
        (name, change(spec), mesh)
    };
    vec![
        but(spec("istio-nft", Mesh::Istio), PodSpec::nftables),
        but(spec("istio-tproxy", Mesh::Istio), PodSpec::tproxy),
        but(spec("istio-native", Mesh::Istio), PodSpec::native_sidecar),
        spec("linkerd", Mesh::Linkerd),
        but(spec("linkerd-native", Mesh::Linkerd), PodSpec::native_sidecar),
        spec("kuma", Mesh::Kuma),
        but(spec("kuma-native", Mesh::Kuma), PodSpec::native_sidecar),
    ]
}

#[test]
fn connects_wait_for_the_proxy_of_every_mesh() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, spec, _) in specs() {
        let pod = node.create_pod(spec.containers(["v4", "v6", "mapped"])).unwrap();
        let apps = [("v4", backend_v4()), ("v6", backend_v6()), ("mapped", backend_v4_mapped())]
            .map(|(container, to)| dials(&pod, container, to));
        wait_for_all(&agent, &pod, "connect held", apps.len());
        thread::sleep(LATE);
        let proxy = pod.start_proxy().unwrap();
        let ready_ns = proxy.wait_ready(SOON).unwrap();
        for app in &apps {
            assert_released(app, ready_ns, name);
        }
        for released in wait_for_all(&agent, &pod, "connect released", apps.len()) {
            assert_eq!(released["outcome"], "connected", "{name}");
        }
        wait_for(&agent, &pod, "gate detached");
        assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty(), "{name}");
    }
}

#[test]
fn the_proxy_of_every_mesh_dials_freely() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, spec, mesh) in specs() {
        let pod = node.create_pod(spec.clone()).unwrap();
        wait_for(&agent, &pod, "gate closed");
        let _proxy = idle(&pod, mesh.proxy());
        // TPROXY's proxy is root, of its own group: the rules look at either.
        let user = mesh.user();
        let uid = if name == "istio-tproxy" { 0 } else { user.uid };
        for to in [backend_v4(), backend_v6()] {
            let client = apps::connect(to).unwrap().user(uid, user.gid).get("/bytes/1000");
            let app = pod.exec(mesh.proxy(), client).unwrap();
            assert!(app.wait_attempt(SOON).unwrap().is_connected(), "{name} {to}");
        }
        // Its own port: nobody is there yet, which it is told like anybody without holdfast.
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let client = apps::connect(SocketAddr::new(ip, mesh.port())).unwrap();
            let app = pod.exec(mesh.proxy(), client.user(uid, user.gid)).unwrap();
            assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED", "{name} {ip}");
        }
    }
}

#[test]
fn ports_that_a_mesh_excludes_are_not_held() {
    let excluded = BACKEND_PORTS[2];
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, spec, _) in specs() {
        let pod =
            node.create_pod(spec.exclude_port(excluded).containers(["app", "direct"])).unwrap();
        let app = dials(&pod, "app", backend_v4());
        wait_for(&agent, &pod, "connect held");
        let direct = dials(&pod, "direct", SocketAddr::new(backend_v4().ip(), excluded));
        assert!(direct.wait_attempt(SOON).unwrap().is_connected(), "{name}");
        assert!(app.exit_status().is_none(), "{name}: the other connect does not wait");
        assert_eq!(lines(&agent, &pod, "connect held").len(), 1, "{name}");
    }
}

#[test]
fn connections_into_a_pod_are_served_while_its_own_connect_has_waited() {
    const PORT: u16 = 8123;
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, spec) in [
        ("redirect", PodSpec::new("shop", "redirect")),
        ("tproxy", PodSpec::new("shop", "tproxy").tproxy()),
        ("linkerd", PodSpec::new("shop", "linkerd").mesh(Mesh::Linkerd)),
    ] {
        let pod = node.create_pod(spec.containers(["server", "app"])).unwrap();
        let server = pod.start_container("server", apps::serve(PORT).unwrap()).unwrap();
        server.wait_record(SOON, |line| line["event"] == "listening").unwrap();
        let app = dials(&pod, "app", backend_v4());
        wait_for(&agent, &pod, "connect held");
        let proxy = pod.start_proxy().unwrap();
        assert_released(&app, proxy.wait_ready(SOON).unwrap(), name);
        for to in [SocketAddr::from((pod.ip_v4(), PORT)), SocketAddr::from((pod.ip_v6(), PORT))] {
            let client = apps::connect(to).unwrap().get("/port");
            let text = node.start_outside(client).unwrap().wait_body(SOON).unwrap().text;
            assert_eq!(text.as_deref(), Some("8123"), "{name} {to}");
        }
    }
}

#[test]
fn a_pod_that_is_meshed_but_not_redirected_is_reported_and_not_delayed() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec =
        PodSpec::new("shop", "cart").not_redirected().annotation("holdfast.dev/timeout", "5s");
    let pod = node.create_pod(spec).unwrap();
    wait_for(&agent, &pod, "gate closed");
    let app = dials(&pod, "app", backend_v4());
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected(), "{attempt:?}");
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let warning = wait_for(
        &agent,
        &pod,
        "pod is meshed but not redirected: connects left it, and none came to the proxy's port",
    );
    assert_eq!(warning["profile"], "istio");
    assert_eq!(warning["around"], 1);
    assert!(lines(&agent, &pod, "connect held").is_empty());
    eventually("an Event tells the pod's owner", || {
        events(&node, &pod).iter().any(|event| event["reason"] == "NotRedirected")
    });
    thread::sleep(Duration::from_millis(200));
    assert_eq!(events(&node, &pod).len(), 1, "once");
}
