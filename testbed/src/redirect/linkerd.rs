//! Linkerd's rules, as `pkg/iptables/iptables.go` of linkerd2-proxy-init writes them; the same for
//! both families.

use super::{Redirect, Rules};
use crate::mesh::Mesh;

const PROXY: &str = "PROXY_INIT_OUTPUT";
const INBOUND: &str = "PROXY_INIT_REDIRECT";
const INBOUND_PORT: u16 = 4143;
/// The chart's `ignoreInboundPorts` and the proxy's own: control and admin.
const INBOUND_IGNORED: &str = "4190,4191,4567,4568";
/// The chart's `ignoreOutboundPorts`: Galera, which cannot go through a proxy.
const OUTBOUND_IGNORED: [u16; 2] = [4567, 4568];

pub(super) fn rules(redirect: &Redirect) -> String {
    let (uid, port) = (Mesh::Linkerd.user().uid, Mesh::Linkerd.port());
    let ignored: Vec<String> =
        OUTBOUND_IGNORED.iter().chain(&redirect.exclude_ports).map(u16::to_string).collect();
    let mut rules = Rules::default();
    rules.table("nat", &[INBOUND, PROXY]);
    rules.add(INBOUND, &format!("-p tcp -m multiport --dports {INBOUND_IGNORED} -j RETURN"));
    rules.add(INBOUND, &format!("-p tcp -j REDIRECT --to-ports {INBOUND_PORT}"));
    rules.add("PREROUTING", &format!("-j {INBOUND}"));
    rules.add(PROXY, &format!("-m owner --uid-owner {uid} -j RETURN"));
    rules.add(PROXY, "-o lo -j RETURN");
    rules.add(PROXY, &format!("-p tcp -m multiport --dports {} -j RETURN", ignored.join(",")));
    rules.add(PROXY, &format!("-p tcp -j REDIRECT --to-ports {port}"));
    rules.add("OUTPUT", &format!("-j {PROXY}"));
    rules.commit();
    rules.text
}
