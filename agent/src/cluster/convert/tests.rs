use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::fixtures,
    core::{Defaults, Detection, Profiles},
};

/// What is expected of one fixture: profile, container, uid, checks, ports, DNS port.
type Expected =
    (&'static str, &'static str, Option<u32>, &'static [&'static str], &'static [u16], Option<u16>);

fn detect(name: &str) -> (Detection, Vec<String>) {
    let pod = fixtures::pod(name);
    let namespace = NamespaceView {
        name: pod.name.namespace.to_string(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    };
    let profiles = Profiles::builtin();
    let (settings, mut problems) =
        crate::core::resolve(&pod, &namespace, &Defaults::default(), &profiles);
    let (detection, more) = profiles.detect(&pod, &settings);
    problems.extend(more);
    (detection, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn the_proxy_of_each_kind_of_pod_is_found_with_what_its_spec_says() {
    const ISTIO: &[&str] = &["http://:15021/healthz/ready"];
    let table: &[(&str, Expected)] = &[
        ("istio-classic", ("istio", "istio-proxy", Some(1337), ISTIO, &[15001], None)),
        ("istio-native", ("istio", "istio-proxy", Some(1337), ISTIO, &[15001], None)),
        ("istio-dns", ("istio", "istio-proxy", Some(1337), ISTIO, &[15001], Some(15053))),
        // Its proxy runs as root, as its application does.
        ("istio-tproxy", ("istio", "istio-proxy", None, ISTIO, &[15001], None)),
        (
            "linkerd-classic",
            ("linkerd", "linkerd-proxy", Some(3102), &["http://:5191/ready"], &[5140], None),
        ),
        (
            "linkerd-native",
            ("linkerd", "linkerd-proxy", Some(2102), &["http://:4191/ready"], &[4140], None),
        ),
        (
            "kuma-native",
            ("kuma", "kuma-sidecar", Some(5678), &["http://:9902/ready"], &[15001], Some(15053)),
        ),
        (
            "kuma-classic",
            ("kuma", "kuma-sidecar", Some(5678), &["http://:9901/ready"], &[15001], Some(15053)),
        ),
        (
            "consul",
            (
                "consul",
                "consul-dataplane",
                Some(5995),
                &["http://:19000/ready"],
                &[15001],
                Some(8600),
            ),
        ),
        ("osm", ("osm", "envoy", Some(1500), &["http://:15000/ready"], &[15001], None)),
        ("fsm", ("fsm", "sidecar", Some(1500), &["tcp://:15001"], &[15001], None)),
        (
            "dapr",
            (
                "dapr",
                "daprd",
                None,
                &["http://:3501/v1.0/healthz/outbound", "http://:3500/v1.0/healthz/outbound"],
                &[3500, 50001],
                None,
            ),
        ),
        (
            "dapr-native",
            (
                "dapr",
                "daprd",
                None,
                &["http://:3501/v1.0/healthz/outbound", "http://:3500/v1.0/healthz/outbound"],
                &[3500, 50101],
                None,
            ),
        ),
        (
            "cloud-sql-proxy",
            (
                "cloud-sql-proxy",
                "cloud-sql-proxy",
                None,
                &["http://:9801/startup", "tcp://:5432"],
                &[5432, 5433, 3306],
                None,
            ),
        ),
        (
            "own-proxy",
            ("gatekeeper", "gatekeeper", None, &["http://:6099/readyz"], &[6000, 6001], None),
        ),
    ];
    for (name, (profile, container, uid, checks, ports, dns_port)) in table {
        let (detection, problems) = detect(name);
        let Detection::Proxy(proxy) = detection else { panic!("{name}: {detection:?}") };
        assert_eq!((proxy.profile.as_str(), proxy.container.as_str()), (*profile, *container));
        assert_eq!(proxy.uid, *uid, "{name}");
        let found: Vec<_> = proxy.ready.iter().map(ToString::to_string).collect();
        assert_eq!(found, *checks, "{name}");
        assert_eq!((proxy.ports.as_slice(), proxy.dns_port), (*ports, *dns_port), "{name}");
        assert_eq!(
            proxy.redirects,
            !matches!(*name, "own-proxy" | "cloud-sql-proxy") && *profile != "dapr",
            "{name}"
        );
        assert_eq!(problems, <[String; 0]>::default(), "{name}");
    }
    let mut others: Vec<_> = fixtures::names();
    others.retain(|name| !table.iter().any(|(known, _)| known == name));
    assert_eq!(
        others,
        ["consul-upstreams", "gateway", "istio-ambient", "istio-none", "plain"],
        "each fixture stands in this table or in the next test"
    );
}

#[test]
fn pods_without_a_proxy_to_wait_for_are_known_and_the_reason_is_told() {
    let off = |profile: &str, mark: &str| Detection::RedirectOff {
        profile: profile.to_owned(),
        mark: mark.to_owned(),
    };
    let other = |profile: &str, mark: &str| Detection::NotThisKind {
        profile: profile.to_owned(),
        mark: mark.to_owned(),
    };
    for (name, expected) in [
        ("plain", Detection::None),
        ("istio-none", off("istio", "annotation sidecar.istio.io/interceptionMode=NONE")),
        (
            "consul-upstreams",
            off("consul", "no annotation consul.hashicorp.com/transparent-proxy-status=enabled"),
        ),
        ("istio-ambient", other("istio", "annotation ambient.istio.io/redirection=enabled")),
        ("gateway", other("istio", "annotation inject.istio.io/templates=gateway")),
    ] {
        assert_eq!(detect(name), (expected, Vec::new()), "{name}");
    }
}

#[test]
fn the_setup_containers_of_each_mesh_are_told_apart_from_the_pods_own() {
    for (name, expected) in [
        ("istio-classic", "istio-init"),
        ("istio-native", "istio-validation"),
        ("linkerd-classic", "linkerd-network-validator"),
        ("linkerd-native", "linkerd-init"),
        ("kuma-native", "kuma-init"),
        ("consul", "consul-connect-inject-init"),
        ("osm", "osm-init"),
        ("fsm", "fsm-init"),
    ] {
        let (detection, _) = detect(name);
        let proxy = detection.proxy().unwrap();
        assert_eq!(proxy.setup_containers, [expected], "{name}");
        assert!(proxy.is_setup(expected) && !proxy.is_setup("migrate"), "{name}");
    }
}

#[test]
fn a_container_is_reduced_to_what_tells_about_a_proxy() {
    let view = fixtures::pod("linkerd-native");
    let roles: Vec<_> = view.containers.iter().map(|c| (c.name.as_str(), c.role)).collect();
    assert_eq!(
        roles,
        [
            ("linkerd-init", ContainerRole::Init),
            ("linkerd-proxy", ContainerRole::Sidecar),
            ("migrate", ContainerRole::Init),
            ("cart", ContainerRole::App),
        ]
    );
    let init = &view.container("linkerd-init").unwrap().spec;
    assert_eq!(init.args[..2], ["/usr/lib/linkerd/linkerd2-proxy-init", "--ipv6=false"]);
    let proxy = &view.container("linkerd-proxy").unwrap().spec;
    assert_eq!(proxy.run_as_user, Some(2102));
    assert_eq!(proxy.ports["linkerd-admin"], 4191);
    assert_eq!(proxy.env["LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR"], "127.0.0.1:4140");
    assert!(!proxy.env.contains_key("_pod_ip"), "it has no literal value");
    let ready = ReadyCheck::Http { port: 4191, path: "/ready".to_owned() };
    assert_eq!(proxy.probes, [ready.clone(), ready]);
    assert!(!view.annotations.contains_key("linkerd.io/inject"), "no profile asks for it");

    let view = fixtures::pod("own-proxy");
    let named = ReadyCheck::Http { port: 6099, path: "/readyz".to_owned() };
    assert_eq!(view.container("gatekeeper").unwrap().spec.probes, [named]);
    let view = fixtures::pod("dapr");
    assert_eq!(view.container("daprd").unwrap().spec.run_as_user, Some(1000), "the pod's");
}

#[test]
fn a_sidecar_that_kubelet_waits_for_is_known() {
    for (fixture, container, expected) in [
        ("istio-native", "istio-proxy", true),
        ("linkerd-classic", "linkerd-proxy", true),
        // It has a readiness probe alone, and nobody waits for that.
        ("dapr-native", "daprd", false),
        ("istio-classic", "cart", false),
    ] {
        let view = fixtures::pod(fixture);
        assert_eq!(view.container(container).unwrap().spec.blocks_next, expected, "{fixture}");
    }
}

#[test]
fn probes_that_cannot_be_asked_on_the_loopback_are_left_out() {
    let probes = |probe: Value| {
        let pod: PodObject = serde_json::from_value(json!({
            "metadata": {"uid": "u", "name": "p", "namespace": "n"},
            "spec": {"containers": [{
                "name": "c",
                "ports": [{"name": "web", "containerPort": 80}],
                "readinessProbe": probe,
            }]},
        }))
        .unwrap();
        super::pod(&pod, &Kept::of(&Profiles::builtin())).unwrap().containers[0].spec.probes.clone()
    };
    let http = |port, path: &str| vec![ReadyCheck::Http { port, path: path.to_owned() }];
    for (probe, expected) in [
        (json!({"httpGet": {"port": "web", "path": "/x", "scheme": "HTTP"}}), http(80, "/x")),
        (json!({"httpGet": {"port": 81}}), http(81, "/")),
        (json!({"httpGet": {"port": "none", "path": "/x"}}), vec![]),
        (json!({"httpGet": {"port": 0, "path": "/x"}}), vec![]),
        (json!({"httpGet": {"port": 65_536, "path": "/x"}}), vec![]),
        (json!({"httpGet": {"port": 80, "path": "/x", "scheme": "HTTPS"}}), vec![]),
        (json!({"httpGet": {"port": 80, "path": "/x", "host": "10.0.0.1"}}), vec![]),
        (json!({"tcpSocket": {"port": "web"}}), vec![ReadyCheck::Tcp { port: 80 }]),
        (json!({"tcpSocket": {"port": 80, "host": "db"}}), vec![]),
        (json!({"exec": {"command": ["true"]}}), vec![]),
        (json!({"grpc": {"port": 80}}), vec![]),
    ] {
        assert_eq!(probes(probe.clone()), expected, "{probe}");
    }
}

#[test]
fn only_a_mirror_object_as_kubelet_makes_it_goes_by_its_manifests_hash() {
    const HASH: &str = "7f6ce3b5d0c1e2a49f8b7c6d5e4f3a2b";
    const UID: &str = "0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11";
    const OTHER: &str = "11111111-9d5c-4a53-9b1e-7a1f0c3d2e11";
    let uid = |hash: &str, mirror: &str, owner: &Value| {
        let pod: PodObject = serde_json::from_value(json!({
            "metadata": {
                "uid": UID,
                "name": "p",
                "namespace": "n",
                "annotations": {
                    "kubernetes.io/config.hash": hash,
                    "kubernetes.io/config.mirror": mirror,
                },
                "ownerReferences": owner,
            },
            "spec": {"containers": []},
        }))
        .unwrap();
        super::pod(&pod, &Kept::of(&Profiles::builtin())).unwrap().uid
    };
    let owner = |kind: &str, controller: bool| {
        json!([{
            "apiVersion": "v1", "kind": kind, "name": "node1", "uid": "x", "controller": controller,
        }])
    };
    let node = owner("Node", true);
    assert_eq!(uid(HASH, HASH, &node), PodUid::new(HASH));
    let upper = HASH.to_uppercase();
    for (hash, mirror, owner) in [
        (HASH, HASH, json!(null)),
        (HASH, HASH, owner("Node", false)),
        (HASH, HASH, owner("ReplicaSet", true)),
        (
            HASH,
            HASH,
            json!([{"apiVersion": "x.io/v1", "kind": "Node", "name": "n", "uid": "x", "controller": true}]),
        ),
        (HASH, "7f6ce3b5d0c1e2a49f8b7c6d5e4f3a2c", node.clone()),
        (OTHER, OTHER, node.clone()),
        (&upper, &upper, node.clone()),
        (&HASH[1..], &HASH[1..], node.clone()),
        ("", "", node.clone()),
    ] {
        assert_eq!(uid(hash, mirror, &owner), PodUid::new(UID), "{hash} {mirror} {owner}");
    }
}

#[test]
fn odd_numbers_in_a_spec_are_no_numbers() {
    /// One that profiles read.
    const NAME: &str = "CSQL_PROXY_UNIX_SOCKET";
    let pod: PodObject = serde_json::from_value(json!({
        "metadata": {"uid": "u", "name": "p", "namespace": "n"},
        "spec": {
            "securityContext": {"runAsUser": 7},
            "containers": [{
                "name": "c",
                "securityContext": {"runAsUser": -1},
                "env": [
                    {"name": "ENVOY_ADMIN", "value": "0"},
                    {"name": NAME, "value": "1"},
                    {"name": NAME, "value": "2"},
                    {"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR"},
                ],
                "ports": [{"name": "a", "containerPort": 70_000}, {"containerPort": 80}],
            }],
        },
    }))
    .unwrap();
    let spec = &super::pod(&pod, &Kept::of(&Profiles::builtin())).unwrap().containers[0].spec;
    assert_eq!(spec.run_as_user, None);
    assert_eq!(spec.env, BTreeMap::from([(NAME.to_owned(), "2".to_owned())]));
    assert!(spec.ports.is_empty());
}

#[test]
fn no_container_takes_the_room_of_another_ones_texts() {
    let words = |count: usize, length: usize| vec!["w".repeat(length); count];
    let large = |name: &str| json!({"name": name, "args": words(200, 1024)});
    let empty = json!({"name": "empty", "args": words(700_000, 0)});
    let proxy = json!({
        "name": "proxy",
        "args": ["--port=6000"],
        "env": [{"name": "CSQL_PROXY_UNIX_SOCKET", "value": "/cloudsql"}],
        "ports": [{"name": "ready", "containerPort": 6099}],
        "readinessProbe": {"httpGet": {"port": "ready", "path": "/readyz"}},
    });
    let pod = json!({
        "metadata": {"uid": "u", "name": "p", "namespace": "n"},
        "spec": {
            "initContainers": [large("migrate")],
            "containers": [large("app"), empty, large("worker"), proxy],
        },
    });
    let pod: PodObject = serde_json::from_str(&pod.to_string()).unwrap();
    let view = super::pod(&pod, &Kept::of(&Profiles::builtin())).unwrap();
    let proxy = &view.container("proxy").unwrap().spec;
    assert_eq!(proxy.args, ["--port=6000"]);
    assert_eq!(proxy.env["CSQL_PROXY_UNIX_SOCKET"], "/cloudsql");
    assert_eq!(proxy.ports["ready"], 6099);
    let ready = ReadyCheck::Http { port: 6099, path: "/readyz".to_owned() };
    assert_eq!(proxy.probes, [ready]);

    let text = |spec: &ContainerSpec| spec.args.iter().map(String::len).sum::<usize>();
    let [migrate, app, worker] =
        ["migrate", "app", "worker"].map(|name| text(&view.container(name).unwrap().spec));
    assert!(migrate > 0 && migrate == app && app == worker, "{migrate} {app} {worker}");
    let all = view.containers.iter().map(|one| {
        let ContainerSpec { args, .. } = &one.spec;
        text(&one.spec) + args.len() * size_of::<String>()
    });
    assert!(all.sum::<usize>() <= OF_CONTAINERS);
}
