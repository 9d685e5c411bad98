//! The init container that writes a mesh's redirect rules.

use serde_json::{Value, json};

use crate::{
    mesh::Mesh,
    pod::PodSpec,
    redirect::{DNS_PORT, Inbound},
};

pub(super) fn fields(spec: &PodSpec, mesh: Mesh) -> Value {
    let args = match mesh {
        Mesh::Istio => istio(spec),
        Mesh::Linkerd => linkerd(spec),
        Mesh::Kuma => kuma(spec),
        Mesh::Dapr | Mesh::CloudSql | Mesh::Own => Vec::new(),
    };
    json!({
        "args": args,
        "resources": {},
        "securityContext": {
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "runAsUser": 0,
            "runAsGroup": 0,
        },
    })
}

fn ports(spec: &PodSpec) -> String {
    spec.redirect.exclude_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

fn istio(spec: &PodSpec) -> Vec<String> {
    let mode = if spec.redirect.inbound == Inbound::Tproxy { "TPROXY" } else { "REDIRECT" };
    let (cidrs, ports) = (spec.redirect.exclude_cidrs.join(","), ports(spec));
    [
        "istio-iptables",
        "-p",
        "15001",
        "-z",
        "15006",
        "-u",
        "1337",
        "-m",
        mode,
        "-i",
        "*",
        "-x",
        &cidrs,
        "-b",
        "*",
        "-d",
        "15090,15021,15020",
        "-o",
        &ports,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn linkerd(spec: &PodSpec) -> Vec<String> {
    let (uid, port) = (Mesh::Linkerd.user().uid.to_string(), Mesh::Linkerd.port().to_string());
    let ignored = format!("4567,4568,{}", ports(spec));
    [
        "--ipv6=true",
        "--incoming-proxy-port",
        "4143",
        "--outgoing-proxy-port",
        &port,
        "--proxy-uid",
        &uid,
        "--inbound-ports-to-ignore",
        "4190,4191,4567,4568",
        "--outbound-ports-to-ignore",
        ignored.trim_end_matches(','),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn kuma(spec: &PodSpec) -> Vec<String> {
    let mut args = vec![
        "--redirect-outbound-port".to_owned(),
        Mesh::Kuma.port().to_string(),
        "--redirect-inbound-port".to_owned(),
        "15006".to_owned(),
        "--kuma-dp-uid".to_owned(),
        Mesh::Kuma.user().uid.to_string(),
        "--exclude-outbound-ports".to_owned(),
        ports(spec),
        "--verbose".to_owned(),
    ];
    if spec.redirect.dns {
        args.push("--redirect-all-dns-traffic".to_owned());
        args.push("--redirect-dns-port".to_owned());
        args.push(DNS_PORT.to_string());
    }
    args
}
