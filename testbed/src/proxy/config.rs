//! Envoy's configuration for the proxy of each mesh: what it does with connections and queries,
//! and nothing else.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::{
    dns,
    mesh::Mesh,
    outside::{self, NAMESERVER_V4},
    pod::PodSpec,
    redirect::{DNS_PORT, Inbound},
};

/// Addresses that the proxy dials the application from: the rules let them go.
const PASSTHROUGH: [(&str, &str, &str); 2] =
    [("inbound_v4", "0.0.0.0", "127.0.0.6"), ("inbound_v6", "::", "::6")];
/// Daprd's gRPC API, beside the HTTP one.
const DAPR_GRPC_PORT: u16 = 50001;
/// Where a Dapr application listens: daprd calls it healthy only when that answers.
pub(crate) const DAPR_APP_PORT: u16 = 8080;

/// The whole configuration, as JSON.
pub(crate) fn of(spec: &PodSpec, mesh: Mesh) -> Value {
    let mut config = Config::default();
    match mesh {
        Mesh::Istio => {
            config.outbound(mesh.port());
            config.inbound(15006, spec.redirect.inbound == Inbound::Tproxy);
            config.http(15021, "/healthz/ready", 200, None);
        }
        Mesh::Linkerd => {
            config.outbound(mesh.port());
            config.inbound(4143, false);
            config.http(4191, "/ready", 200, None);
        }
        Mesh::Kuma => {
            config.outbound(mesh.port());
            config.inbound(15006, false);
            config.http(9902, "/ready", 200, None);
        }
        Mesh::Dapr => {
            config.cluster("backend", outside::backend_v4());
            config.cluster("app", SocketAddr::from(([127, 0, 0, 1], DAPR_APP_PORT)));
            // https://docs.dapr.io/reference/api/health_api: 204 is the answer of a healthy daprd.
            config.http(mesh.port(), "/v1.0/healthz/outbound", 204, Some("backend"));
            // The rest of the public port stands for `/v1.0/healthz`, which waits for the
            // application.
            config.http(3501, "/v1.0/healthz/outbound", 204, Some("app"));
            config.forward(DAPR_GRPC_PORT, "backend");
        }
        Mesh::CloudSql => {
            config.cluster("backend", outside::backend_v4());
            config.forward(mesh.port(), "backend");
            config.http(9090, "/startup", 200, None);
        }
        Mesh::Own => {
            config.cluster("backend", outside::backend_v4());
            config.forward(mesh.port(), "backend");
        }
    }
    if spec.redirect.dns {
        config.dns();
    }
    config.into_json()
}

#[derive(Default)]
struct Config {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
}

impl Config {
    fn into_json(self) -> Value {
        json!({
            "admin": {"address": address(IpAddr::from([127, 0, 0, 1]), 15000)},
            "static_resources": {"listeners": self.listeners, "clusters": self.clusters},
        })
    }

    /// What leaves the pod goes where it would have gone.
    fn outbound(&mut self, port: u16) {
        let mut listener = listener("outbound", port, &json!([tcp_proxy("outbound")]));
        listener["listener_filters"] = json!([original_dst_filter()]);
        self.listeners.push(listener);
        self.clusters.push(original_dst_cluster("outbound"));
    }

    /// What comes into the pod goes to the application.
    fn inbound(&mut self, port: u16, transparent: bool) {
        let mut listener = listener("inbound", port, &json!([]));
        listener["listener_filters"] = json!([original_dst_filter()]);
        listener["filter_chains"] = PASSTHROUGH
            .iter()
            .map(|(cluster, any, _)| {
                json!({
                    "filter_chain_match":
                        {"prefix_ranges": [{"address_prefix": any, "prefix_len": 0}]},
                    "filters": [tcp_proxy(cluster)],
                })
            })
            .collect();
        if transparent {
            listener["transparent"] = json!(true);
        }
        self.listeners.push(listener);
        for (name, _, source) in PASSTHROUGH {
            let mut cluster = original_dst_cluster(name);
            cluster["upstream_bind_config"] =
                json!({"source_address": {"address": source, "port_value": 0}});
            self.clusters.push(cluster);
        }
    }

    /// One path that is answered with `status`; all others go to a cluster, if there is one.
    fn http(&mut self, port: u16, path: &str, status: u16, others: Option<&str>) {
        let mut routes = vec![json!({
            "match": {"path": path},
            "direct_response": {"status": status},
        })];
        if let Some(cluster) = others {
            routes.push(json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}}));
        }
        let name = format!("http_{port}");
        let manager = json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": name,
                "route_config": {
                    "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}],
                },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": kind("filters.http.router.v3.Router")},
                }],
            },
        });
        self.listeners.push(listener(&name, port, &json!([manager])));
    }

    fn forward(&mut self, port: u16, cluster: &str) {
        self.listeners.push(listener(&format!("tcp_{port}"), port, &json!([tcp_proxy(cluster)])));
    }

    /// Names of services are answered out of a table; over TCP, which Envoy has no filter for, the
    /// cluster's DNS server is asked.
    fn dns(&mut self) {
        let domains: Vec<Value> = dns::SERVICES
            .iter()
            .map(|(name, v4, v6)| {
                let addresses = [IpAddr::V4(*v4), IpAddr::V6(*v6)].map(|ip| ip.to_string());
                json!({"name": name, "endpoint": {"address_list": {"address": addresses}}})
            })
            .collect();
        let filter = json!({
            "name": "envoy.filters.udp.dns_filter",
            "typed_config": {
                "@type": kind("filters.udp.dns_filter.v3.DnsFilterConfig"),
                "stat_prefix": "dns",
                "server_config": {"inline_dns_table": {"virtual_domains": domains}},
            },
        });
        for (name, any) in [("dns_v4", "0.0.0.0"), ("dns_v6", "::")] {
            self.listeners.push(json!({
                "name": name,
                "address": {"socket_address":
                    {"protocol": "UDP", "address": any, "port_value": DNS_PORT}},
                "listener_filters": [filter],
            }));
        }
        self.cluster("dns", SocketAddr::from((NAMESERVER_V4, 53)));
        self.forward(DNS_PORT, "dns");
    }

    fn cluster(&mut self, name: &str, to: SocketAddr) {
        let endpoint = json!({"endpoint": {"address": address(to.ip(), to.port())}});
        let mut cluster = cluster(name, "STATIC");
        cluster["load_assignment"] =
            json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]});
        self.clusters.push(cluster);
    }
}

/// REDIRECT sends IPv4 to 127.0.0.1 and IPv6 to `::1`, hence both families everywhere.
fn listener(name: &str, port: u16, filters: &Value) -> Value {
    json!({
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "additional_addresses":
            [{"address": {"socket_address": {"address": "::", "port_value": port}}}],
        "filter_chains": [{"filters": filters}],
    })
}

fn original_dst_filter() -> Value {
    json!({
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {"@type": kind("filters.listener.original_dst.v3.OriginalDst")},
    })
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": cluster,
            "cluster": cluster,
        },
    })
}

fn original_dst_cluster(name: &str) -> Value {
    let mut cluster = cluster(name, "ORIGINAL_DST");
    cluster["lb_policy"] = json!("CLUSTER_PROVIDED");
    cluster
}

fn cluster(name: &str, discovery: &str) -> Value {
    /// The default of 1024 would refuse what a larger number of held connections bring at once.
    const MANY: u32 = 100_000;
    json!({
        "name": name,
        "type": discovery,
        "connect_timeout": "1s",
        "circuit_breakers": {
            "thresholds":
                [{"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}],
        },
    })
}

fn address(ip: IpAddr, port: u16) -> Value {
    json!({"socket_address": {"address": ip.to_string(), "port_value": port}})
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}
