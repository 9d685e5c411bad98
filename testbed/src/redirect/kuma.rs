//! Kuma's rules, as `pkg/transparentproxy/iptables/builder` writes them for a pod: its injector
//! asks for all DNS to be captured, whichever nameserver is meant.

use super::{DNS_PORT, Family, Redirect, Rules};
use crate::mesh::Mesh;

const INBOUND: &str = "KUMA_MESH_INBOUND";
const INBOUND_REDIRECT: &str = "KUMA_MESH_INBOUND_REDIRECT";
const OUTBOUND: &str = "KUMA_MESH_OUTBOUND";
const OUTBOUND_REDIRECT: &str = "KUMA_MESH_OUTBOUND_REDIRECT";
const INBOUND_PORT: u16 = 15006;

pub(super) fn rules(redirect: &Redirect, family: Family) -> String {
    let (uid, port) = (Mesh::Kuma.user().uid, Mesh::Kuma.port());
    let is_proxy = format!("-m owner --uid-owner {uid}");
    let to_dns = format!("-j REDIRECT --to-ports {DNS_PORT}");
    let mut rules = Rules::default();
    rules.table("nat", &[INBOUND, OUTBOUND, INBOUND_REDIRECT, OUTBOUND_REDIRECT]);
    rules.add("PREROUTING", &format!("-p tcp -j {INBOUND}"));
    if redirect.dns {
        rules.add("OUTPUT", &format!("-p udp --dport 53 {is_proxy} -j RETURN"));
        rules.add("OUTPUT", &format!("-p udp --dport 53 {to_dns}"));
    }
    rules.add("OUTPUT", &format!("-p tcp -j {OUTBOUND}"));
    rules.add(INBOUND, &format!("-p tcp -j {INBOUND_REDIRECT}"));
    for excluded in &redirect.exclude_ports {
        rules.add(OUTBOUND, &format!("-p tcp --dport {excluded} -j RETURN"));
    }
    let not_dns = if redirect.dns { "-p tcp ! --dport 53" } else { "-p tcp" };
    let (loopback, passthrough) = (family.loopback(), family.passthrough());
    rules.add(OUTBOUND, &format!("-s {passthrough} -o lo -j RETURN"));
    rules.add(
        OUTBOUND,
        &format!("{not_dns} -o lo ! -d {loopback} {is_proxy} -j {INBOUND_REDIRECT}"),
    );
    rules.add(OUTBOUND, &format!("{not_dns} -o lo -m owner ! --uid-owner {uid} -j RETURN"));
    rules.add(OUTBOUND, &format!("{is_proxy} -j RETURN"));
    if redirect.dns {
        rules.add(OUTBOUND, &format!("-p tcp --dport 53 {to_dns}"));
    }
    rules.add(OUTBOUND, &format!("-d {loopback} -j RETURN"));
    rules.add(OUTBOUND, &format!("-j {OUTBOUND_REDIRECT}"));
    rules.add(INBOUND_REDIRECT, &format!("-p tcp -j REDIRECT --to-ports {INBOUND_PORT}"));
    rules.add(OUTBOUND_REDIRECT, &format!("-p tcp -j REDIRECT --to-ports {port}"));
    rules.commit();
    if redirect.dns {
        rules.table("raw", &[]);
        rules.add("OUTPUT", &format!("-p udp --dport 53 {is_proxy} -j CT --zone 1"));
        rules.add("OUTPUT", &format!("-p udp --sport {DNS_PORT} {is_proxy} -j CT --zone 2"));
        rules.add("OUTPUT", "-p udp --dport 53 -j CT --zone 2");
        rules.add("PREROUTING", "-p udp --sport 53 -j CT --zone 1");
        rules.commit();
    }
    rules.text
}
