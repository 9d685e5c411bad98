//! Labels and annotations: the user's, and what injectors leave behind.

use serde_json::{Map, Value, json};

use crate::{
    mesh::Mesh,
    pod::{PodSpec, status::now},
    redirect::Inbound,
};

pub(super) fn labels(spec: &PodSpec) -> Map<String, Value> {
    let mut all = Map::from_iter([("app".to_owned(), json!(spec.name))]);
    let mut add = |key: &str, value: &str| {
        all.insert(key.to_owned(), json!(value));
    };
    match spec.mesh {
        Some(Mesh::Istio) => {
            add("security.istio.io/tlsMode", "istio");
            add("service.istio.io/canonical-name", &spec.name);
            add("service.istio.io/canonical-revision", "latest");
        }
        Some(Mesh::Linkerd) => {
            add("linkerd.io/control-plane-ns", "linkerd");
            add("linkerd.io/proxy-deployment", &spec.name);
            add("linkerd.io/workload-ns", &spec.namespace);
        }
        Some(Mesh::Kuma) => add("kuma.io/mesh", "default"),
        Some(Mesh::Dapr) => add("dapr.io/sidecar-injected", "true"),
        Some(Mesh::CloudSql | Mesh::Own) | None => {}
    }
    all.extend(spec.labels.iter().map(|(k, v)| (k.clone(), json!(v))));
    all
}

pub(super) fn annotations(spec: &PodSpec) -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |key: &str, value: String| {
        all.insert(key.to_owned(), json!(value));
    };
    let ports =
        spec.redirect.exclude_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let excludes = !ports.is_empty();
    match spec.mesh {
        Some(Mesh::Istio) => {
            add("sidecar.istio.io/status", istio_status(spec));
            add("istio.io/rev", "default".into());
            let cidrs = spec.redirect.exclude_cidrs.join(",");
            if !cidrs.is_empty() {
                add("traffic.sidecar.istio.io/excludeOutboundIPRanges", cidrs);
            }
            if excludes {
                add("traffic.sidecar.istio.io/excludeOutboundPorts", ports);
            }
            if spec.redirect.inbound == Inbound::Tproxy {
                add("sidecar.istio.io/interceptionMode", "TPROXY".into());
            }
        }
        Some(Mesh::Linkerd) => {
            add("linkerd.io/created-by", "linkerd/proxy-injector edge-26.8.1".into());
            add("linkerd.io/inject", "enabled".into());
            add("linkerd.io/proxy-version", "edge-26.8.1".into());
            if excludes {
                add("config.linkerd.io/skip-outbound-ports", ports);
            }
        }
        Some(Mesh::Kuma) => {
            let dns = if spec.redirect.dns { "enabled" } else { "disabled" };
            add("kuma.io/sidecar-injected", "true".into());
            add("kuma.io/mesh", "default".into());
            add("kuma.io/sidecar-uid", Mesh::Kuma.user().uid.to_string());
            add("kuma.io/transparent-proxying", "enabled".into());
            add("kuma.io/transparent-proxying-outbound-port", Mesh::Kuma.port().to_string());
            add("kuma.io/builtin-dns", dns.into());
            if spec.redirect.dns {
                add("kuma.io/builtin-dns-port", crate::redirect::DNS_PORT.to_string());
            }
            if excludes {
                add("traffic.kuma.io/exclude-outbound-ports", ports);
            }
        }
        Some(Mesh::Dapr) => {
            add("dapr.io/enabled", "true".into());
            add("dapr.io/app-id", spec.name.clone());
            add("dapr.io/app-port", crate::proxy::config::DAPR_APP_PORT.to_string());
        }
        Some(Mesh::CloudSql | Mesh::Own) | None => {}
    }
    if spec.is_ambient {
        add("ambient.istio.io/redirection", "enabled".into());
    }
    all.extend(spec.annotations.iter().map(|(k, v)| (k.clone(), json!(v))));
    all
}

/// The injector's own record of what it added.
fn istio_status(spec: &PodSpec) -> String {
    let (init, proxy) = (Mesh::Istio.init(), Mesh::Istio.proxy());
    let (init, main) = if spec.native_sidecar {
        (json!([init, proxy]), json!(null))
    } else {
        (json!([init]), json!([proxy]))
    };
    json!({
        "initContainers": init,
        "containers": main,
        "volumes": ["workload-socket", "istio-envoy", "istio-data", "istio-token"],
        "imagePullSecrets": null,
        "revision": "default",
    })
    .to_string()
}

/// What kubelet writes on the mirror of a static pod.
pub(super) fn mirror(object: &mut Value, hash: &str) {
    let metadata = &mut object["metadata"];
    for (key, value) in [
        ("kubernetes.io/config.hash", hash),
        ("kubernetes.io/config.mirror", hash),
        ("kubernetes.io/config.seen", &now()),
        ("kubernetes.io/config.source", "file"),
    ] {
        metadata["annotations"][key] = json!(value);
    }
    metadata["ownerReferences"] = json!([{
        "apiVersion": "v1",
        "kind": "Node",
        "name": "node1",
        "uid": "4c1f2d3e-8a6b-4f70-9c5d-2e1b0a9f8d7c",
        "controller": true,
    }]);
}
