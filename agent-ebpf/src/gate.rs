//! The state of a pod's gate, written by the agent, read by the programs.

use crate::plain_bytes;

/// How many loopback ports of a proxy one gate can name.
pub const MAX_PORTS: usize = 8;

/// [`Gate::proxy_uid`] of a proxy without a user of its own.
pub const NO_UID: u32 = u32::MAX;

/// [`Gate::reached_before`] of a gate at which somebody waits.
pub const SOMEBODY_WAITS: u64 = u64::MAX;

/// How long one query to the mesh's DNS port is held at most, in nanoseconds: glibc's resolver gives
/// up after two tries of 5 s each, so after 9 s it is told what it would have been told without
/// holdfast, while somebody still listens.
pub const DNS_BUDGET_NS: u64 = 9_000_000_000;

/// Where a gate stands.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Nothing is held.
    Open = 0,
    /// Connects to the proxy's ports are treated by [`Gate::mode`] until [`Gate::deadline_ns`].
    Closed = 1,
    /// The proxy has been ready once: a SYN to one of its ports is held only if nobody listens
    /// there, each socket for [`Gate::guard_ns`] at most.
    Guarded = 2,
}

/// What a closed gate does.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMode {
    /// Drops SYNs, so that connect() waits.
    Hold = 0,
    /// Lets no connect wait: see [`Treatment::Refuse`].
    Refuse = 1,
    /// Only reports what would have been held.
    Observe = 2,
}

/// What is to be done with a connect to one of the proxy's ports at some instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It passes, unseen.
    Pass,
    /// It waits.
    Hold,
    /// It fails: at once where nobody listens (the kernel's own RST), and from then on for that
    /// destination in connect() itself, with [`Gate::errno`].
    Refuse,
    /// It passes and is reported.
    Observe,
    /// It waits if nobody listens on the proxy's port.
    Guard,
}

/// One pod's gate. Key: the id of the pod's cgroup (its inode number on cgroup2).
///
/// Only the agent writes it, so an update is a whole replacement and never races with the kernel.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// `CLOCK_MONOTONIC` nanoseconds at which the kernel treats a closed gate as open, whatever
    /// `state` says and whether or not an agent still runs.
    pub deadline_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds from which the deadline counts: for whoever has waited longer it
    /// ends earlier ([`Self::holds_until`]). A note for the next agent, too. These first two fields keep
    /// their places in all versions of the ABI, so that no upgrade moves a deadline.
    pub since_ns: u64,
    /// What [`GateCounts::reached`] was when nobody waited; [`SOMEBODY_WAITS`]: since `since_ns`
    /// somebody does, as far as is known. A note for the next agent, too.
    pub reached_before: u64,
    /// `CLOCK_MONOTONIC` nanoseconds until which connects are refused after the deadline; 0: they
    /// are not.
    pub refuse_until_ns: u64,
    /// How long a guarded gate holds one socket, in nanoseconds.
    pub guard_ns: u64,
    /// A [`GateState`].
    pub state: u32,
    /// A [`GateMode`].
    pub mode: u32,
    /// The most sockets of this pod that may have a [`crate::SocketRecord`], and the most queries
    /// that may have a [`crate::Datagram`]; further ones are held all the same but cannot be
    /// replayed. Keeps one pod from filling the table for all others.
    pub socket_quota: u32,
    /// The user the proxy runs as, whose connects are never held; [`NO_UID`]: none.
    pub proxy_uid: u32,
    /// What connect() returns when it refuses (a positive errno).
    pub errno: u32,
    /// The loopback port on which the mesh's proxy takes captured DNS queries; 0: none.
    pub dns_port: u16,
    /// Why it was closed: an agent's note for the agent after it.
    pub closed_for: u8,
    /// Whether all programs of the gate are on the pod's cgroup. Until then the sentry minds the pod
    /// ([`crate::Sentry`]), if one is posted.
    pub attached: u8,
    /// The loopback ports on which the proxy takes the application's connections; unused: 0.
    pub ports: [u16; MAX_PORTS],
}

impl Gate {
    /// One that lets everything pass, for no ports and without room for records.
    pub const OPEN: Self = Self {
        deadline_ns: 0,
        since_ns: 0,
        reached_before: SOMEBODY_WAITS,
        refuse_until_ns: 0,
        guard_ns: 0,
        state: GateState::Open as u32,
        mode: GateMode::Hold as u32,
        socket_quota: 0,
        proxy_uid: NO_UID,
        errno: 0,
        dns_port: 0,
        closed_for: 0,
        attached: 1,
        ports: [0; MAX_PORTS],
    };

    /// Until when a closed gate holds a socket of which the first SYN was dropped at `first_ns`, by
    /// whomever: the deadline counts from [`Self::since_ns`], so for one that has waited before that it
    /// ends so much earlier. Nobody waits longer because somebody else has come later, because its report
    /// was lost, or because the gate was closed anew.
    #[inline(always)]
    #[must_use]
    pub const fn holds_until(&self, first_ns: u64) -> u64 {
        self.deadline_ns.saturating_sub(self.since_ns.saturating_sub(first_ns))
    }

    /// What becomes of connects at `now_ns` (`CLOCK_MONOTONIC`).
    #[inline(always)]
    #[must_use]
    pub const fn treatment(&self, now_ns: u64) -> Treatment {
        if self.state == GateState::Guarded as u32 {
            return Treatment::Guard;
        }
        if self.state != GateState::Closed as u32 {
            return Treatment::Pass;
        }
        let in_time = now_ns < self.deadline_ns;
        // Who only wants to look is never in anybody's way.
        if self.mode == GateMode::Observe as u32 {
            if in_time { Treatment::Observe } else { Treatment::Pass }
        } else if !in_time {
            if now_ns < self.refuse_until_ns { Treatment::Refuse } else { Treatment::Pass }
        } else if self.mode == GateMode::Refuse as u32 {
            Treatment::Refuse
        } else {
            Treatment::Hold
        }
    }
}

/// What the programs counted for one gate. Same key as [`Gate`]; the agent writes it only once,
/// as zeros, before the gate is attached.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateCounts {
    /// Sockets of the pod that have a [`crate::SocketRecord`] now.
    pub records: u64,
    /// Queries of the pod that have a [`crate::Datagram`] now.
    pub datagrams: u64,
    /// Sockets held, ever.
    pub held: u64,
    /// Queries to the DNS port held, ever.
    pub held_queries: u64,
    /// Packets dropped, ever: one for each held socket or query and one for each retransmission.
    pub dropped: u64,
    /// Connects refused, ever.
    pub refused: u64,
    /// Sockets that mode `observe` would have held, ever.
    pub observed: u64,
    /// SYNs of containers that are to be held which left for somewhere else than loopback while
    /// the gate was closed: nothing redirected them.
    pub around: u64,
}

impl GateCounts {
    /// How many connects and queries have reached one of the proxy's ports while the gate was
    /// closed.
    #[must_use]
    pub const fn reached(&self) -> u64 {
        self.held
            .saturating_add(self.held_queries)
            .saturating_add(self.refused)
            .saturating_add(self.observed)
    }
}

/// What the gate does with a container's connects. Key: the id of the container's cgroup.
/// A container without an entry is held: being wrong costs it only a delay.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerVerdict {
    /// Held while the gate is closed.
    Hold = 0,
    /// Never held: the proxy itself.
    Pass = 1,
    /// Never held, but its first connect to the proxy's port is reported: an init container that
    /// runs before any proxy can.
    PassAndTell = 2,
    /// As before, and it has been reported. The one value that the gate itself writes.
    PassTold = 3,
}

plain_bytes!(Gate = 80, GateCounts = 64);
