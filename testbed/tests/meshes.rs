//! The rules and the proxy of each mesh, with no agent anywhere: refused before the proxy is there,
//! served afterwards. Needs root; without it these tests fail.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use testbed::{
    BACKEND_PORTS, BACKEND_V4, Mesh, NAMESERVER_V4, NAMESERVER_V6, Node, Pod, PodSpec, Resource,
    apps, apps::Resolver, backend_v4, backend_v4_mapped, backend_v6, dns,
};

const SOON: Duration = Duration::from_secs(20);

/// Waits for what another process has printed already.
fn eventually(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened");
        thread::sleep(Duration::from_millis(5));
    }
}

/// How the connects of one client after the other to these destinations end.
fn dial(pod: &Pod, to: &[SocketAddr]) -> Result<Vec<String>> {
    to.iter()
        .map(|to| {
            let app = pod.start_container("app", apps::connect(*to)?.get("/bytes/1000"))?;
            let attempt = app.wait_attempt(SOON)?;
            assert!(!attempt.is_connected() || app.wait_body(SOON)?.ok, "{to}");
            Ok(attempt.outcome)
        })
        .collect()
}

fn is_refused_then_served(node: &Node, spec: PodSpec, to: &[SocketAddr]) -> Result<Pod> {
    let pod = node.create_pod(spec)?;
    let name = pod.name();
    assert_eq!(dial(&pod, to)?, vec!["ECONNREFUSED"; to.len()], "{name} without its proxy");
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    assert_eq!(dial(&pod, to)?, vec!["connected"; to.len()], "{name} with its proxy");
    proxy.kill();
    assert_eq!(dial(&pod, &to[..1])?, ["ECONNREFUSED"], "{name} after its proxy's death");
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    assert_eq!(dial(&pod, &to[..1])?, ["connected"], "{name} after its proxy's restart");
    drop(proxy);
    Ok(pod)
}

#[test]
fn every_mesh_redirects_both_families_to_its_proxy() -> Result<()> {
    let node = Node::new()?;
    let to = [backend_v4(), backend_v6(), backend_v4_mapped()];
    let spec = |name: &str, mesh| PodSpec::new("shop", name).mesh(mesh);
    for spec in [
        spec("istio", Mesh::Istio),
        spec("istio-native", Mesh::Istio).native_sidecar(),
        spec("istio-nft", Mesh::Istio).nftables(),
        spec("istio-tproxy", Mesh::Istio).tproxy(),
        spec("linkerd", Mesh::Linkerd),
        spec("kuma", Mesh::Kuma),
        spec("kuma-dns", Mesh::Kuma).dns_capture(),
    ] {
        is_refused_then_served(&node, spec, &to)?;
    }
    Ok(())
}

#[test]
fn excluded_ports_go_direct_in_every_mesh() -> Result<()> {
    let node = Node::new()?;
    let excluded = BACKEND_PORTS[2];
    let to =
        [SocketAddr::from((BACKEND_V4, excluded)), SocketAddr::new(backend_v6().ip(), excluded)];
    let spec = |name: &str, mesh| PodSpec::new("shop", name).mesh(mesh).exclude_port(excluded);
    for spec in [
        spec("istio-nft", Mesh::Istio).nftables(),
        spec("linkerd", Mesh::Linkerd),
        spec("kuma", Mesh::Kuma),
    ] {
        let pod = node.create_pod(spec)?;
        assert_eq!(dial(&pod, &to)?, ["connected"; 2], "{}", pod.name());
        assert_eq!(dial(&pod, &[backend_v4()])?, ["ECONNREFUSED"], "{}", pod.name());
    }
    Ok(())
}

#[test]
fn a_pod_that_nothing_was_written_into_goes_direct() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart").not_redirected())?;
    assert_eq!(dial(&pod, &[backend_v4(), backend_v6()])?, ["connected"; 2]);
    Ok(())
}

#[test]
fn explicit_side_cars_serve_the_ports_that_applications_dial() -> Result<()> {
    let node = Node::new()?;
    for (name, mesh) in [("dapr", Mesh::Dapr), ("sql", Mesh::CloudSql), ("own", Mesh::Own)] {
        let to = [
            SocketAddr::from(([127, 0, 0, 1], mesh.port())),
            SocketAddr::from((Ipv6Addr::LOCALHOST, mesh.port())),
        ];
        let pod = is_refused_then_served(&node, PodSpec::new("shop", name).mesh(mesh), &to)?;
        assert_eq!(dial(&pod, &[backend_v4()])?, ["connected"], "{name}: nothing is redirected");
    }
    Ok(())
}

#[test]
fn daprd_is_healthy_outbound_before_the_application_is_there() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart").mesh(Mesh::Dapr))?;
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    let public = SocketAddr::from(([127, 0, 0, 1], 3501));
    let status = |path: &str| -> Result<u16> {
        let app = pod.start_container("app", apps::connect(public)?.get(path))?;
        Ok(app.wait_body(SOON)?.status)
    };
    assert_eq!(status("/v1.0/healthz/outbound")?, 204);
    assert_eq!(status("/v1.0/healthz")?, 503, "the application does not listen yet");
    Ok(())
}

#[test]
fn connections_into_a_pod_reach_the_application_through_its_proxy() -> Result<()> {
    const PORT: u16 = 8123;
    let node = Node::new()?;
    let spec = |name: &str| PodSpec::new("shop", name);
    for spec in [
        spec("redirect"),
        spec("nft").nftables(),
        spec("tproxy").tproxy(),
        spec("linkerd").mesh(Mesh::Linkerd),
        spec("kuma").mesh(Mesh::Kuma),
    ] {
        let pod = node.create_pod(spec)?;
        let server = pod.start_container("app", apps::serve(PORT)?)?;
        server.wait_record(SOON, |line| line["event"] == "listening")?;
        let to = [SocketAddr::from((pod.ip_v4(), PORT)), SocketAddr::from((pod.ip_v6(), PORT))];
        for to in to {
            // Without a socket to go to, TPROXY drops what NAT would have had refused.
            let patience = Duration::from_millis(300);
            let caller = node.start_outside(apps::connect(to)?.connect_timeout(patience))?;
            assert!(!caller.wait_attempt(SOON)?.is_connected(), "{} {to}", pod.name());
        }
        let proxy = pod.start_proxy()?;
        proxy.wait_ready(SOON)?;
        for to in to {
            let caller = node.start_outside(apps::connect(to)?.get("/port"))?;
            let text = caller.wait_body(SOON)?.text;
            assert_eq!(text.as_deref(), Some("8123"), "{} {to}", pod.name());
        }
    }
    Ok(())
}

#[test]
fn every_resolver_asks_the_cluster_s_server_where_dns_is_not_captured() -> Result<()> {
    let node = Node::new()?;
    for nameserver in [IpAddr::V4(NAMESERVER_V4), IpAddr::V6(NAMESERVER_V6)] {
        let spec = PodSpec::new("shop", "cart").nameserver(nameserver);
        let pod = node.create_pod(spec)?;
        for resolver in Resolver::ALL {
            // Plain TCP is redirected; there is no proxy here.
            if resolver == Resolver::Tcp {
                continue;
            }
            let asked = node.dns_queries().len();
            let app = pod.start_container("app", apps::lookup(resolver, dns::SERVICE_FQDN)?)?;
            let lookup = app.wait_lookup(SOON)?;
            assert_eq!(lookup.outcome, "ok", "{resolver:?} {nameserver}: {:?}", app.stderr());
            assert!(lookup.addresses.contains(&BACKEND_V4.into()), "{resolver:?}: {lookup:?}");
            eventually(|| node.dns_queries().len() > asked);
        }
    }
    Ok(())
}

#[test]
fn every_resolver_asks_the_proxy_where_dns_is_captured() -> Result<()> {
    let node = Node::new()?;
    let spec = |name: &str| PodSpec::new("shop", name).dns_capture();
    for (spec, nameserver) in [
        (spec("istio-v4"), IpAddr::V4(NAMESERVER_V4)),
        (spec("istio-v6"), IpAddr::V6(NAMESERVER_V6)),
        (spec("istio-nft-v4").nftables(), IpAddr::V4(NAMESERVER_V4)),
        (spec("istio-nft-v6").nftables(), IpAddr::V6(NAMESERVER_V6)),
        (spec("kuma-v4").mesh(Mesh::Kuma), IpAddr::V4(NAMESERVER_V4)),
        (spec("kuma-v6").mesh(Mesh::Kuma), IpAddr::V6(NAMESERVER_V6)),
    ] {
        let pod = node.create_pod(spec.nameserver(nameserver))?;
        let proxy = pod.start_proxy()?;
        proxy.wait_ready(SOON)?;
        for resolver in Resolver::ALL {
            let asked = node.dns_queries().len();
            let app = pod.start_container("app", apps::lookup(resolver, dns::SERVICE_FQDN)?)?;
            let lookup = app.wait_lookup(SOON)?;
            let name = pod.name();
            assert_eq!(lookup.outcome, "ok", "{name} {resolver:?}: {:?}", app.stderr());
            assert!(lookup.addresses.contains(&BACKEND_V4.into()), "{name} {resolver:?}");
            // Envoy answers datagrams itself and passes on what comes over TCP.
            let expected = if resolver == Resolver::Tcp { asked + 2 } else { asked };
            eventually(|| node.dns_queries().len() >= expected);
            assert_eq!(node.dns_queries().len(), expected, "{name} {resolver:?}");
        }
    }
    Ok(())
}

#[test]
fn a_captured_query_is_lost_while_no_proxy_is_there() -> Result<()> {
    /// musl's, the shortest of the resolvers'.
    const RETRY_EVERY: Duration = Duration::from_millis(2_500);
    let node = Node::new()?;
    let spec = PodSpec::new("shop", "cart").dns_capture().nameserver(NAMESERVER_V4);
    let pod = node.create_pod(spec)?;
    let app = pod.start_container("app", apps::lookup(Resolver::Musl, dns::SERVICE_FQDN)?)?;
    app.wait_record(SOON, |line| line["event"] == "looking-up")?;
    thread::sleep(Duration::from_millis(300));
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    // The kernel's word that nobody listens is lost between conntrack's zones: only a retry helps.
    let lookup = app.wait_lookup(SOON)?;
    assert!(lookup.end_ns - lookup.start_ns >= RETRY_EVERY.as_nanos() as u64, "{lookup:?}");
    assert!(node.dns_queries().is_empty());
    Ok(())
}

#[test]
fn marks_of_each_mesh_are_on_its_pods() -> Result<()> {
    let node = Node::new()?;
    for (name, mesh, kind, mark) in [
        ("istio", Mesh::Istio, "annotations", "sidecar.istio.io/status"),
        ("linkerd", Mesh::Linkerd, "labels", "linkerd.io/control-plane-ns"),
        ("kuma", Mesh::Kuma, "annotations", "kuma.io/sidecar-injected"),
        ("dapr", Mesh::Dapr, "labels", "dapr.io/sidecar-injected"),
        ("own", Mesh::Own, "annotations", "holdfast.dev/proxy"),
    ] {
        for native in [false, true] {
            let name = format!("{name}-{native}");
            let mut spec = PodSpec::new("shop", &name).mesh(mesh);
            if native {
                spec = spec.native_sidecar();
            }
            let pod = node.pod(spec)?;
            pod.publish()?;
            let object = node.api().get(Resource::Pods, Some("shop"), &name).unwrap_or_default();
            assert!(object["metadata"][kind][mark].is_string(), "{name}");
            let list = if native { "initContainers" } else { "containers" };
            let proxy = object["spec"][list].as_array().into_iter().flatten();
            let mut proxy = proxy.filter(|one| one["name"] == mesh.proxy());
            let proxy = proxy.next().cloned().unwrap_or_default();
            let restarts = if native { "Always".into() } else { serde_json::Value::Null };
            assert_eq!(proxy["restartPolicy"], restarts, "{name}");
            let uid = proxy["securityContext"]["runAsUser"].as_u64();
            let expected = (mesh != Mesh::Own).then(|| u64::from(mesh.user().uid));
            assert_eq!(uid, expected, "{name}");
        }
    }
    Ok(())
}
