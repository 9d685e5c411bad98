//! What the agent knows, for people and programs: the form in which its state leaves it. Read by
//! the commands, the page and the metrics.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CloseReason, ContainerRole, Exemption, HeldConnect, Mode, Order, Origin, PodRef, Proxy,
    Settings, SocketCookie, Stamp, Verdict,
};

mod node;

pub use self::node::{AgentState, NodeReport, Totals, WatchReport, Watched};

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodState {
    /// It is to be held, or may be, and has no cgroup yet.
    Pending,
    /// It is left alone.
    Exempt,
    /// It may have run before: its proxy is asked first.
    Checking,
    /// Connects wait, fail or are noted, by its mode.
    Closed,
    /// The time is up, and connects fail until the proxy is ready.
    Refusing,
    /// Opened; what waited goes on.
    Opening,
    /// Open; connects wait should nobody listen on the proxy's port.
    Guarded,
    /// Open, without programs.
    Open,
    /// Open: the time was up before the proxy was ready.
    GivenUp,
    /// Open: its programs could not be worked.
    Failed,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodReport {
    /// Which.
    #[serde(flatten)]
    pub pod: PodRef,
    /// Where it stands.
    pub state: PodState,
    /// Since when.
    pub since: Stamp,
    /// Why its gate is, or was, closed.
    pub closed_for: Option<CloseReason>,
    /// Why it is left alone.
    pub exemption: Option<Exemption>,
    /// When the kernel opens its gate by itself. Moves on as long as nobody waits.
    pub deadline: Option<Stamp>,
    /// Somebody has chosen to hold it.
    pub wanted: bool,
    /// Its settings; `None` as long as the API has not told of it.
    pub settings: Option<Vec<SettingReport>>,
    /// What is wrong with what it says itself, in words.
    pub problems: Vec<String>,
    /// Its proxy, or what would be its proxy if it were to be held.
    pub proxy: Option<ProxyReport>,
    /// Its containers that have a cgroup.
    pub containers: Vec<ContainerReport>,
    /// How many connects and queries wait.
    pub held: usize,
    /// The first of them, [`Self::MAX_WAITING`] at most.
    pub waiting: Vec<ConnectReport>,
    /// What the operator has ordered.
    pub order: Option<OrderReport>,
}

/// A setting, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingReport {
    /// Its name, without the prefix: `hold`, `mode`, ...
    pub key: String,
    /// Its value as users write it.
    pub value: String,
    /// Whose choice it is.
    pub origin: Origin,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyReport {
    /// The profile's name; the container's where the pod names one itself.
    pub profile: String,
    /// Its container.
    pub container: String,
    /// How it is known to be ready; the first that says so counts.
    pub ready: Vec<String>,
    /// Kubelet's word counts as well.
    pub kube_ready: bool,
    /// The loopback ports at which it takes the application's connections.
    pub ports: Vec<u16>,
    /// The loopback port at which it takes captured DNS queries.
    pub dns_port: Option<u16>,
    /// It is a guess: the API has not told of the pod yet.
    pub guessed: bool,
}

/// A container that has a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// Its id.
    pub id: String,
    /// Its name, if known; empty for the sandbox.
    pub name: Option<String>,
    /// Its role, if the API has told.
    pub role: Option<ContainerRole>,
    /// It is the proxy.
    pub is_proxy: bool,
    /// It has a process.
    pub running: Option<bool>,
    /// What the kernel was told to do with its connects.
    pub verdict: Option<Verdict>,
    /// Its cgroup's id.
    pub cgroup: u64,
}

/// A connect that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectReport {
    /// The socket.
    pub cookie: SocketCookie,
    /// The container's name, as far as known.
    pub container: Option<String>,
    /// Command name of the caller. Chosen by the tenant: any bytes.
    pub comm: String,
    /// Thread group id of the caller.
    pub pid: Option<u32>,
    /// Where it wants to go.
    pub destination: SocketAddr,
    /// It is a DNS query.
    pub query: bool,
    /// When it was called.
    pub since: Stamp,
}

/// What the operator has ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "gate")]
pub enum OrderReport {
    /// Open.
    Open,
    /// Closed until then.
    Closed {
        /// When it ends by itself.
        until: Stamp,
    },
}

// === impl PodState ===

impl PodState {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Exempt,
        Self::Checking,
        Self::Closed,
        Self::Refusing,
        Self::Opening,
        Self::Guarded,
        Self::Open,
        Self::GivenUp,
        Self::Failed,
    ];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Exempt => "exempt",
            Self::Checking => "checking",
            Self::Closed => "closed",
            Self::Refusing => "refusing",
            Self::Opening => "opening",
            Self::Guarded => "guarded",
            Self::Open => "open",
            Self::GivenUp => "given-up",
            Self::Failed => "failed",
        }
    }
}

// === impl PodReport ===

impl PodReport {
    /// Waiting connects that are named one by one.
    pub const MAX_WAITING: usize = 32;

    /// The value and the origin of a setting.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&SettingReport> {
        self.settings.as_ref()?.iter().find(|setting| setting.key == key)
    }
}

// === impl SettingReport ===

impl SettingReport {
    /// All settings of a pod.
    #[must_use]
    pub fn all(settings: &Settings) -> Vec<Self> {
        fn of<T>(
            key: &str,
            chosen: &super::Chosen<T>,
            show: impl Fn(&T) -> String,
        ) -> SettingReport {
            let (key, value) = (key.to_owned(), show(&chosen.value));
            SettingReport { key, value, origin: chosen.origin }
        }
        let switch = |on: &bool| if *on { "enabled" } else { "disabled" }.to_owned();
        let list =
            |ports: &Vec<u16>| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let duration = |time: &Duration| humantime::format_duration(*time).to_string();
        let Settings { hold, mode, errno, timeout, on_timeout, guard, proxy, ready, ports } =
            settings;
        let mut all = vec![
            of("hold", hold, switch),
            of("mode", mode, |mode| mode.as_str().to_owned()),
            of("timeout", timeout, duration),
            of("on-timeout", on_timeout, |then| then.as_str().to_owned()),
            of("guard", guard, switch),
        ];
        if mode.value == Mode::Refuse {
            all.push(of("errno", errno, |errno| errno.as_str().to_owned()));
        }
        all.extend(proxy.iter().map(|proxy| of("proxy", proxy, String::clone)));
        all.extend(ready.iter().map(|ready| of("ready", ready, ToString::to_string)));
        all.extend(ports.iter().map(|ports| of("ports", ports, list)));
        all
    }
}

// === impl ProxyReport ===

impl From<&Proxy> for ProxyReport {
    fn from(proxy: &Proxy) -> Self {
        let Proxy { profile, container, ready, kube_ready, ports, dns_port, guessed, .. } = proxy;
        Self {
            profile: profile.clone(),
            container: container.clone(),
            ready: ready.iter().map(ToString::to_string).collect(),
            kube_ready: *kube_ready,
            ports: ports.clone(),
            dns_port: *dns_port,
            guessed: *guessed,
        }
    }
}

// === impl ConnectReport ===

impl ConnectReport {
    pub(super) fn new(connect: HeldConnect, epoch: super::Epoch) -> Self {
        let HeldConnect { cookie, container, caller } = connect;
        Self {
            cookie,
            container,
            comm: caller.comm,
            pid: caller.pid,
            destination: caller.destination,
            query: caller.query.is_some(),
            since: epoch.stamp(caller.connect_at),
        }
    }
}

// === impl OrderReport ===

impl OrderReport {
    pub(super) const fn new(order: Order, epoch: super::Epoch) -> Self {
        match order {
            Order::Open => Self::Open,
            Order::Closed { until } => Self::Closed { until: epoch.stamp(until) },
        }
    }
}
