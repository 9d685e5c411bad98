//! What users may choose, and what they chose for one pod.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

mod defaults;
mod key;
mod parse;
mod resolve;

use super::profile::Clue;

pub(super) use self::parse::{name, port_list, shown};
pub use self::{
    defaults::{Choices, Defaults},
    key::{Key, PREFIX},
    parse::{ValueError, hold_timeout, switch},
    resolve::{namespace_problems, resolve},
};

/// Where a setting's value comes from. Earlier ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The pod's own label or annotation `holdfast.dev/...`.
    Pod,
    /// The pod's own annotation of its mesh, such as Istio's `holdApplicationUntilProxyStarts`.
    PodMesh,
    /// The namespace's label or annotation `holdfast.dev/...`.
    Namespace,
    /// The namespace's annotation of its mesh.
    NamespaceMesh,
    /// The agent's config file or flag.
    Config,
    /// Nobody chose.
    Default,
}

/// A value and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

/// What a closed gate does (`holdfast.dev/mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// connect() waits; at ready its SYN is sent again.
    #[default]
    Hold,
    /// connect() waits; at ready the kernel's own retransmission goes through.
    Retry,
    /// connect() fails at once.
    Refuse,
    /// Nothing waits; what would have been held is logged.
    Observe,
}

/// What becomes of connects when the time is up (`holdfast.dev/on-timeout`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    /// They go through, as without holdfast.
    #[default]
    Open,
    /// They fail until the proxy is ready.
    Refuse,
}

/// What connect() fails with in mode `refuse` (`holdfast.dev/errno`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefuseErrno {
    /// `ECONNREFUSED`.
    #[default]
    ConnRefused,
    /// `EAGAIN`.
    Again,
    /// `ETIMEDOUT`.
    TimedOut,
}

/// The settings of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the pod is to be held at all.
    pub hold: Chosen<bool>,
    /// What a closed gate does.
    pub mode: Chosen<Mode>,
    /// What connect() fails with in mode refuse.
    pub errno: Chosen<RefuseErrno>,
    /// How long a connect is held at most.
    pub timeout: Chosen<Duration>,
    /// What becomes of it then.
    pub on_timeout: Chosen<OnTimeout>,
    /// Whether the open gate stays attached and holds when nobody listens on the proxy's port.
    pub guard: Chosen<bool>,
    /// The profile or the container that was named (`holdfast.dev/proxy`).
    pub proxy: Option<Chosen<String>>,
    /// The readiness check that was named (`holdfast.dev/ready`).
    pub ready: Option<Chosen<ReadyCheck>>,
    /// The ports that were named (`holdfast.dev/ports`).
    pub ports: Option<Chosen<Vec<u16>>>,
}

/// One way to learn whether a proxy is ready. In JSON it is as users write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ReadyCheck {
    /// GET on the pod's loopback; 200 means ready, or any other 2xx (Dapr's is 204).
    Http {
        /// TCP port.
        port: u16,
        /// Path with its query.
        path: String,
    },
    /// Somebody listens on this port of the pod's loopback.
    Tcp {
        /// TCP port.
        port: u16,
    },
    /// Kubelet's word alone.
    Kube,
}

/// What applies to the proxy of one pod: its mesh's profile, with what the pod's own spec says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The profile's name; the container's where the pod names one itself.
    pub profile: String,
    /// The proxy's container.
    pub container: String,
    /// What tells that it is the proxy.
    pub clues: Vec<Clue>,
    /// Init containers that set the redirect up or check it: never held, and nothing to report.
    /// A trailing `*` stands for any ending; see [`Self::is_setup`].
    pub setup_containers: Vec<String>,
    /// The user it runs as.
    pub uid: Option<u32>,
    /// How to learn that it is ready: the first that says so counts. Never empty.
    pub ready: Vec<ReadyCheck>,
    /// Whether kubelet's word opens the gate as well. Not where it waits for the application.
    pub kube_ready: bool,
    /// The loopback ports at which it takes the application's connections.
    pub ports: Vec<u16>,
    /// The loopback port at which it takes captured DNS queries.
    pub dns_port: Option<u16>,
    /// What the pod has is not known: of `ports` and `ready` any one can be the right one.
    pub guessed: bool,
    /// Whether the mesh redirects to `ports`; otherwise the application dials them itself.
    pub redirects: bool,
    /// What to do about an init container that needs the network before the proxy is there: how
    /// this mesh leaves destinations out of its redirect.
    pub exclusion_hint: Option<String>,
}

/// What a label or an annotation is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `holdfast.dev/timeout`.
    pub key: String,
    /// The value, cut to a length that fits a log line.
    pub value: String,
    /// What is wrong with it, and what is used instead.
    pub reason: String,
}

// === impl Mode ===

impl Mode {
    /// As users write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Retry => "retry",
            Self::Refuse => "refuse",
            Self::Observe => "observe",
        }
    }
}

// === impl OnTimeout ===

impl OnTimeout {
    /// As users write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refuse => "refuse",
        }
    }
}

// === impl RefuseErrno ===

impl RefuseErrno {
    /// As users write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConnRefused => "ECONNREFUSED",
            Self::Again => "EAGAIN",
            Self::TimedOut => "ETIMEDOUT",
        }
    }
}

// === impl Origin ===

impl Origin {
    /// In words, for tables and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::PodMesh => "pod's mesh annotation",
            Self::Namespace => "namespace",
            Self::NamespaceMesh => "namespace's mesh annotation",
            Self::Config => "config",
            Self::Default => "default",
        }
    }
}

// === impl ReadyCheck ===

impl fmt::Display for ReadyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { port, path } => write!(f, "http://:{port}{path}"),
            Self::Tcp { port } => write!(f, "tcp://:{port}"),
            Self::Kube => f.write_str("kube"),
        }
    }
}

impl From<ReadyCheck> for String {
    fn from(check: ReadyCheck) -> Self {
        check.to_string()
    }
}

impl TryFrom<String> for ReadyCheck {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

// === impl Settings ===

impl Settings {
    /// The settings of a pod of which the API has not told yet.
    #[must_use]
    pub const fn default_for_unknown(defaults: &Defaults) -> Self {
        let Defaults { hold, mode, errno, timeout, on_timeout, guard, mesh_wishes: _, observe: _ } =
            *defaults;
        Self {
            hold,
            mode,
            errno,
            timeout,
            on_timeout,
            guard,
            proxy: None,
            ready: None,
            ports: None,
        }
    }
}

// === impl Proxy ===

impl Proxy {
    /// Whether the container with this name sets the redirect up or checks it.
    #[must_use]
    pub fn is_setup(&self, container: &str) -> bool {
        self.setup_containers.iter().any(|pattern| super::profile::matches(pattern, container))
    }
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, reason } = self;
        write!(f, "{key}: \"{value}\": {reason}")
    }
}
