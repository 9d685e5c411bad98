//! What the agent knows, for people and programs: the form in which its state leaves it. Read by
//! the commands, the page and the metrics.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CloseReason, Clue, ContainerRole, Exemption, Finding, Ground, HeldConnect, Key, Mode,
    OpenReason, Order, Origin, PREFIX, PodRef, Proxy, ReadyCheck, Settings, SocketCookie, Stamp,
    Unused, Verdict,
};

mod diagnosis;
mod explain;
mod node;

pub use self::{
    diagnosis::Diagnosis,
    explain::{Reason, Topic},
    node::{AgentState, NodeReport, Totals, WatchReport, Watched},
};

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
    /// Nobody enabled it: what would be held is noted, and nothing is.
    Observed,
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
    /// Why, in a few words.
    pub why: String,
    /// Since when.
    pub since: Stamp,
    /// Why its gate is, or was, closed.
    pub closed_for: Option<CloseReason>,
    /// Why it is left alone.
    pub exemption: Option<Exemption>,
    /// The profile that it seems to have, if nothing is held for that.
    pub unused: Option<Unused>,
    /// Why its programs could not be worked.
    pub error: Option<String>,
    /// When the kernel opens its gate by itself. Moves on as long as nobody waits.
    pub deadline: Option<Stamp>,
    /// Nobody enabled it, and it is one whose starts are observed.
    #[serde(default)]
    pub observed: bool,
    /// Until when the operator wants it to be observed.
    pub watched_until: Option<Stamp>,
    /// Somebody has chosen to hold it.
    pub wanted: bool,
    /// Its settings; `None` as long as the API has not told of it.
    pub settings: Option<Vec<SettingReport>>,
    /// What is wrong with its labels and annotations and its namespace's, in words.
    pub problems: Vec<String>,
    /// Its proxy, or what would be its proxy if it were to be held.
    pub proxy: Option<ProxyReport>,
    /// What the probe of its proxy has found out last.
    pub probe: Option<ProbeReport>,
    /// Why its gate opened; `None`: it is closed, or never was.
    pub opened: Option<OpenedReport>,
    /// What a closed gate does with each of its containers.
    pub treatments: Vec<TreatmentReport>,
    /// Connects left it, and none of them came to the proxy's port.
    pub not_redirected: bool,
    /// Its containers that have a cgroup.
    pub containers: Vec<ContainerReport>,
    /// How many connects and queries wait.
    pub held: usize,
    /// The first of them, [`Self::MAX_WAITING`] at most.
    pub waiting: Vec<ConnectReport>,
    /// What the operator has ordered.
    pub order: Option<OrderReport>,
    /// All of this explained, in sentences for people.
    pub reasons: Vec<Reason>,
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
    /// What says so, in words: which label or annotation of which object, or which option.
    pub source: String,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyReport {
    /// The profile's name; the container's where the pod names one itself.
    pub profile: String,
    /// Its container.
    pub container: String,
    /// What tells that it is the proxy.
    pub clues: Vec<Clue>,
    /// How it is known to be ready; the first that says so counts.
    pub ready: Vec<ReadyCheck>,
    /// Kubelet's word counts as well.
    pub kube_ready: bool,
    /// Why, or why not.
    pub kubelet: KubeletWord,
    /// The loopback ports at which it takes the application's connections.
    pub ports: Vec<u16>,
    /// The loopback port at which it takes captured DNS queries.
    pub dns_port: Option<u16>,
    /// It is a guess: the API has not told of the pod yet.
    pub guessed: bool,
    /// How the mesh leaves destinations out of its redirect.
    pub exclusion_hint: Option<String>,
}

/// What kubelet's word that the proxy's container is ready is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KubeletWord {
    /// It opens the gate.
    Counts,
    /// Nothing: without a probe kubelet calls ready what has started.
    NotProbed,
    /// Nothing: the user has named another check.
    CheckNamed,
    /// Nothing: with such a proxy it means something else.
    OtherMeaning,
    /// Not known yet.
    Unknown,
}

/// What the probe of a proxy has found out last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// What.
    pub finding: Finding,
    /// Since when.
    pub since: Stamp,
}

/// An opening of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedReport {
    /// When.
    pub at: Stamp,
    /// Why.
    pub reason: OpenReason,
}

/// What a closed gate does with a container's connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreatmentReport {
    /// The container.
    pub container: String,
    /// What.
    pub verdict: Verdict,
    /// Why.
    pub ground: Ground,
    /// It was let pass, and has reached for the mesh before its proxy could exist.
    pub reached: bool,
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
    /// It began to wait at the sentry, where nobody notes who calls.
    #[serde(default)]
    pub by_sentry: bool,
    /// When it was called.
    pub since: Stamp,
}

/// What the operator has ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "gate")]
pub enum OrderReport {
    /// Open.
    Open {
        /// When it ends by itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Stamp>,
    },
    /// Closed until then.
    Closed {
        /// When it ends by itself.
        until: Stamp,
    },
}

// === impl PodState ===

impl PodState {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Exempt,
        Self::Checking,
        Self::Closed,
        Self::Observed,
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
            Self::Observed => "observed",
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

    /// A pod of which no more is known.
    #[must_use]
    pub const fn new(pod: PodRef, state: PodState, since: Stamp) -> Self {
        Self {
            pod,
            state,
            why: String::new(),
            since,
            closed_for: None,
            exemption: None,
            unused: None,
            error: None,
            deadline: None,
            observed: false,
            watched_until: None,
            wanted: false,
            settings: None,
            problems: Vec::new(),
            proxy: None,
            probe: None,
            opened: None,
            treatments: Vec::new(),
            not_redirected: false,
            containers: Vec::new(),
            held: 0,
            waiting: Vec::new(),
            order: None,
            reasons: Vec::new(),
        }
    }

    /// The value and the origin of a setting.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&SettingReport> {
        self.settings.as_ref()?.iter().find(|setting| setting.key == key)
    }
}

// === impl SettingReport ===

impl SettingReport {
    /// All settings of a pod of this namespace; `wish`: the annotation of its mesh that decided
    /// whether to hold it.
    #[must_use]
    pub fn all(settings: &Settings, namespace: &str, wish: Option<&str>) -> Vec<Self> {
        fn of<T>(
            key: Key,
            chosen: &super::Chosen<T>,
            show: impl Fn(&T) -> String,
        ) -> SettingReport {
            let (value, origin) = (show(&chosen.value), chosen.origin);
            SettingReport { key: key.short().to_owned(), value, origin, source: String::new() }
        }
        let switch = |on: &bool| if *on { "enabled" } else { "disabled" }.to_owned();
        let list =
            |ports: &Vec<u16>| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let duration = |time: &Duration| humantime::format_duration(*time).to_string();
        let Settings { hold, mode, errno, timeout, on_timeout, guard, proxy, ready, ports } =
            settings;
        let mut all = vec![
            of(Key::Hold, hold, switch),
            of(Key::Mode, mode, |mode| mode.as_str().to_owned()),
            of(Key::Timeout, timeout, duration),
            of(Key::OnTimeout, on_timeout, |then| then.as_str().to_owned()),
            of(Key::Guard, guard, switch),
        ];
        if mode.value == Mode::Refuse {
            all.push(of(Key::Errno, errno, |errno| errno.as_str().to_owned()));
        }
        all.extend(proxy.iter().map(|proxy| of(Key::Proxy, proxy, String::clone)));
        all.extend(ready.iter().map(|ready| of(Key::Ready, ready, ToString::to_string)));
        all.extend(ports.iter().map(|ports| of(Key::Ports, ports, list)));
        for setting in &mut all {
            setting.source = setting.told_by(namespace, wish);
        }
        all
    }

    fn told_by(&self, namespace: &str, wish: Option<&str>) -> String {
        let Self { key, value, origin, source: _ } = self;
        // Only this one is a label; its value has one spelling.
        let own = match key.as_str() {
            "hold" => format!("label {PREFIX}{key}={value}"),
            _ => format!("annotation {PREFIX}{key}"),
        };
        let wish = || match wish.map(|wish| wish.split_once('#').unwrap_or((wish, ""))) {
            Some((annotation, "")) => format!("annotation {annotation}"),
            Some((annotation, path)) => format!("annotation {annotation} ({path})"),
            None => "annotation of its mesh".to_owned(),
        };
        match origin {
            Origin::Pod => format!("{own} on the pod"),
            Origin::PodMesh => format!("{} on the pod", wish()),
            Origin::Namespace => format!("{own} on namespace {namespace}"),
            Origin::NamespaceMesh => format!("{} on namespace {namespace}", wish()),
            Origin::Config => match key.as_str() {
                "hold" => {
                    "HOLDFAST_DEFAULT_HOLD, --default-hold, or hold in the agent's config file"
                        .to_owned()
                }
                "timeout" => {
                    "HOLDFAST_TIMEOUT, --timeout, or timeout in the agent's config file".to_owned()
                }
                "guard" => {
                    "HOLDFAST_GUARD, --guard, or guard in the agent's config file".to_owned()
                }
                key => format!("{key} in the agent's config file"),
            },
            Origin::Default => "holdfast's default; nobody chose".to_owned(),
        }
    }
}

// === impl ProxyReport ===

impl ProxyReport {
    pub(super) fn new(proxy: &Proxy, kubelet: KubeletWord) -> Self {
        let Proxy {
            profile,
            container,
            clues,
            setup_containers: _,
            uid: _,
            ready,
            kube_ready,
            ports,
            dns_port,
            guessed,
            redirects: _,
            exclusion_hint,
        } = proxy;
        Self {
            profile: profile.clone(),
            container: container.clone(),
            clues: clues.clone(),
            ready: ready.clone(),
            kube_ready: *kube_ready,
            kubelet,
            ports: ports.clone(),
            dns_port: *dns_port,
            guessed: *guessed,
            exclusion_hint: exclusion_hint.clone(),
        }
    }
}

// === impl ConnectReport ===

impl ConnectReport {
    pub(super) fn new(connect: HeldConnect, epoch: super::Epoch) -> Self {
        let HeldConnect { cookie, container, by_sentry, caller } = connect;
        Self {
            cookie,
            container,
            comm: caller.comm,
            pid: caller.pid,
            destination: caller.destination,
            query: caller.query.is_some(),
            by_sentry,
            since: epoch.stamp(caller.connect_at),
        }
    }
}

// === impl OrderReport ===

impl OrderReport {
    pub(super) fn new(order: Order, epoch: super::Epoch) -> Self {
        match order {
            Order::Open { until } => Self::Open { until: until.map(|until| epoch.stamp(until)) },
            Order::Closed { until } => Self::Closed { until: epoch.stamp(until) },
        }
    }
}
