//! DNS queries that the mesh captures wait as connects do; those that it does not are not touched.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use testbed::{
    Agent, BACKEND_V4, Mesh, NAMESERVER_V4, NAMESERVER_V6, Node, Pod, PodSpec, Process, apps,
    apps::Resolver, backend_v4, dns,
};

use crate::common::{
    LATE, RELEASED_WITHIN, SOON, assert_released, dials, enabled_node, idle, lines, start_agent,
    wait_for,
};

const NAMESERVERS: [IpAddr; 2] = [IpAddr::V4(NAMESERVER_V4), IpAddr::V6(NAMESERVER_V6)];

fn looks_up(pod: &Pod, resolver: Resolver) -> Process {
    pod.exec("app", apps::lookup(resolver, dns::SERVICE_FQDN).unwrap()).unwrap()
}

/// Waits until a query, or over TCP a connect, of this process is held.
fn wait_held(agent: &Agent, app: &Process) {
    agent
        .wait_log(SOON, |line| {
            (line["message"] == "DNS query held" || line["message"] == "connect held")
                && line["pid"] == app.pid()
        })
        .unwrap();
}

/// Every resolver looks up at once, waits, and has its answer right after the proxy is ready.
fn all_wait_for_the_proxy(node: &Node, agent: &Agent, spec: PodSpec, resolvers: &[Resolver]) {
    let pod = node.create_pod(spec).unwrap();
    let name = pod.name();
    let _idle = idle(&pod, "app");
    let apps: Vec<_> =
        resolvers.iter().map(|resolver| (resolver, looks_up(&pod, *resolver))).collect();
    for (_, app) in &apps {
        wait_held(agent, app);
    }
    let proxy = pod.start_proxy().unwrap();
    let ready_ns = proxy.wait_ready(SOON).unwrap();
    for (resolver, app) in &apps {
        let lookup = app.wait_lookup(SOON).unwrap();
        assert_eq!(lookup.outcome, "ok", "{name} {resolver:?}: {:?}", app.stderr());
        assert!(lookup.addresses.contains(&BACKEND_V4.into()), "{name} {resolver:?}");
        assert!(lookup.start_ns < ready_ns, "{name} {resolver:?} did not wait");
        let after = Duration::from_nanos(lookup.end_ns.saturating_sub(ready_ns));
        assert!(after < RELEASED_WITHIN, "{name} {resolver:?}: {after:?} after readiness");
    }
    let released = wait_for(agent, &pod, "DNS query released");
    assert_eq!(released["outcome"], "query sent");
    wait_for(agent, &pod, "gate detached");
}

#[test]
fn every_resolver_waits_for_the_proxy_that_captures_its_query() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for nameserver in NAMESERVERS {
        let name = if nameserver.is_ipv4() { "v4" } else { "v6" };
        let spec = PodSpec::new("shop", name).dns_capture().nameserver(nameserver);
        all_wait_for_the_proxy(&node, &agent, spec, &Resolver::ALL);
    }
    // What Envoy passes on comes over TCP; no datagram has gone past it.
    assert!(node.dns_queries().iter().all(|query| query["over"] == "tcp"));
}

#[test]
fn kuma_s_and_nftables_captured_queries_wait_as_well() {
    const SOME: [Resolver; 3] = [Resolver::Glibc, Resolver::Musl, Resolver::Go];
    let node = enabled_node();
    let agent = start_agent(&node);
    for nameserver in NAMESERVERS {
        let family = if nameserver.is_ipv4() { "v4" } else { "v6" };
        let spec = |name: &str| {
            PodSpec::new("shop", format!("{name}-{family}")).dns_capture().nameserver(nameserver)
        };
        all_wait_for_the_proxy(&node, &agent, spec("kuma").mesh(Mesh::Kuma), &SOME);
        all_wait_for_the_proxy(&node, &agent, spec("nft").nftables(), &SOME);
    }
}

#[test]
fn a_name_that_is_looked_up_first_and_then_dialled_costs_one_hold() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").dns_capture().nameserver(NAMESERVER_V4);
    let pod = node.create_pod(spec).unwrap();
    let _idle = idle(&pod, "app");
    let lookup = looks_up(&pod, Resolver::Glibc);
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap().get("/bytes/1000")).unwrap();
    wait_held(&agent, &lookup);
    wait_held(&agent, &app);
    let proxy = pod.start_proxy().unwrap();
    let ready_ns = proxy.wait_ready(SOON).unwrap();
    assert_released(&app, ready_ns, "connect");
    assert_eq!(lookup.wait_lookup(SOON).unwrap().outcome, "ok");
}

#[test]
fn a_query_that_nothing_captures_goes_to_the_cluster_s_server_at_once() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = |name: &str, mesh| PodSpec::new("shop", name).mesh(mesh);
    for spec in
        [spec("istio", Mesh::Istio), spec("linkerd", Mesh::Linkerd), spec("kuma", Mesh::Kuma)]
    {
        for nameserver in NAMESERVERS {
            let pod = node.create_pod(spec.clone().nameserver(nameserver)).unwrap();
            let name = pod.name();
            let app = dials(&pod, "app", backend_v4());
            wait_for(&agent, &pod, "connect held");
            for resolver in [Resolver::Glibc, Resolver::Musl, Resolver::NodeResolve] {
                let lookup = looks_up(&pod, resolver).wait_lookup(SOON).unwrap();
                assert_eq!(lookup.outcome, "ok", "{name} {resolver:?}");
            }
            assert!(app.exit_status().is_none(), "{name}: the connect does not wait");
            assert!(lines(&agent, &pod, "DNS query held").is_empty(), "{name}");
            let proxy = pod.start_proxy().unwrap();
            assert_released(&app, proxy.wait_ready(SOON).unwrap(), name);
        }
    }
}

/// A lookup that waits, and all that keeps it alive.
struct Held {
    _node: Node,
    agent: Agent,
    pod: Pod,
    _idle: Process,
    lookup: Process,
}

fn held_lookup(resolver: Resolver) -> Held {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").dns_capture().nameserver(NAMESERVER_V4);
    let pod = node.create_pod(spec).unwrap();
    let idle = idle(&pod, "app");
    let lookup = looks_up(&pod, resolver);
    wait_held(&agent, &lookup);
    Held { _node: node, agent, pod, _idle: idle, lookup }
}

#[test]
fn a_resolver_gives_up_when_it_would_have_given_up() {
    /// musl's own limit for a whole lookup.
    const GIVES_UP: Duration = Duration::from_secs(5);
    let Held { _node, agent, pod, _idle, lookup } = held_lookup(Resolver::Musl);
    let lookup = lookup.wait_lookup(SOON).unwrap();
    assert_eq!(lookup.outcome, "timeout");
    assert!(Duration::from_nanos(lookup.end_ns - lookup.start_ns) >= GIVES_UP);
    // Its place is free for the next one, which is answered.
    let next = looks_up(&pod, Resolver::Musl);
    wait_held(&agent, &next);
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert_eq!(next.wait_lookup(SOON).unwrap().outcome, "ok");
}

#[test]
fn glibc_is_told_that_nobody_answers_no_later_than_without_holdfast() {
    /// Two tries of five seconds each, and the search list's four names.
    const AT_MOST: Duration = Duration::from_secs(45);
    let Held { _node, agent: _agent, pod: _pod, _idle, lookup } = held_lookup(Resolver::Glibc);
    let started = Instant::now();
    thread::sleep(LATE);
    assert!(lookup.exit_status().is_none(), "it failed at once: the error reached it");
    let lookup = lookup.wait_lookup(AT_MOST).unwrap();
    assert_ne!(lookup.outcome, "ok");
    assert!(started.elapsed() < AT_MOST);
}
