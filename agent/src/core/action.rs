//! What goes out.

use std::{net::SocketAddr, time::Duration};

use super::{CgroupId, Monotonic, PodName, PodUid, ReadyEndpoint, SocketCookie, Verdict};

/// Something to be done by the edges, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close the pod's gate: state first, then the programs.
    CloseGate(CloseGate),
    /// Open it and replay what it holds.
    OpenGate {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
        /// The sockets known to wait.
        held: Vec<SocketCookie>,
    },
    /// Take the programs off and forget the gate.
    DetachGate {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
        /// The containers on which a verdict was set.
        containers: Vec<CgroupId>,
    },
    /// Say whether a container is held.
    SetVerdict {
        /// The container's cgroup.
        container: CgroupId,
        /// The verdict.
        verdict: Verdict,
    },
    /// A container is gone: forget its verdict.
    ForgetVerdict {
        /// The container's cgroup.
        container: CgroupId,
    },
    /// Replay what a container that may pass after all has been kept from.
    ReplayContainer {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
        /// The container's cgroup.
        container: CgroupId,
        /// The sockets known to wait.
        held: Vec<SocketCookie>,
    },
    /// Ask the pod's proxy whether it is ready, until told otherwise.
    StartProbe {
        /// The pod.
        uid: PodUid,
        /// The readiness endpoint.
        endpoint: ReadyEndpoint,
        /// The ports that must have a listener before a 200 counts.
        ports: Vec<u16>,
        /// How often.
        pace: Pace,
    },
    /// Ask more or less often.
    SetPace {
        /// The pod.
        uid: PodUid,
        /// How often.
        pace: Pace,
    },
    /// Ask no more.
    StopProbe(PodUid),
    /// Tell the operator.
    Log(Line),
}

/// The closing of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseGate {
    /// The pod.
    pub uid: PodUid,
    /// Its cgroup.
    pub cgroup: CgroupId,
    /// When the kernel opens it, agent or no agent.
    pub deadline: Monotonic,
    /// The proxy's loopback ports.
    pub ports: Vec<u16>,
}

/// How often to ask a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nobody waits.
    Idle,
    /// A connect has waited since then.
    Held(Monotonic),
}

/// Why a gate opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenReason {
    /// The proxy's own endpoint answered 200.
    ProbeReady,
    /// Kubelet calls the proxy's container ready.
    KubeReady,
    /// The time is up.
    Deadline,
    /// The pod is not, or no longer, one to hold.
    Exempt(Exemption),
}

/// Why a pod is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// Neither it nor its namespace is labelled.
    NotEnabled,
    /// It has no container of a known proxy.
    NoProxy,
    /// It lives in the node's network namespace.
    HostNetwork,
    /// It is being deleted.
    Terminating,
    /// All its containers have ended.
    Finished,
    /// It is part of Kubernetes or of the mesh's control plane.
    ControlPlane,
    /// The API no longer knows it.
    Deleted,
}

impl OpenReason {
    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProbeReady => "the proxy's readiness endpoint answered 200",
            Self::KubeReady => "kubelet reports the proxy ready",
            Self::Deadline => "deadline passed",
            Self::Exempt(exemption) => exemption.as_str(),
        }
    }
}

impl Exemption {
    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotEnabled => "not enabled by label",
            Self::NoProxy => "no proxy container in the pod",
            Self::HostNetwork => "pod uses the host network",
            Self::Terminating => "pod is terminating",
            Self::Finished => "pod has finished",
            Self::ControlPlane => "pod belongs to the control plane",
            Self::Deleted => "pod was deleted",
        }
    }
}

/// How a hold ended for its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Outcome {
    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::ClosedByApplication => "closed by the application",
            Self::StillConnecting => "still connecting",
        }
    }
}

/// A connect() that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldConnect {
    /// The socket.
    pub cookie: SocketCookie,
    /// The container's name; its id, or nothing, until that is known.
    pub container: Option<String>,
    /// The container's cgroup.
    pub container_cgroup: Option<CgroupId>,
    /// Thread group id of the caller.
    pub pid: Option<u32>,
    /// Uid of the caller.
    pub uid: u32,
    /// Command name of the caller.
    pub comm: String,
    /// Where the application wanted to connect to.
    pub destination: SocketAddr,
    /// When it called connect().
    pub connect_at: Monotonic,
}

/// A line for the log. Who the pod is: its name if known, else its uid alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A gate was closed.
    GateClosed {
        /// The pod.
        uid: PodUid,
        /// Its name, if known.
        name: Option<PodName>,
        /// Time to the deadline.
        deadline: Duration,
    },
    /// A connect began to wait.
    Held {
        /// The pod.
        uid: PodUid,
        /// Its name, if known.
        name: Option<PodName>,
        /// The connect.
        connect: HeldConnect,
    },
    /// A gate was opened.
    GateOpened {
        /// The pod.
        uid: PodUid,
        /// Its name, if known.
        name: Option<PodName>,
        /// When it was decided; the gate opens within microseconds of it.
        at: Monotonic,
        /// Why.
        reason: OpenReason,
        /// How many connects wait.
        held: usize,
    },
    /// A connect waits no longer.
    Released {
        /// The pod.
        uid: PodUid,
        /// Its name, if known.
        name: Option<PodName>,
        /// The connect.
        connect: HeldConnect,
        /// How long it waited.
        waited: Duration,
        /// What became of it.
        outcome: Outcome,
    },
    /// The programs were taken off.
    GateDetached {
        /// The pod.
        uid: PodUid,
        /// Its name, if known.
        name: Option<PodName>,
    },
    /// A gate failed; its programs are off.
    GateFailed {
        /// The pod.
        uid: PodUid,
        /// Its name, if known.
        name: Option<PodName>,
        /// Why.
        error: String,
    },
    /// A label has a value that means nothing.
    InvalidLabel {
        /// The pod or the namespace.
        object: String,
        /// The value.
        value: String,
    },
}
