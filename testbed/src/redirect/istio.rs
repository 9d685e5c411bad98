//! Istio's rules, as `tools/istio-iptables` of Istio 1.29 writes them
//! (`pkg/capture/run.go`, with `-i "*" -b "*" -d 15090,15021,15020`).

use std::net::IpAddr;

use super::{DNS_PORT, Family, Inbound, PROXY_ID, PROXY_PORT, Redirect, Rules};

/// Where connections into the pod go.
pub(super) const INBOUND_PORT: u16 = 15006;
/// HBONE, which is the proxy's already.
pub(super) const TUNNEL_PORT: u16 = 15008;
/// Ports of the proxy itself: metrics, readiness, the agent's own.
pub(super) const OWN_PORTS: [u16; 3] = [15090, 15021, 15020];
/// Where TPROXY finds the socket: packets with its mark are delivered locally.
pub(super) const TPROXY_ROUTES: &str = "\
    rule add fwmark 1337 lookup 133\n\
    route add local default dev lo table 133\n\
    rule add from ::/0 fwmark 1337 lookup 133\n\
    route add local ::/0 dev lo table 133\n";

pub(super) fn rules(redirect: &Redirect, nameservers: &[IpAddr], family: Family) -> String {
    let mut rules = Rules::default();
    if redirect.inbound == Inbound::Tproxy {
        mangle(&mut rules, family);
    }
    nat(&mut rules, redirect, nameservers, family);
    if redirect.dns {
        raw(&mut rules, nameservers, family);
    }
    rules.text
}

fn nat(rules: &mut Rules, redirect: &Redirect, nameservers: &[IpAddr], family: Family) {
    const CHAINS: [&str; 5] = [
        "ISTIO_INBOUND",
        "ISTIO_REDIRECT",
        "ISTIO_IN_REDIRECT",
        "ISTIO_OUTPUT",
        "ISTIO_OUTPUT_DNS",
    ];
    rules.table("nat", &CHAINS);
    rules.add("ISTIO_INBOUND", &format!("-p tcp --dport {TUNNEL_PORT} -j RETURN"));
    rules.add("ISTIO_REDIRECT", &format!("-p tcp -j REDIRECT --to-ports {PROXY_PORT}"));
    rules.add("ISTIO_IN_REDIRECT", &format!("-p tcp -j REDIRECT --to-ports {INBOUND_PORT}"));
    if redirect.inbound == Inbound::Redirect {
        rules.add("PREROUTING", "-p tcp -j ISTIO_INBOUND");
        for port in OWN_PORTS {
            rules.add("ISTIO_INBOUND", &format!("-p tcp --dport {port} -j RETURN"));
        }
        rules.add("ISTIO_INBOUND", "-p tcp -j ISTIO_IN_REDIRECT");
    }
    rules.add("OUTPUT", "-j ISTIO_OUTPUT");
    for port in &redirect.exclude_ports {
        rules.add("ISTIO_OUTPUT", &format!("-p tcp --dport {port} -j RETURN"));
        rules.add("ISTIO_OUTPUT", &format!("-p udp --dport {port} -j RETURN"));
    }
    let (loopback, passthrough) = (family.loopback(), family.passthrough());
    rules.add("ISTIO_OUTPUT", &format!("-o lo -s {passthrough} -j RETURN"));
    for owner in ["uid", "gid"] {
        // DNS over TCP is looked at further down, where it goes over loopback as well.
        let (tunnel, others) = match (redirect.dns, owner) {
            (true, "uid") => {
                (format!("-m multiport ! --dports 53,{TUNNEL_PORT}"), "-p tcp ! --dport 53 ")
            }
            (true, _) => (format!("! --dport {TUNNEL_PORT}"), "-p tcp ! --dport 53 "),
            (false, _) => (format!("! --dport {TUNNEL_PORT}"), ""),
        };
        let is_proxy = format!("-m owner --{owner}-owner {PROXY_ID}");
        rules.add(
            "ISTIO_OUTPUT",
            &format!("-o lo ! -d {loopback} -p tcp {tunnel} {is_proxy} -j ISTIO_IN_REDIRECT"),
        );
        rules.add(
            "ISTIO_OUTPUT",
            &format!("-o lo {others}-m owner ! --{owner}-owner {PROXY_ID} -j RETURN"),
        );
        rules.add("ISTIO_OUTPUT", &format!("{is_proxy} -j RETURN"));
    }
    if redirect.dns {
        rules.add("ISTIO_OUTPUT", "-j ISTIO_OUTPUT_DNS");
        let to_proxy = format!("-j REDIRECT --to-ports {DNS_PORT}");
        let mine = || nameservers.iter().filter(|one| family.has(one));
        for nameserver in mine() {
            rules.add("ISTIO_OUTPUT_DNS", &format!("-p tcp --dport 53 -d {nameserver} {to_proxy}"));
        }
        for owner in ["uid", "gid"] {
            rules.add(
                "ISTIO_OUTPUT_DNS",
                &format!("-p udp --dport 53 -m owner --{owner}-owner {PROXY_ID} -j RETURN"),
            );
        }
        for nameserver in mine() {
            rules.add("ISTIO_OUTPUT_DNS", &format!("-p udp --dport 53 -d {nameserver} {to_proxy}"));
        }
    }
    rules.add("ISTIO_OUTPUT", &format!("-d {loopback} -j RETURN"));
    for cidr in redirect.exclude_cidrs.iter().filter(|cidr| family.has_range(cidr)) {
        rules.add("ISTIO_OUTPUT", &format!("-d {cidr} -j RETURN"));
    }
    rules.add("ISTIO_OUTPUT", "-j ISTIO_REDIRECT");
    rules.commit();
}

/// Two zones of conntrack, so that the application's query and the one that the proxy sends on for
/// it, with the same addresses and ports, are not one connection.
fn raw(rules: &mut Rules, nameservers: &[IpAddr], family: Family) {
    rules.table("raw", &["ISTIO_OUTPUT_DNS", "ISTIO_INBOUND"]);
    rules.add("OUTPUT", "-j ISTIO_OUTPUT_DNS");
    for owner in ["uid", "gid"] {
        let is_proxy = format!("-m owner --{owner}-owner {PROXY_ID}");
        rules.add("ISTIO_OUTPUT_DNS", &format!("-p udp --dport 53 {is_proxy} -j CT --zone 1"));
        rules.add(
            "ISTIO_OUTPUT_DNS",
            &format!("-p udp --sport {DNS_PORT} {is_proxy} -j CT --zone 2"),
        );
    }
    rules.add("PREROUTING", "-j ISTIO_INBOUND");
    for nameserver in nameservers.iter().filter(|one| family.has(one)) {
        rules.add("ISTIO_OUTPUT_DNS", &format!("-p udp --dport 53 -d {nameserver} -j CT --zone 2"));
        rules.add("ISTIO_INBOUND", &format!("-p udp --sport 53 -s {nameserver} -j CT --zone 1"));
    }
    rules.commit();
}

fn mangle(rules: &mut Rules, family: Family) {
    let (loopback, passthrough) = (family.loopback(), family.passthrough());
    rules.table("mangle", &["ISTIO_DIVERT", "ISTIO_TPROXY", "ISTIO_INBOUND"]);
    rules.add("ISTIO_DIVERT", "-j MARK --set-mark 1337");
    rules.add("ISTIO_DIVERT", "-j ACCEPT");
    rules.add(
        "ISTIO_TPROXY",
        &format!(
            "! -d {loopback} -p tcp \
             -j TPROXY --tproxy-mark 1337/0xffffffff --on-port {INBOUND_PORT}"
        ),
    );
    rules.add("PREROUTING", "-p tcp -j ISTIO_INBOUND");
    rules.add("PREROUTING", "-p tcp -m mark --mark 1337 -j CONNMARK --save-mark");
    rules.add("ISTIO_INBOUND", "-p tcp -m mark --mark 1337 -j RETURN");
    rules.add("ISTIO_INBOUND", &format!("-p tcp -s {passthrough} -i lo -j RETURN"));
    rules.add("ISTIO_INBOUND", "-p tcp -i lo -m mark ! --mark 1338 -j RETURN");
    for port in OWN_PORTS {
        rules.add("ISTIO_INBOUND", &format!("-p tcp --dport {port} -j RETURN"));
    }
    rules.add("ISTIO_INBOUND", "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT");
    rules.add("ISTIO_INBOUND", "-p tcp -j ISTIO_TPROXY");
    rules.add("OUTPUT", "-p tcp -o lo -m mark --mark 1337 -j RETURN");
    for owner in ["uid", "gid"] {
        rules.add(
            "OUTPUT",
            &format!(
                "! -d {loopback} -p tcp -o lo -m owner --{owner}-owner {PROXY_ID} \
                 -j MARK --set-mark 1338"
            ),
        );
    }
    rules.add("OUTPUT", "-p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark");
    rules.commit();
}
