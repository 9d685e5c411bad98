//! Where a pod's gate stands.

use std::time::Duration;

use crate::core::Monotonic;

/// How long an opened gate keeps its programs although nothing is known to wait: SYNs that were
/// dropped in the very moment of opening are reported and replayed within it.
const SETTLE: Duration = Duration::from_millis(30);

/// How long an opened gate keeps its programs for sockets that have been replayed and not yet
/// connected: they retransmit by themselves within 500 ms, so five tries fit.
const GRACE: Duration = Duration::from_secs(3);

/// The state of one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatePhase {
    /// No programs. The pod is not to be held, or nothing is known of it.
    Absent,
    /// No programs yet: the pod is to be held, but it may have run before this was known, so its
    /// proxy is asked first. Never start by holding what works.
    Checking,
    /// Programs attached, connects held.
    Closed {
        /// When the kernel opens it by itself.
        deadline: Monotonic,
        /// When the deadline is moved on; `None` once a connect has waited, for which it then
        /// stands. Kubelet makes a pod's cgroup before it pulls images and runs init containers:
        /// counted from there, a slow start would use the time up before anybody waits.
        renew_at: Option<Monotonic>,
    },
    /// Programs attached, nothing is dropped any more.
    Opening {
        /// When it was opened.
        since: Monotonic,
        /// The pod was not to be held then. Should it be again by the end, its gate is no longer
        /// one that has done its work.
        exempt: bool,
    },
    /// No programs. The proxy is there, or the deadline passed, or the gate failed.
    Open,
}

impl GatePhase {
    pub(super) const fn is_attached(self) -> bool {
        match self {
            Self::Closed { .. } | Self::Opening { .. } => true,
            Self::Absent | Self::Checking | Self::Open => false,
        }
    }

    /// When this state ends by time alone; `waiting`: connects are known to wait.
    pub(super) fn ends(self, waiting: bool) -> Option<Monotonic> {
        match self {
            Self::Closed { deadline, renew_at } => Some(renew_at.unwrap_or(deadline)),
            Self::Opening { since, exempt: _ } => {
                Some(since + if waiting { GRACE } else { SETTLE })
            }
            Self::Absent | Self::Checking | Self::Open => None,
        }
    }
}
