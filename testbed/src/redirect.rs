//! The nat rules that istio-init writes for a pod's outbound traffic.
//!
//! Its inbound chains are left out: nothing dials into a pod of the testbed, and they would send
//! what does to a listener (15006) that the testbed's proxy does not have.

use std::fmt::Write as _;

use anyhow::Result;

use crate::netns::Netns;

/// The user and the group that the mesh's proxy runs as.
pub const PROXY_ID: u32 = 1337;
/// The port that redirected connections arrive at.
pub const PROXY_PORT: u16 = 15001;

/// What of a pod's outbound traffic goes to the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `traffic.sidecar.istio.io/excludeOutboundIPRanges`, either family.
    pub exclude_cidrs: Vec<String>,
    /// `traffic.sidecar.istio.io/excludeOutboundPorts`.
    pub exclude_ports: Vec<u16>,
}

impl Redirect {
    pub(crate) fn apply(&self, netns: &Netns) -> Result<()> {
        let flags = ["--noflush"];
        netns.feed("iptables-restore", &flags, &self.rules(Family::V4))?;
        netns.feed("ip6tables-restore", &flags, &self.rules(Family::V6))
    }

    fn rules(&self, family: Family) -> String {
        let mut text = String::from(
            "*nat\n\
             :ISTIO_OUTPUT - [0:0]\n\
             :ISTIO_REDIRECT - [0:0]\n\
             -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n\
             -A OUTPUT -j ISTIO_OUTPUT\n",
        );
        let mut rule = |match_: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "-A ISTIO_OUTPUT {match_}");
        };
        for port in &self.exclude_ports {
            rule(&format!("-p tcp --dport {port} -j RETURN"));
            rule(&format!("-p udp --dport {port} -j RETURN"));
        }
        // 127.0.0.6 and ::6 are the proxy's own source addresses towards the application.
        rule(&format!("-o lo -s {} -j RETURN", family.passthrough()));
        for owner in ["uid", "gid"] {
            rule(&format!("-o lo -m owner ! --{owner}-owner {PROXY_ID} -j RETURN"));
            rule(&format!("-m owner --{owner}-owner {PROXY_ID} -j RETURN"));
        }
        rule(&format!("-d {} -j RETURN", family.loopback()));
        for cidr in &self.exclude_cidrs {
            if family.has(cidr) {
                rule(&format!("-d {cidr} -j RETURN"));
            }
        }
        rule("-j ISTIO_REDIRECT");
        text.push_str("COMMIT\n");
        text
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1/32",
            Self::V6 => "::1/128",
        }
    }

    fn passthrough(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6/32",
            Self::V6 => "::6/128",
        }
    }

    fn has(self, cidr: &str) -> bool {
        cidr.contains(':') == matches!(self, Self::V6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_gets_only_its_own_ranges_and_redirects_last() {
        let redirect = Redirect {
            exclude_cidrs: vec!["10.96.0.0/16".into(), "fd00:96::/64".into()],
            exclude_ports: vec![5432],
        };
        let v4 = redirect.rules(Family::V4);
        assert!(v4.contains("-A ISTIO_OUTPUT -d 10.96.0.0/16 -j RETURN\n"));
        assert!(!v4.contains("fd00"));
        assert!(v4.ends_with("-A ISTIO_OUTPUT -j ISTIO_REDIRECT\nCOMMIT\n"));
        let v6 = redirect.rules(Family::V6);
        assert!(v6.contains("-A ISTIO_OUTPUT -d fd00:96::/64 -j RETURN\n"));
        assert!(v6.contains("-A ISTIO_OUTPUT -d ::1/128 -j RETURN\n"));
        assert!(!v6.contains("10.96"));
        let port = v4.find("--dport 5432").unwrap();
        assert!(port < v4.find("owner").unwrap(), "ports come first, as istio-init has them");
    }
}
