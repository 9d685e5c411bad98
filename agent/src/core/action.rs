//! What goes out.

use std::time::Duration;

use super::{
    CgroupId, CloseReason, Line, Mode, Monotonic, PodRef, PodUid, Problem, ReadyCheck, RefuseErrno,
    SocketCookie, Verdict,
};

/// Something to be done by the edges, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close or guard the pod's gate: state first, then the programs.
    SetGate(SetGate),
    /// Open it and replay what it holds.
    OpenGate {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
        /// The sockets known to wait; `None`: they go on by themselves, nothing is sent for them.
        replay: Option<Vec<SocketCookie>>,
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
    /// Try whether the programs can be worked on the pod's cgroup, with a gate that lets everything
    /// pass, and take them off again ([`super::Event::GateProven`], [`super::Event::GateFailed`]).
    ProveGate {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
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
    /// Tell what the kernel has counted for the gate ([`super::Event::Counted`]).
    CountGate {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
    },
    /// Send again what waits although it need not any more: of a container that may pass after all,
    /// or of a pod whose connects are to be refused.
    Replay {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
        /// Only this container's.
        container: Option<CgroupId>,
        /// The sockets known to wait.
        held: Vec<SocketCookie>,
    },
    /// Ask the pod's proxy whether it is ready, until told otherwise.
    StartProbe {
        /// The pod.
        uid: PodUid,
        /// How to ask: the first that says ready counts.
        checks: Vec<ReadyCheck>,
        /// The ports that must have a listener before it counts.
        ports: Vec<u16>,
        /// One of them is enough: the others are guesses.
        any_port: bool,
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
    /// Tell the operator about a pod.
    Log(PodRef, Line),
    /// Tell the operator what is wrong with a namespace's settings.
    LogNamespace(String, Problem),
}

/// What a gate is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetGate {
    /// The pod.
    pub uid: PodUid,
    /// Its cgroup.
    pub cgroup: CgroupId,
    /// Closed or guarded.
    pub state: GateSetting,
    /// It is so already; only its deadline or its settings are new.
    pub renews: bool,
    /// What it does when it is closed.
    pub mode: Mode,
    /// What connect() fails with where it refuses.
    pub errno: RefuseErrno,
    /// The user that is never held.
    pub proxy_uid: Option<u32>,
    /// The proxy's loopback ports.
    pub ports: Vec<u16>,
    /// The proxy's loopback port for captured DNS queries.
    pub dns_port: Option<u16>,
}

/// Closed or guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateSetting {
    /// Closed.
    Closed {
        /// Why: for the agent after this one.
        reason: CloseReason,
        /// From when on the deadline counts: for the agent after this one.
        since: Monotonic,
        /// How many had reached the proxy's port when nobody waited yet; `None`: somebody waits
        /// since then, as far as is known. For the agent after this one, too.
        reached_before: Option<u64>,
        /// When the kernel opens it, agent or no agent.
        deadline: Monotonic,
        /// Until when the kernel refuses connects after that; `None`: not at all.
        refuse_until: Option<Monotonic>,
    },
    /// Open, but for connects to a port on which nobody listens.
    Guarded {
        /// How long one socket is held at most.
        budget: Duration,
    },
}

/// How often to ask a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nobody waits.
    Idle,
    /// A connect has waited since then.
    Held(Monotonic),
    /// Nobody will wait: the time was up.
    GivenUp,
}
