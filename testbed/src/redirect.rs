//! The rules that take a pod's traffic to its proxy, in the order in which each mesh's own tool
//! writes them.

mod istio;
mod istio_nft;
mod kuma;
mod linkerd;

use std::net::IpAddr;

use anyhow::{Result, bail};

use crate::{mesh::Mesh, netns::Netns};

/// The user and the group that Istio's proxy runs as.
pub const PROXY_ID: u32 = Mesh::Istio.user().uid;
/// The port that Istio redirects connections to.
pub const PROXY_PORT: u16 = Mesh::Istio.port();
/// The port that Istio and Kuma redirect DNS queries to.
pub const DNS_PORT: u16 = 15053;

/// What of a pod's traffic goes to the proxy, and by which means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// Destination ranges, of either family, that go direct (Istio alone).
    pub exclude_cidrs: Vec<String>,
    /// Destination ports that go direct.
    pub exclude_ports: Vec<u16>,
    /// Whether DNS queries go to the proxy as well (Istio and Kuma).
    pub dns: bool,
    /// How connections into the pod get to the proxy (Istio alone).
    pub inbound: Inbound,
    /// What the rules are written with (Istio alone; the others use iptables).
    pub tool: Tool,
}

/// Istio's interception mode. It decides about connections into the pod, and about the proxy's
/// user; what leaves the pod is redirected either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inbound {
    /// By NAT.
    #[default]
    Redirect,
    /// By TPROXY, for which the proxy is root, of its own group.
    Tproxy,
}

/// What writes the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tool {
    /// `iptables-restore` and `ip6tables-restore`.
    #[default]
    Iptables,
    /// `nft -f`, with nftables' own NAT.
    Nftables,
}

impl Redirect {
    /// Writes the rules of `mesh` into a pod's namespace; `nameservers` are those of its resolv.conf.
    pub(crate) fn apply(&self, mesh: Mesh, nameservers: &[IpAddr], netns: &Netns) -> Result<()> {
        if self.inbound == Inbound::Tproxy {
            netns.ip(istio::TPROXY_ROUTES)?;
        }
        if mesh == Mesh::Istio && self.tool == Tool::Nftables {
            if self.inbound == Inbound::Tproxy {
                bail!("TPROXY is written with iptables only");
            }
            return netns.feed("nft", &["-f", "-"], &istio_nft::rules(self, nameservers));
        }
        for family in [Family::V4, Family::V6] {
            let rules = match mesh {
                Mesh::Istio => istio::rules(self, nameservers, family),
                Mesh::Linkerd => linkerd::rules(self),
                Mesh::Kuma => kuma::rules(self, family),
                Mesh::Dapr | Mesh::CloudSql | Mesh::Own => return Ok(()),
            };
            netns.feed(family.restore(), &["--noflush"], &rules)?;
        }
        Ok(())
    }
}

/// The version of IP that a set of rules is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1/32",
            Self::V6 => "::1/128",
        }
    }

    /// The proxy's own source address towards the application.
    fn passthrough(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6/32",
            Self::V6 => "::6/128",
        }
    }

    fn has_range(self, cidr: &str) -> bool {
        cidr.contains(':') == (self == Self::V6)
    }

    fn has(self, address: &IpAddr) -> bool {
        address.is_ipv6() == (self == Self::V6)
    }
}

/// Rules in the form that `iptables-restore` reads.
#[derive(Debug, Default)]
struct Rules {
    text: String,
}

impl Rules {
    /// Begins a table with these chains of its own.
    fn table(&mut self, name: &str, chains: &[&str]) {
        self.line(&format!("*{name}"));
        for chain in chains {
            self.line(&format!(":{chain} - [0:0]"));
        }
    }

    fn add(&mut self, chain: &str, rule: &str) {
        self.line(&format!("-A {chain} {rule}"));
    }

    fn commit(&mut self) {
        self.line("COMMIT");
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of one chain, in their order.
    fn chain<'a>(rules: &'a str, table: &str, chain: &str) -> Vec<&'a str> {
        let start = rules.find(&format!("*{table}\n")).unwrap();
        let end = rules[start..].find("COMMIT").unwrap();
        let prefix = format!("-A {chain} ");
        rules[start..start + end].lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
    }

    fn captured() -> Redirect {
        Redirect { dns: true, ..Redirect::default() }
    }

    const NAMESERVERS: [&str; 2] = ["10.96.0.53", "fd00:96::53"];

    fn nameservers() -> Vec<IpAddr> {
        NAMESERVERS.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn each_family_gets_only_its_own_ranges_and_redirects_last() {
        let redirect = Redirect {
            exclude_cidrs: vec!["10.96.0.0/16".into(), "fd00:96::/64".into()],
            exclude_ports: vec![5432],
            ..Redirect::default()
        };
        let v4 = istio::rules(&redirect, &[], Family::V4);
        let output = chain(&v4, "nat", "ISTIO_OUTPUT");
        assert!(output.contains(&"-d 10.96.0.0/16 -j RETURN"));
        assert!(!v4.contains("fd00"));
        assert_eq!(output.last(), Some(&"-j ISTIO_REDIRECT"));
        assert_eq!(output[0], "-p tcp --dport 5432 -j RETURN", "ports come first");
        let v6 = istio::rules(&redirect, &[], Family::V6);
        let output = chain(&v6, "nat", "ISTIO_OUTPUT");
        assert!(output.contains(&"-d fd00:96::/64 -j RETURN"));
        assert!(output.contains(&"-d ::1/128 -j RETURN"));
        assert!(!v6.contains("10.96"));
    }

    #[test]
    fn istio_lets_the_proxy_ask_and_captures_the_pod_s_nameservers_of_each_family() {
        for (family, mine, other) in [
            (Family::V4, NAMESERVERS[0], NAMESERVERS[1]),
            (Family::V6, NAMESERVERS[1], NAMESERVERS[0]),
        ] {
            let rules = istio::rules(&captured(), &nameservers(), family);
            let dns = chain(&rules, "nat", "ISTIO_OUTPUT_DNS");
            assert_eq!(
                dns,
                [
                    format!("-p tcp --dport 53 -d {mine} -j REDIRECT --to-ports 15053"),
                    "-p udp --dport 53 -m owner --uid-owner 1337 -j RETURN".into(),
                    "-p udp --dport 53 -m owner --gid-owner 1337 -j RETURN".into(),
                    format!("-p udp --dport 53 -d {mine} -j REDIRECT --to-ports 15053"),
                ]
            );
            assert!(!rules.contains(other));
            let zones = chain(&rules, "raw", "ISTIO_OUTPUT_DNS");
            assert_eq!(
                zones.last().unwrap(),
                &format!("-p udp --dport 53 -d {mine} -j CT --zone 2")
            );
            // A TCP query to a nameserver on loopback must not be let go with other loopback.
            assert!(
                chain(&rules, "nat", "ISTIO_OUTPUT")
                    .contains(&"-o lo -p tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN")
            );
        }
        let without = istio::rules(&Redirect::default(), &nameservers(), Family::V4);
        assert!(!without.contains("15053") && !without.contains("*raw"));
    }

    #[test]
    fn tproxy_marks_in_mangle_and_redirects_only_what_leaves() {
        let redirect = Redirect { inbound: Inbound::Tproxy, ..Redirect::default() };
        let rules = istio::rules(&redirect, &[], Family::V4);
        assert!(chain(&rules, "nat", "PREROUTING").is_empty());
        assert_eq!(chain(&rules, "nat", "ISTIO_REDIRECT"), ["-p tcp -j REDIRECT --to-ports 15001"]);
        let inbound = chain(&rules, "mangle", "ISTIO_INBOUND");
        assert_eq!(inbound[0], "-p tcp -m mark --mark 1337 -j RETURN");
        assert_eq!(inbound.last(), Some(&"-p tcp -j ISTIO_TPROXY"));
    }

    #[test]
    fn linkerd_lets_its_proxy_then_loopback_then_ports_go() {
        let redirect = Redirect { exclude_ports: vec![5432, 6379], ..Redirect::default() };
        let rules = linkerd::rules(&redirect);
        assert_eq!(
            chain(&rules, "nat", "PROXY_INIT_OUTPUT"),
            [
                "-m owner --uid-owner 2102 -j RETURN",
                "-o lo -j RETURN",
                "-p tcp -m multiport --dports 4567,4568,5432,6379 -j RETURN",
                "-p tcp -j REDIRECT --to-ports 4140",
            ]
        );
    }

    #[test]
    fn kuma_captures_every_query_but_its_proxy_s_before_anything_else() {
        let rules = kuma::rules(&captured(), Family::V4);
        assert_eq!(
            chain(&rules, "nat", "OUTPUT"),
            [
                "-p udp --dport 53 -m owner --uid-owner 5678 -j RETURN",
                "-p udp --dport 53 -j REDIRECT --to-ports 15053",
                "-p tcp -j KUMA_MESH_OUTBOUND",
            ]
        );
        let outbound = chain(&rules, "nat", "KUMA_MESH_OUTBOUND");
        let position = |rule: &str| outbound.iter().position(|one| *one == rule).unwrap();
        assert!(
            position("-m owner --uid-owner 5678 -j RETURN")
                < position("-p tcp --dport 53 -j REDIRECT --to-ports 15053")
        );
        assert_eq!(outbound.last(), Some(&"-j KUMA_MESH_OUTBOUND_REDIRECT"));
        let without = kuma::rules(&Redirect::default(), Family::V6);
        assert!(!without.contains("15053"));
    }

    #[test]
    fn nftables_says_the_same_for_both_families_at_once() {
        let redirect = Redirect { exclude_ports: vec![5432], ..captured() };
        let rules = istio_nft::rules(&redirect, &nameservers());
        for needed in [
            "table inet istio-proxy-nat {",
            "tcp dport 5432 return",
            "udp dport 53 ip daddr 10.96.0.53 redirect to :15053",
            "udp dport 53 ip6 daddr fd00:96::53 redirect to :15053",
            "ct zone set 2",
            "meta l4proto tcp redirect to :15001",
        ] {
            assert!(rules.contains(needed), "{needed} is missing in\n{rules}");
        }
    }
}
