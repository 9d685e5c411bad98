//! The proxy's container, as each injector's template (or the user of an unmeshed proxy) has it.

use serde_json::{Value, json};

use super::{env, http_probe, unprivileged};
use crate::{
    mesh::Mesh,
    pod::PodSpec,
    process::User,
    proxy::{self, config::DAPR_APP_PORT},
    redirect::{DNS_PORT, Inbound},
};

pub(super) fn fields(spec: &PodSpec, mesh: Mesh) -> Value {
    let mut fields = match mesh {
        Mesh::Istio => istio(spec),
        Mesh::Linkerd => linkerd(spec),
        Mesh::Kuma => kuma(spec),
        Mesh::Dapr => dapr(spec),
        Mesh::CloudSql => cloud_sql(),
        Mesh::Own => return json!({"ports": [{"containerPort": mesh.port(), "protocol": "TCP"}]}),
    };
    let User { uid, gid } = proxy::user(spec, mesh);
    fields["securityContext"] = unprivileged(uid, gid);
    if spec.redirect.inbound == Inbound::Tproxy {
        fields["securityContext"]["capabilities"] = json!({"add": ["NET_ADMIN"], "drop": ["ALL"]});
    }
    fields
}

fn istio(spec: &PodSpec) -> Value {
    let mode = if spec.redirect.inbound == Inbound::Tproxy { "TPROXY" } else { "REDIRECT" };
    let mut all = vec![
        ("ISTIO_META_APP_CONTAINERS", spec.containers.join(",")),
        ("ISTIO_META_INTERCEPTION_MODE", mode.to_owned()),
    ];
    if spec.redirect.dns {
        all.push(("ISTIO_META_DNS_CAPTURE", "true".to_owned()));
    }
    json!({
        "args": ["proxy", "sidecar", "--domain", format!("{}.svc.cluster.local", spec.namespace)],
        "env": env(&all),
        "ports": [{"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}],
        // Istio's defaults: ready is asked every 15 s, startup every second for ten minutes.
        "readinessProbe": http_probe("/healthz/ready", 15021, 15, 4),
        "startupProbe": http_probe("/healthz/ready", 15021, 1, 600),
    })
}

fn linkerd(spec: &PodSpec) -> Value {
    let port = Mesh::Linkerd.port();
    let mut fields = json!({
        "env": env(&[
            ("LINKERD2_PROXY_LOG", "warn,linkerd=info".into()),
            ("LINKERD2_PROXY_CONTROL_LISTEN_ADDR", "[::]:4190".into()),
            ("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "[::]:4191".into()),
            ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", format!("127.0.0.1:{port}")),
            ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS", format!("127.0.0.1:{port},[::1]:{port}")),
            ("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "[::]:4143".into()),
        ]),
        "ports": [
            {"name": "linkerd-proxy", "containerPort": 4143, "protocol": "TCP"},
            {"name": "linkerd-admin", "containerPort": 4191, "protocol": "TCP"},
        ],
        "livenessProbe": {"httpGet": {"path": "/live", "port": 4191}, "initialDelaySeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 4191}, "initialDelaySeconds": 2},
    });
    if spec.native_sidecar {
        fields["startupProbe"] = http_probe("/ready", 4191, 1, 120);
    }
    fields
}

fn kuma(spec: &PodSpec) -> Value {
    let mut fields = json!({
        "args": ["run", "--log-level=info"],
        "env": env(&[
            ("KUMA_DATAPLANE_MESH", "default".into()),
            ("KUMA_READINESS_PORT", "9902".into()),
            ("KUMA_DNS_ENABLED", spec.redirect.dns.to_string()),
            ("KUMA_DNS_PROXY_PORT", DNS_PORT.to_string()),
        ]),
        "readinessProbe": http_probe("/ready", 9902, 5, 12),
    });
    if spec.native_sidecar {
        fields["startupProbe"] = http_probe("/ready", 9902, 5, 12);
    }
    fields
}

fn dapr(spec: &PodSpec) -> Value {
    let port = Mesh::Dapr.port();
    // Kubelet asks for all of daprd's health, which the application's port is a part of.
    let probe = http_probe("/v1.0/healthz", 3501, 1, 5);
    json!({
        "args": [
            "/daprd",
            "--dapr-http-port", port.to_string(),
            "--dapr-grpc-port", "50001",
            "--dapr-internal-grpc-port", "50002",
            "--dapr-listen-addresses", "[::1],127.0.0.1",
            "--dapr-public-port", "3501",
            "--app-id", spec.name,
            "--app-port", DAPR_APP_PORT.to_string(),
            "--app-protocol", "http",
            "--mode", "kubernetes",
        ],
        "env": env(&[("NAMESPACE", spec.namespace.clone())]),
        "ports": [
            {"name": "dapr-http", "containerPort": port, "protocol": "TCP"},
            {"name": "dapr-grpc", "containerPort": 50001, "protocol": "TCP"},
            {"name": "dapr-internal", "containerPort": 50002, "protocol": "TCP"},
        ],
        "livenessProbe": probe,
        "readinessProbe": probe,
    })
}

fn cloud_sql() -> Value {
    json!({
        "args": [
            "--structured-logs",
            "--health-check",
            "--http-port=9090",
            format!("--port={}", Mesh::CloudSql.port()),
            "project:region:instance",
        ],
        "startupProbe": http_probe("/startup", 9090, 1, 60),
    })
}
