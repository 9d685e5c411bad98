//! The sentry: what minds the pods that start while no agent lives. Its programs are on the root of
//! kubelet's tree for only that long.
//!
//! It knows nothing of these pods, so it does what a guarded gate does: it holds a SYN to a port on
//! which nobody listens, which would be refused otherwise, and nothing else. The gates that an agent
//! has left closed do the same once none has worked for [`AWAY_NS`].

use crate::plain_bytes;

/// How many ports of proxies it can name: the built-in profiles have about twenty.
pub const MAX_SENTRY_PORTS: usize = 32;

/// How long no agent has worked when a closed gate lets pass who connects to a port on which somebody
/// listens, in nanoseconds. Nobody is going to hear soon that the proxy is ready then, and without
/// holdfast the connect would have succeeded. More than an exchange of agents takes, and kubelet's
/// first restart of a container; less than its back-off for the second, 10 s (`backOffPeriod` in
/// pkg/kubelet/kubelet.go of Kubernetes).
pub const AWAY_NS: u64 = 5_000_000_000;

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

/// Whether no agent has worked for [`AWAY_NS`]: since `since_ns`, by `CLOCK_MONOTONIC`; 0: one works.
#[inline(always)]
#[must_use]
pub const fn agents_are_away(since_ns: u64, now_ns: u64) -> bool {
    since_ns != 0 && now_ns >= since_ns.saturating_add(AWAY_NS)
}

plain_bytes!(Sentry = 80, Post = 16);
