//! What the programs tell the agent, one record of the ring buffer each.

use crate::{plain_bytes, socket::Address};

/// What happened to a socket.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Its first SYN, or the first datagram of one query, was dropped.
    Held = 1,
    /// Its connection is established.
    Connected = 2,
    /// The application closed it before it was connected, or before its query was answered.
    Closed = 3,
    /// The kernel gave it up: refused, reset or timed out.
    Failed = 4,
    /// Mode `refuse`: its connect was or will be refused.
    Refused = 5,
    /// Mode `observe`: it would have been held. Somebody listens on the port, but is not ready.
    Observed = 6,
    /// It belongs to an init container in front of the proxy and passed; told once a container.
    InitPassed = 7,
    /// Mode `observe`: it would have been held. Nobody listens on the port, so it fails.
    ObservedRefused = 8,
}

impl EventKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Held),
            2 => Some(Self::Connected),
            3 => Some(Self::Closed),
            4 => Some(Self::Failed),
            5 => Some(Self::Refused),
            6 => Some(Self::Observed),
            7 => Some(Self::InitPassed),
            8 => Some(Self::ObservedRefused),
            _ => None,
        }
    }

    /// What mode `observe` reports of a socket to a port on which somebody `listens`.
    #[inline(always)]
    #[must_use]
    pub const fn observed(listens: bool) -> Self {
        if listens { Self::Observed } else { Self::ObservedRefused }
    }
}

/// One event of one socket. Who and where to are filled in for `Held`, `Refused`, `Observed`,
/// `ObservedRefused` and `InitPassed`; for the others the agent keeps them by cookie.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// The id of the pod's cgroup.
    pub pod: u64,
    /// The id of the container's cgroup; 0 when unknown.
    pub container: u64,
    /// When connect() (or sendmsg()) was called; when the first packet was dropped if no hook saw
    /// the socket.
    pub connect_ns: u64,
    /// An [`EventKind`].
    pub kind: u32,
    /// Thread group id of the caller; 0 when no hook saw the socket.
    pub pid: u32,
    /// Uid of the caller.
    pub uid: u32,
    /// Command name of the caller, NUL padded.
    pub comm: [u8; 16],
    /// Where the application wanted to connect to.
    pub asked: Address,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u32,
    /// For UDP: the id of the DNS query.
    pub query: u32,
}

plain_bytes!(Event = 96);
