//! The world outside the pods: a network namespace with a backend server in it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    apps,
    cgroup::Cgroup,
    netns::Netns,
    process::{Command, Network, Process},
};

/// The backend's address, like a Service's: no pod's network has it.
pub const BACKEND_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The backend's IPv6 address.
pub const BACKEND_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10);
/// The ports on which the backend serves the same: several destinations for one server.
pub const BACKEND_PORTS: [u16; 3] = [8080, 8081, 9090];
/// An address that swallows every packet without an answer: a dead host.
pub const DEAD_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The dead host's IPv6 address.
pub const DEAD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);

/// The cluster's DNS server, like kube-dns' Service.
pub const NAMESERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 53);
/// The DNS server's IPv6 address.
pub const NAMESERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x53);

/// A debug build on two busy cores needs well under a second.
const START_WITHIN: Duration = Duration::from_secs(20);

/// The namespace, and the process that holds it and serves the backend.
#[derive(Debug)]
pub(crate) struct Outside {
    cgroup: Cgroup,
    netns: Netns,
    server: Process,
}

impl Outside {
    pub(crate) fn new(cgroup: Cgroup) -> Result<Self> {
        let server = Process::spawn(
            &apps::testbed_app()?.arg("outside"),
            Some(&cgroup),
            &Network::New,
            Box::new(|_| {}),
        )?;
        let netns = Netns::of_process(server.pid())?;
        netns.ip(&format!(
            "link set lo up\n\
             addr add {BACKEND_V4}/32 dev lo\n\
             addr add {BACKEND_V6}/128 dev lo nodad\n\
             addr add {NAMESERVER_V4}/32 dev lo\n\
             addr add {NAMESERVER_V6}/128 dev lo nodad\n\
             route add blackhole {DEAD_V4}/32\n\
             route add blackhole {DEAD_V6}/128\n"
        ))?;
        server
            .wait_record(START_WITHIN, |line| line["event"] == "listening")
            .context("start the backend server")?;
        Ok(Self { cgroup, netns, server })
    }

    /// Joins a pod's namespace to this one: `eth0` there, a peer of its own here.
    pub(crate) fn attach(&self, pod: &Netns, addresses: &PodAddresses) -> Result<()> {
        let PodAddresses { peer, v4, v6, gateway_v4, gateway_v6 } = addresses;
        pod.ip(&format!(
            "link add eth0 type veth peer name {peer} netns {}\n\
             addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n",
            self.server.pid()
        ))?;
        self.netns.ip(&format!(
            "addr add {gateway_v4}/24 dev {peer}\n\
             addr add {gateway_v6}/64 dev {peer} nodad\n\
             link set {peer} up\n"
        ))?;
        // Routes need both ends up: before that the device has no carrier.
        pod.ip(&format!(
            "link set eth0 up\n\
             route add default via {gateway_v4}\n\
             route add ::/0 via {gateway_v6}\n"
        ))
    }

    /// The queries that the DNS server has had.
    pub(crate) fn dns_queries(&self) -> Vec<serde_json::Value> {
        let mut all = self.server.records();
        all.retain(|line| line["event"] == "dns_query");
        all
    }

    /// Starts a process beside the backend.
    pub(crate) fn start(&self, command: &Command) -> Result<Process> {
        Process::spawn(command, Some(&self.cgroup), &Network::Enter(&self.netns), Box::new(|_| {}))
    }

    /// The process that serves the backend.
    pub(crate) fn server(&self) -> &Process {
        &self.server
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// A pod's network: a /24 and a /64 of its own behind the node, as most CNIs give them.
#[derive(Clone, Debug)]
pub(crate) struct PodAddresses {
    peer: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    gateway_v4: Ipv4Addr,
    gateway_v6: Ipv6Addr,
}

impl PodAddresses {
    /// The network of the node's pod number `index`.
    pub(crate) fn new(index: u16) -> Self {
        let [high, low] = index.to_be_bytes();
        // 10.128.0.0/9 keeps clear of the backend (10.96) and the dead host (10.99).
        let network = |host| Ipv4Addr::new(10, 128 | high, low, host);
        let network_v6 = |host| Ipv6Addr::new(0xfd00, 0x42, index, 0, 0, 0, 0, host);
        Self {
            peer: format!("pod{index}"),
            v4: network(2),
            v6: network_v6(2),
            gateway_v4: network(1),
            gateway_v6: network_v6(1),
        }
    }
}

/// The backend as an application dials it over IPv4, on the first of [`BACKEND_PORTS`].
pub fn backend_v4() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(BACKEND_V4), BACKEND_PORTS[0])
}

/// The backend as an application dials it over IPv6, on the first of [`BACKEND_PORTS`].
pub fn backend_v6() -> SocketAddr {
    SocketAddr::new(IpAddr::V6(BACKEND_V6), BACKEND_PORTS[0])
}

/// The backend's IPv4 address as an `AF_INET6` socket dials it: `::ffff:a.b.c.d`.
pub fn backend_v4_mapped() -> SocketAddr {
    SocketAddr::new(IpAddr::V6(BACKEND_V4.to_ipv6_mapped()), BACKEND_PORTS[0])
}
