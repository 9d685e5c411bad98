//! What comes in.

use std::net::SocketAddr;

use super::{
    CgroupId, CloseReason, ContainerId, ContainerIdentity, Finding, Monotonic, NamespaceView,
    Order, PodName, PodUid, PodView, QueryId, SocketCookie,
};

/// A fact from one of the sources. Every source is a snapshot, then deltas; each event may come
/// again and in any order with those of other sources.
#[derive(Clone, Debug)]
pub enum Event {
    /// API: all pods of this node.
    PodsListed(Vec<PodView>),
    /// API: a pod is there or has changed.
    PodApplied(PodView),
    /// API: a pod is gone.
    PodDeleted(PodUid),
    /// API: all namespaces.
    NamespacesListed(Vec<NamespaceView>),
    /// API: a namespace is there or has changed.
    NamespaceApplied(NamespaceView),
    /// API: a namespace is gone.
    NamespaceDeleted(String),
    /// Cgroups: a pod's directory is there.
    PodCgroupFound {
        /// The pod.
        uid: PodUid,
        /// Its directory.
        cgroup: CgroupId,
        /// Its containers may have been at work: it was there when the agent began to watch, or came
        /// while news of cgroups was lost, and more than one of them has a process.
        at_start: bool,
        /// The gate that an agent before this one has left on it.
        inherited: Option<InheritedGate>,
    },
    /// Cgroups: a pod's directory is gone.
    PodCgroupGone(PodUid),
    /// Cgroups: a container's directory is there.
    ContainerFound {
        /// The pod.
        uid: PodUid,
        /// The directory.
        cgroup: CgroupId,
        /// The id in its name.
        id: ContainerId,
        /// What its OCI bundle says, if there is one.
        identity: Option<ContainerIdentity>,
        /// The pod's name, if the bundle tells it.
        pod: Option<PodName>,
    },
    /// Cgroups: a container's directory is gone.
    ContainerGone {
        /// The pod.
        uid: PodUid,
        /// The directory's container id.
        id: ContainerId,
    },
    /// Node: the pod runs in the node's own network namespace.
    HostNetworkSeen(PodUid),
    /// Probe: its last round came to something else than the one before. It is what is told of the
    /// probe; what is to be done follows from [`Self::ProxyReady`] and [`Self::ProxyNotReady`].
    ProbeFound {
        /// The pod.
        uid: PodUid,
        /// What it came to.
        finding: Finding,
    },
    /// Probe: the proxy is ready.
    ProxyReady(PodUid),
    /// Probe: the proxy is not ready (sent once, for the first such answer).
    ProxyNotReady(PodUid),
    /// The kernel reports a held socket.
    Kernel(KernelEvent),
    /// Cgroups: whether a container has a process (`cgroup.events`, `populated`). Told when its
    /// directory is found and at every change.
    ContainerPopulated {
        /// The pod.
        uid: PodUid,
        /// The directory's container id.
        id: ContainerId,
        /// It has one.
        populated: bool,
    },
    /// What the kernel has counted for a gate since its programs were attached.
    Counted {
        /// The pod.
        uid: PodUid,
        /// Connects and queries that were held, refused or observed.
        reached: u64,
        /// Connects that left for somewhere else.
        around: u64,
    },
    /// The operator has given an order, or taken it back.
    Ordered {
        /// The pod.
        uid: PodUid,
        /// The order; `None`: the gate follows the facts again.
        order: Option<Order>,
    },
    /// The operator wants this pod, and all of its workload, observed until then; if that has passed,
    /// no more.
    Watched {
        /// The pod.
        pod: PodName,
        /// When it ends by itself.
        until: Monotonic,
    },
    /// A gate could not be closed, or not be opened in an orderly way; its programs are detached.
    GateFailed {
        /// The pod.
        uid: PodUid,
        /// Why.
        error: String,
        /// The node lacks something that it may have again: memory, descriptors, room in a map.
        may_pass: bool,
    },
    /// A gate could not be given a new deadline or new settings, for want of something that may be there
    /// again. It stands as it was.
    GateNotRenewed {
        /// The pod.
        uid: PodUid,
        /// Why.
        error: String,
        /// When the kernel opens it, as it stands; `None`: it is not a closed one.
        deadline: Option<Monotonic>,
    },
    /// What had made a gate fail is no more: a trial went well.
    GateProven(PodUid),
    /// The kernel could not be told what becomes of a container: it is held as long as its pod's gate
    /// is closed.
    VerdictFailed {
        /// Its pod.
        uid: PodUid,
        /// The container.
        container: CgroupId,
    },
    /// Only time has passed.
    Tick,
}

/// A gate as an agent before this one has left it. Its programs are on the pod's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InheritedGate {
    /// Where it stands.
    pub state: InheritedState,
    /// The connects and queries that wait.
    pub waiting: Vec<(SocketCookie, Caller)>,
    /// As in [`Event::Counted`].
    pub reached: u64,
}

/// Where an inherited gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InheritedState {
    /// Closed, perhaps for longer than its time.
    Closed {
        /// Why.
        reason: CloseReason,
        /// From when on its deadline counts.
        since: Monotonic,
        /// How many had reached it when nobody waited; `None`: somebody waits since then.
        reached_before: Option<u64>,
        /// When the kernel opens it.
        deadline: Monotonic,
    },
    /// Its time is up, and connects are refused until the proxy is ready.
    Refusing {
        /// Why it was closed.
        reason: CloseReason,
    },
    /// Open, but for connects to a port on which nobody listens.
    Guarded,
    /// Opened and about to be detached.
    Open,
}

/// Whose socket a report of the kernel is about, and where it wanted to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The container's cgroup, if the socket was made in one.
    pub container: Option<CgroupId>,
    /// Thread group id of the caller of connect() or sendmsg().
    pub pid: Option<u32>,
    /// Uid of the caller.
    pub uid: u32,
    /// Command name of the caller.
    pub comm: String,
    /// Where the application wanted to connect or send to.
    pub destination: SocketAddr,
    /// When it called connect() or sendmsg().
    pub connect_at: Monotonic,
    /// The id of the DNS query; `None` for a TCP connect.
    pub query: Option<QueryId>,
}

/// What happened to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEventKind {
    /// Its first SYN, or the first datagram of one query, was dropped.
    Held(Caller),
    /// Mode refuse: its connect was or will be refused.
    Refused(Caller),
    /// Mode observe: it would have been held.
    Observed {
        /// Whose it is.
        caller: Caller,
        /// Nobody listens on the port, so that it fails.
        refused: bool,
    },
    /// It belongs to an init container in front of the proxy, and passed.
    InitPassed(Caller),
    /// The connection is established.
    Connected,
    /// The application closed the socket.
    Closed,
    /// The kernel gave the connection up.
    Failed,
}

/// One report of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// When it happened.
    pub at: Monotonic,
    /// The socket.
    pub cookie: SocketCookie,
    /// The pod's cgroup.
    pub pod: CgroupId,
    /// What happened.
    pub kind: KernelEventKind,
}
