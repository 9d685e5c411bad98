//! The sentry: what minds the pods that start while no agent lives. Its programs are on the root of
//! kubelet's tree for only that long.
//!
//! It knows nothing of these pods, so it does what a guarded gate does: it holds a SYN to a port on
//! which nobody listens, which would be refused otherwise, and nothing else.

use crate::plain_bytes;

/// How many ports of proxies it can name: the built-in profiles have about twenty.
pub const MAX_SENTRY_PORTS: usize = 32;

/// What the agent that works on the node keeps ready for the time without one. One entry, written
/// by that agent only.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentry {
    /// The pods up to this id of a cgroup have been taken up by an agent, or have gone: they are none
    /// of the sentry's business. Ids of cgroups only grow (`__kernfs_new_node` in fs/kernfs/dir.c,
    /// Linux 5.5, on machines of 64 bit).
    pub above: u64,
    /// How long a pod's sockets are held at most, in nanoseconds, from the pod's first dropped SYN on.
    pub guard_ns: u64,
    /// The loopback ports of all proxies that the agent knows of; unused: 0.
    pub ports: [u16; MAX_SENTRY_PORTS],
}

/// The posting of a sentry. One entry, written by whoever posts and relieves it.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Post {
    /// `CLOCK_MONOTONIC` nanoseconds from which on the sentry lets everything pass, whoever lives;
    /// 0: it is not posted.
    pub until_ns: u64,
    /// Sockets it has held since it was posted. Counted by the programs.
    pub held: u64,
}

impl Sentry {
    /// Whether this is a port of a proxy.
    #[inline(always)]
    #[must_use]
    pub fn names(&self, port: u16) -> bool {
        port != 0 && self.ports.contains(&port)
    }

    /// Whether a socket of this pod, of which the first SYN was dropped at `first_ns`, may wait at
    /// `now_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, pod: u64, first_ns: u64, now_ns: u64) -> bool {
        pod > self.above && now_ns < first_ns.saturating_add(self.guard_ns)
    }
}

impl Post {
    /// Whether the sentry is on duty.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_force(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }
}

plain_bytes!(Sentry = 80, Post = 16);
