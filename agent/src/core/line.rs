//! What the log tells: one variant for each constant message.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Caller, ContainerRole, Finding, Mode, Monotonic, Order, Orderer, Origin, PodName, PodUid,
    Problem, RefuseErrno, SocketCookie, Workload,
};

/// Whom a line or an Event is about. The API may not have told the pod's name yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "PodRefText", from = "PodRefText")]
pub struct PodRef {
    /// The pod.
    pub uid: PodUid,
    /// Its name, if known.
    pub name: Option<PodName>,
    /// What it was made for, if known.
    pub workload: Option<Workload>,
}

/// A pod in JSON: `pod` is its name, as in the log.
#[derive(Serialize, Deserialize)]
struct PodRefText {
    pod_uid: PodUid,
    namespace: Option<String>,
    pod: Option<String>,
    workload: Option<Workload>,
}

/// Why a gate closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// The pod starts.
    Start,
    /// It may have run before it was to be held, and its proxy is not ready.
    NotReady,
    /// The proxy's container has no process any more.
    ProxyDied,
    /// A connect found nobody listening on the proxy's port.
    NobodyListens,
    /// The operator wants it.
    Operator,
}

/// Why a gate opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenReason {
    /// A check of the proxy's own says ready.
    ProbeReady,
    /// Kubelet calls the proxy's container ready.
    KubeReady,
    /// The time is up.
    Deadline,
    /// The pod is not, or no longer, one to hold.
    Exempt(Exemption),
}

/// Why a pod is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exemption {
    /// Neither it nor its namespace is labelled, or one of them says no.
    NotEnabled,
    /// It has no container of a known proxy.
    NoProxy,
    /// Its mesh is told to leave its traffic alone.
    RedirectOff,
    /// It is served by a proxy outside the pod.
    NoSidecar,
    /// It lives in the node's network namespace.
    HostNetwork,
    /// It is being deleted.
    Terminating,
    /// All its containers have ended.
    Finished,
    /// It is part of Kubernetes or of the mesh's control plane.
    ControlPlane,
    /// It is the agent's own.
    Agent,
    /// The operator has opened its gate.
    Operator,
    /// The API no longer knows it.
    Deleted,
}

/// How a hold ended for its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// connect() succeeded.
    Connected,
    /// The gate was open and the proxy's port refused.
    Refused,
    /// The kernel gave up while the gate was closed: a timeout that the application had set.
    TimedOut,
    /// The application closed the socket, or ended.
    ClosedByApplication,
    /// Released, and not connected when the programs were detached.
    StillConnecting,
    /// A DNS query: sent again to the proxy, which is ready.
    QuerySent,
    /// A DNS query: its resolver has given it up by now.
    QueryExpired,
}

/// A connect(), or a DNS query, of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldConnect {
    /// The socket.
    pub cookie: SocketCookie,
    /// The container's name; its id, or nothing, until that is known.
    pub container: Option<String>,
    /// It began to wait at the sentry, before its pod had a gate.
    pub by_sentry: bool,
    /// Who called, and where it wanted to go.
    pub caller: Caller,
}

impl HeldConnect {
    /// Who held it first, if it was not the gate.
    #[must_use]
    pub fn held_by(&self) -> Option<&'static str> {
        self.by_sentry.then_some("sentry")
    }
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A container of the pod runs.
    ContainerStarted {
        /// Its name.
        container: String,
        /// Its role, if the API has told.
        role: Option<ContainerRole>,
        /// It is the pod's proxy.
        is_proxy: bool,
        /// When its first process was seen.
        at: Monotonic,
    },
    /// A container of the pod has no process any more.
    ContainerEnded {
        /// Its name.
        container: String,
    },
    /// A gate was closed. Told again, with the same instant, when the API has told what a pod is whose
    /// gate was closed before.
    GateClosed {
        /// When it was decided.
        at: Monotonic,
        /// Why.
        reason: CloseReason,
        /// The proxy's profile.
        profile: String,
        /// The proxy's container.
        proxy: String,
        /// What it does.
        mode: Mode,
        /// Whose choice it is to hold this pod; `None`: the API has not told of it yet.
        enabled_by: Option<Origin>,
        /// Nobody enabled it, and it only observes.
        observes: bool,
        /// How long a connect waits at most.
        timeout: Duration,
    },
    /// A gate that an agent before this one has left goes on.
    GateInherited {
        /// Why it was closed; `None`: it was not.
        reason: Option<CloseReason>,
        /// How many connects wait.
        held: usize,
    },
    /// A connect began to wait.
    Held(HeldConnect),
    /// Mode refuse: a connect fails.
    Refused {
        /// The connect.
        connect: HeldConnect,
        /// What it fails with; `None`: the kernel answers by itself, as where nobody listens.
        errno: Option<RefuseErrno>,
    },
    /// Mode observe: a connect would have waited.
    Observed {
        /// The connect.
        connect: HeldConnect,
        /// It fails instead: nobody listens on the proxy's port.
        refused: bool,
    },
    /// An init container reached for the proxy, which cannot be there yet.
    InitPassed {
        /// The connect.
        connect: HeldConnect,
        /// How its mesh leaves destinations out.
        hint: Option<String>,
    },
    /// A gate was opened.
    GateOpened {
        /// When it was decided; the gate opens within microseconds of it.
        at: Monotonic,
        /// Why.
        reason: OpenReason,
        /// How many connects wait.
        held: usize,
        /// What the probe has found out last.
        finding: Option<Finding>,
    },
    /// The time is up, and connects fail from now on.
    DeadlineRefuses {
        /// How many connects waited.
        held: usize,
        /// What the probe has found out last.
        finding: Option<Finding>,
    },
    /// A connect waits no longer.
    Released {
        /// The connect.
        connect: HeldConnect,
        /// How long it waited.
        waited: Duration,
        /// What became of it.
        outcome: Outcome,
    },
    /// The programs stay on to hold connects should the proxy go.
    GateGuards,
    /// The programs were taken off.
    GateDetached,
    /// A gate failed; its programs are off.
    GateFailed {
        /// Why.
        error: String,
        /// It is tried again for a while.
        again: bool,
        /// How often that has been done.
        trials: u32,
    },
    /// The pod is not held, and its gate has not been closed.
    NotHeld {
        /// Why.
        exemption: Exemption,
        /// Somebody wants it to be held.
        wanted: bool,
    },
    /// While the gate was closed connects left the pod, and none of them came to the proxy's port.
    NotRedirected {
        /// How many.
        around: u64,
        /// The profile's name.
        profile: String,
    },
    /// The operator has given an order for the gate, or taken it back.
    Ordered {
        /// The order; `None`: the gate follows the facts again.
        order: Option<Order>,
        /// How long it stands.
        limit: Option<Duration>,
        /// Who has given it.
        by: Orderer,
    },
    /// A setting has a value that means nothing.
    InvalidSetting(Problem),
}

// === impl PodRef ===

impl PodRef {
    /// A pod with this uid and name, of which no more is known.
    #[must_use]
    pub const fn new(uid: PodUid, name: Option<PodName>) -> Self {
        Self { uid, name, workload: None }
    }
}

impl From<PodRef> for PodRefText {
    fn from(PodRef { uid, name, workload }: PodRef) -> Self {
        let (namespace, pod) = match name {
            Some(PodName { namespace, name }) => {
                (Some(namespace.as_ref().into()), Some(name.as_ref().into()))
            }
            None => (None, None),
        };
        Self { pod_uid: uid, namespace, pod, workload }
    }
}

impl From<PodRefText> for PodRef {
    fn from(PodRefText { pod_uid, namespace, pod, workload }: PodRefText) -> Self {
        let name = namespace.zip(pod).map(|(namespace, pod)| PodName::new(&namespace, &pod));
        Self { uid: pod_uid, name, workload }
    }
}

// === impl CloseReason ===

impl CloseReason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Start, Self::NotReady, Self::ProxyDied, Self::NobodyListens, Self::Operator];

    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "pod starts",
            Self::NotReady => "the proxy is not ready",
            Self::ProxyDied => "the proxy's container has ended",
            Self::NobodyListens => "nobody listens on the proxy's port any more",
            Self::Operator => "closed by the operator",
        }
    }
}

// === impl OpenReason ===

impl OpenReason {
    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProbeReady => "the proxy says it is ready",
            Self::KubeReady => "kubelet reports the proxy ready",
            Self::Deadline => "deadline passed",
            Self::Exempt(exemption) => exemption.as_str(),
        }
    }
}

// === impl Exemption ===

impl Exemption {
    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotEnabled => "not enabled",
            Self::NoProxy => "no proxy container in the pod",
            Self::RedirectOff => "the mesh's redirect is switched off for the pod",
            Self::NoSidecar => "the mesh serves the pod without a sidecar",
            Self::HostNetwork => "pod uses the host network",
            Self::Terminating => "pod is terminating",
            Self::Finished => "pod has finished",
            Self::ControlPlane => "pod belongs to the control plane",
            Self::Agent => "pod is the agent's own",
            Self::Operator => "opened by the operator",
            Self::Deleted => "pod was deleted",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Connected,
        Self::Refused,
        Self::TimedOut,
        Self::ClosedByApplication,
        Self::StillConnecting,
        Self::QuerySent,
        Self::QueryExpired,
    ];

    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::ClosedByApplication => "closed by the application",
            Self::StillConnecting => "still connecting",
            Self::QuerySent => "query sent",
            Self::QueryExpired => "given up by the resolver",
        }
    }
}
