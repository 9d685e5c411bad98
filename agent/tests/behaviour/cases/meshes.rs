//! Each mesh and side-car: the application waits, the proxy and what sets it up do not.

use super::{APP, Case, case, pod, starts};
use crate::kernel::Answer::{Held, Passes};

pub(super) fn cases() -> Vec<Case> {
    let app = |name, fixture| {
        case(name, pod(fixture), starts(&[APP]), Held, "the application needs the proxy")
    };
    let proxy = |name, fixture, container: &'static str| {
        case(name, pod(fixture), starts(&[container]), Passes, "it is what the others wait for")
            .of(container)
    };
    let setup = |name, fixture, container: &'static str| {
        case(name, pod(fixture), starts(&[container]), Passes, "it sets up or checks the redirect")
            .of(container)
    };
    vec![
        app("Istio, classic: application", "istio-classic"),
        proxy("Istio, classic: `istio-proxy`", "istio-classic", "istio-proxy"),
        setup("Istio: `istio-init`", "istio-classic", "istio-init"),
        app("Istio, native sidecar: application", "istio-native"),
        proxy("Istio, native sidecar: `istio-proxy`", "istio-native", "istio-proxy"),
        app("Istio, TPROXY: application", "istio-tproxy"),
        proxy("Istio, TPROXY: `istio-proxy`", "istio-tproxy", "istio-proxy"),
        app("Linkerd, classic: application", "linkerd-classic"),
        proxy("Linkerd, classic: `linkerd-proxy`", "linkerd-classic", "linkerd-proxy"),
        setup("Linkerd: `linkerd-init`", "linkerd-native", "linkerd-init"),
        setup(
            "Linkerd: `linkerd-network-validator`",
            "linkerd-classic",
            "linkerd-network-validator",
        ),
        app("Linkerd, native sidecar: application", "linkerd-native"),
        proxy("Linkerd, native sidecar: `linkerd-proxy`", "linkerd-native", "linkerd-proxy"),
        app("Kuma, classic: application", "kuma-classic"),
        proxy("Kuma, classic: `kuma-sidecar`", "kuma-classic", "kuma-sidecar"),
        setup("Kuma: `kuma-init`", "kuma-classic", "kuma-init"),
        app("Kuma, native sidecar: application", "kuma-native"),
        proxy("Kuma, native sidecar: `kuma-sidecar`", "kuma-native", "kuma-sidecar"),
        app("Consul: application", "consul"),
        proxy("Consul: `consul-dataplane`", "consul", "consul-dataplane"),
        setup("Consul: `consul-connect-inject-init`", "consul", "consul-connect-inject-init"),
        app("OSM: application", "osm"),
        proxy("OSM: `envoy`", "osm", "envoy"),
        app("FSM: application", "fsm"),
        proxy("FSM: `sidecar`", "fsm", "sidecar"),
        app("Dapr: application", "dapr"),
        proxy("Dapr: `daprd`", "dapr", "daprd"),
        app("Dapr, native sidecar: application", "dapr-native"),
        case(
            "Consul without transparent proxy, the ports named by annotations: application",
            pod("consul-upstreams").change(serde_json::json!({"metadata": {"annotations": {
                "holdfast.dev/proxy": "consul-dataplane",
                "holdfast.dev/ready": "http://:19000/ready",
                "holdfast.dev/ports": "1234,2345",
            }}})),
            starts(&[APP]),
            Held,
            "the application dials these ports itself",
        ),
        case(
            "Cloud SQL proxy: application",
            pod("cloud-sql-proxy"),
            starts(&["nightly"]),
            Held,
            "the application needs the proxy",
        )
        .of("nightly"),
        app("a side-car that annotations name: application", "own-proxy"),
        case(
            "Istio with DNS capture: a query",
            pod("istio-dns"),
            starts(&[APP]),
            Held,
            "the proxy answers it",
        )
        .query(),
        case(
            "Istio without DNS capture: a query",
            pod("istio-classic"),
            starts(&[APP]),
            Passes,
            "it goes to the cluster's DNS",
        )
        .query(),
        case(
            "Kuma: a query",
            pod("kuma-native"),
            starts(&[APP]),
            Held,
            "Kuma captures DNS by default",
        )
        .query(),
        case(
            "Linkerd: a query",
            pod("linkerd-native"),
            starts(&[APP]),
            Passes,
            "Linkerd captures no DNS",
        )
        .query(),
    ]
}
