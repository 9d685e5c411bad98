//! The state of a pod's gate, written by the agent, read by the programs.

use crate::plain_bytes;

/// How many loopback ports of a proxy one gate can name.
pub const MAX_PORTS: usize = 8;

/// Whether a gate holds.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Nothing is held.
    Open = 0,
    /// Connects to the proxy's ports are held until [`Gate::deadline_ns`].
    Closed = 1,
}

/// One pod's gate. Key: the id of the pod's cgroup (its inode number on cgroup2).
///
/// Only the agent writes it, so an update is a whole replacement and never races with the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// `CLOCK_MONOTONIC` nanoseconds at which the kernel treats the gate as open, whatever `state`
    /// says and whether or not an agent still runs.
    pub deadline_ns: u64,
    /// A [`GateState`].
    pub state: u32,
    /// The most sockets of this pod that may have a [`crate::SocketRecord`]; further ones are held
    /// all the same but cannot be replayed. Keeps one pod from filling the table for all others.
    pub socket_quota: u32,
    /// The loopback ports on which the proxy takes the application's connections; unused: 0.
    pub ports: [u16; MAX_PORTS],
}

impl Gate {
    /// Whether the gate holds at `now_ns` (`CLOCK_MONOTONIC`).
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, now_ns: u64) -> bool {
        self.state == GateState::Closed as u32 && now_ns < self.deadline_ns
    }
}

/// What the programs counted for one gate. Same key as [`Gate`]; the agent writes it only once,
/// as zeros, before the gate is attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateCounts {
    /// Sockets of the pod that have a [`crate::SocketRecord`] now.
    pub records: u64,
    /// Sockets held, ever.
    pub held: u64,
    /// SYNs dropped, ever: one for each held socket and one for each of its retransmissions.
    pub dropped_syns: u64,
}

/// What the gate does with a container's connects. Key: the id of the container's cgroup.
/// A container without an entry is held: being wrong costs it only a delay.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerVerdict {
    /// Held while the gate is closed.
    Hold = 0,
    /// Never held: the proxy itself, and init containers that run before any proxy can.
    Pass = 1,
}

plain_bytes!(Gate = 32, GateCounts = 24);
