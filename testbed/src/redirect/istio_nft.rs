//! Istio's rules once more, with nftables and its own NAT: one `inet` table for both families.

use std::{fmt::Write as _, net::IpAddr};

use super::{
    DNS_PORT, PROXY_ID, PROXY_PORT, Redirect,
    istio::{INBOUND_PORT, OWN_PORTS, TUNNEL_PORT},
};

pub(super) fn rules(redirect: &Redirect, nameservers: &[IpAddr]) -> String {
    let mut text = nat(redirect, nameservers);
    if redirect.dns {
        text.push_str(&raw(nameservers));
    }
    text
}

fn nat(redirect: &Redirect, nameservers: &[IpAddr]) -> String {
    let ports: Vec<String> = OWN_PORTS.iter().chain([&TUNNEL_PORT]).map(u16::to_string).collect();
    let mut output = Lines::default();
    for port in &redirect.exclude_ports {
        output.add(&format!("tcp dport {port} return"));
        output.add(&format!("udp dport {port} return"));
    }
    output.add("oifname lo ip saddr 127.0.0.6 return");
    output.add("oifname lo ip6 saddr ::6 return");
    for owner in ["skuid", "skgid"] {
        let (tunnel, others) = if redirect.dns {
            (format!("tcp dport != {{ 53, {TUNNEL_PORT} }}"), "tcp dport != 53 ")
        } else {
            (format!("tcp dport != {TUNNEL_PORT}"), "")
        };
        for not_loopback in ["ip daddr != 127.0.0.1", "ip6 daddr != ::1"] {
            output.add(&format!(
                "oifname lo {not_loopback} {tunnel} meta {owner} {PROXY_ID} jump istio-in-redirect"
            ));
        }
        output.add(&format!("oifname lo {others}meta {owner} != {PROXY_ID} return"));
        output.add(&format!("meta {owner} {PROXY_ID} return"));
    }
    let mut dns = Lines::default();
    if redirect.dns {
        output.add("jump istio-output-dns");
        let to_proxy = format!("redirect to :{DNS_PORT}");
        for nameserver in nameservers {
            dns.add(&format!("tcp dport 53 {} {to_proxy}", daddr(nameserver)));
        }
        for owner in ["skuid", "skgid"] {
            dns.add(&format!("udp dport 53 meta {owner} {PROXY_ID} return"));
        }
        for nameserver in nameservers {
            dns.add(&format!("udp dport 53 {} {to_proxy}", daddr(nameserver)));
        }
    }
    output.add("ip daddr 127.0.0.1 return");
    output.add("ip6 daddr ::1 return");
    for cidr in &redirect.exclude_cidrs {
        let family = if cidr.contains(':') { "ip6" } else { "ip" };
        output.add(&format!("{family} daddr {cidr} return"));
    }
    output.add("jump istio-redirect");
    // nft knows no name for dstnat's priority (-100) at the output hook.
    let (ports, output, dns) = (ports.join(", "), output.text, dns.text);
    format!(
        "table inet istio-proxy-nat {{
    chain istio-redirect {{
        meta l4proto tcp redirect to :{PROXY_PORT}
    }}
    chain istio-in-redirect {{
        meta l4proto tcp redirect to :{INBOUND_PORT}
    }}
    chain istio-inbound {{
        tcp dport {{ {ports} }} return
        meta l4proto tcp jump istio-in-redirect
    }}
    chain istio-output-dns {{
{dns}    }}
    chain istio-output {{
{output}    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        meta l4proto tcp jump istio-inbound
    }}
    chain output {{
        type nat hook output priority -100;
        jump istio-output
    }}
}}
"
    )
}

fn raw(nameservers: &[IpAddr]) -> String {
    let (mut output, mut prerouting) = (Lines::default(), Lines::default());
    for owner in ["skuid", "skgid"] {
        output.add(&format!("udp dport 53 meta {owner} {PROXY_ID} ct zone set 1 return"));
        output.add(&format!("udp sport {DNS_PORT} meta {owner} {PROXY_ID} ct zone set 2 return"));
    }
    for nameserver in nameservers {
        output.add(&format!("udp dport 53 {} ct zone set 2", daddr(nameserver)));
        let saddr = daddr(nameserver).replace("daddr", "saddr");
        prerouting.add(&format!("udp sport 53 {saddr} ct zone set 1"));
    }
    let (output, prerouting) = (output.text, prerouting.text);
    format!(
        "table inet istio-proxy-raw {{
    chain output {{
        type filter hook output priority raw;
{output}    }}
    chain prerouting {{
        type filter hook prerouting priority raw;
{prerouting}    }}
}}
"
    )
}

fn daddr(address: &IpAddr) -> String {
    let family = if address.is_ipv6() { "ip6" } else { "ip" };
    format!("{family} daddr {address}")
}

/// Rules at the depth at which they stand in a chain.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, rule: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "        {rule}");
    }
}
