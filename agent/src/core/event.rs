//! What comes in.

use std::net::SocketAddr;

use super::{
    CgroupId, ContainerId, ContainerIdentity, Monotonic, NamespaceView, PodName, PodUid, PodView,
    SocketCookie,
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
        /// It was there when the agent began to watch, so its containers may run already.
        at_start: bool,
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
    /// Probe: the proxy is ready.
    ProxyReady(PodUid),
    /// Probe: the proxy is not ready (sent once, for the first such answer).
    ProxyNotReady(PodUid),
    /// The kernel reports a held socket.
    Kernel(KernelEvent),
    /// A gate could not be closed, or not be opened in an orderly way; its programs are detached.
    GateFailed {
        /// The pod.
        uid: PodUid,
        /// Why.
        error: String,
    },
    /// Only time has passed.
    Tick,
}

/// What happened to a held socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEventKind {
    /// Its first SYN was dropped.
    Held {
        /// The container's cgroup, if the socket was made in one.
        container: Option<CgroupId>,
        /// Thread group id of the caller of connect().
        pid: Option<u32>,
        /// Uid of the caller.
        uid: u32,
        /// Command name of the caller.
        comm: String,
        /// Where the application wanted to connect to.
        destination: SocketAddr,
        /// When it called connect().
        connect_at: Monotonic,
    },
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
