//! A Kubernetes node in a box.
//!
//! Everything that holdfast meets on a node is real here: cgroups of version 2 in kubelet's layout,
//! network namespaces and veth pairs, the nat rules that istio-init writes, Envoy as the proxy, an
//! API server over HTTP, applications in several runtimes. Only the parts of kubelet and of the
//! container runtime are played, by this library, in their order.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use testbed::{Node, PodSpec, apps, backend_v4};
//!
//! let node = Node::new()?;
//! node.api().put_namespace("shop", &[("holdfast.dev/hold", "enabled")]);
//! let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
//! let app = pod.start_container("app", apps::connect(backend_v4())?)?;
//! let attempt = app.wait_attempt(Duration::from_secs(1))?;
//! assert_eq!(attempt.outcome, "ECONNREFUSED"); // the proxy is not there yet
//! let proxy = pod.start_proxy()?;
//! proxy.wait_ready(Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
//!
//! All handles are guards: what they stand for ends when they are dropped, also while a test
//! unwinds. What a killed process leaves behind, the next [`Node`] removes.

mod agent;
pub mod api;
pub mod apps;
pub mod bench;
pub mod bpf;
mod browser;
mod capture;
mod cgroup;
pub mod clock;
mod container;
pub mod demo;
pub mod dns;
pub mod e2e;
pub mod faults;
mod fixtures;
pub mod interrupt;
mod lane;
mod light;
mod mesh;
mod netns;
mod node;
mod outside;
pub mod pattern;
mod pod;
mod process;
pub mod processor;
mod promtool;
mod proxy;
mod redirect;

pub use self::{
    agent::{Agent, AgentOptions, agent_binary},
    api::{Api, Resource},
    browser::{Browser, View, Visit},
    capture::{Capture, CapturedSyn},
    cgroup::{Cgroup, CgroupDriver, Qos, cgroup2_mount},
    container::ContainerId,
    fixtures::Recording,
    lane::Lane,
    mesh::Mesh,
    netns::Netns,
    node::{Node, NodeOptions, remove_own_nodes},
    outside::{
        BACKEND_PORTS, BACKEND_V4, BACKEND_V6, DEAD_V4, DEAD_V6, NAMESERVER_V4, NAMESERVER_V6,
        backend_v4, backend_v4_mapped, backend_v6,
    },
    pod::{Container, PROXY, Pod, PodSpec, RestartPolicy},
    process::{Command, Process, Usage, User},
    promtool::promtool,
    proxy::{Endpoint, Proxy, Readiness, ReadyObserver},
    redirect::{DNS_PORT, Inbound, PROXY_ID, PROXY_PORT, Redirect, Tool},
};
