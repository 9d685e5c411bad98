//! Where a pod's gate stands.

use std::time::Duration;

use crate::core::{CloseReason, Monotonic};

/// How long an opened gate keeps its programs although nothing is known to wait: SYNs that were
/// dropped in the very moment of opening are reported and replayed within it.
const SETTLE: Duration = Duration::from_millis(30);

/// How long an opened gate keeps its programs for sockets that have not connected yet, replayed or
/// unknown: they retransmit by themselves within 500 ms, so five tries fit. Closed again before they
/// have, it would hold them for a second time, and nobody would be told.
const GRACE: Duration = Duration::from_secs(3);

/// The state of one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatePhase {
    /// No programs. The pod is not to be held, or nothing is known of it.
    Absent,
    /// No programs yet: the pod is to be held, but it may have run before this was known, so its
    /// proxy is asked first. Never start by holding what works.
    Checking,
    /// Programs attached, connects held (or refused, or observed).
    Closed {
        /// Why.
        reason: CloseReason,
        /// When the kernel opens it by itself.
        deadline: Monotonic,
        /// When the kernel is asked whether anybody has waited; if not, the deadline is moved on.
        /// `None` once a connect has waited, for which it then stands. Kubelet makes a pod's cgroup
        /// before it pulls images and runs init containers: counted from there, a slow start would
        /// use the time up before anybody waits.
        renew_at: Option<Monotonic>,
    },
    /// The time is up and the user wants connects to fail until the proxy is ready.
    Refusing {
        /// Why the gate was closed.
        reason: CloseReason,
        /// When the time until which the kernel refuses is moved on.
        renew_at: Monotonic,
    },
    /// Programs attached, nothing is dropped any more.
    Opening {
        /// When it was opened.
        since: Monotonic,
        /// What it turns into.
        then: AfterOpening,
    },
    /// Programs attached; what nobody listens for is held. The proxy has been ready.
    Guarded {
        /// Reports of the kernel from before are about an earlier phase.
        since: Monotonic,
    },
    /// No programs. The proxy has been ready.
    Open,
    /// No programs: the time was up. The proxy is still asked now and then, for when it dies later.
    GivenUp {
        /// Why the gate was closed then.
        reason: CloseReason,
    },
    /// No programs: they could not be worked.
    Failed {
        /// When it is tried whether they can be; `None`: not any more.
        retry_at: Option<Monotonic>,
    },
}

/// What an opened gate turns into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterOpening {
    /// The proxy is ready: guarded, or open.
    Ready,
    /// The time was up.
    GivenUp {
        /// Why the gate was closed.
        reason: CloseReason,
    },
    /// The pod was not to be held then. Should it be again by the end, its gate is no longer one
    /// that has done its work.
    Exempt,
}

impl GatePhase {
    /// Whether programs are on the pod's cgroup.
    pub(super) const fn is_attached(self) -> bool {
        match self {
            Self::Closed { .. }
            | Self::Refusing { .. }
            | Self::Opening { .. }
            | Self::Guarded { .. } => true,
            Self::Absent
            | Self::Checking
            | Self::Open
            | Self::GivenUp { .. }
            | Self::Failed { .. } => false,
        }
    }

    /// Whether a probe runs.
    pub(super) const fn is_probing(self) -> bool {
        match self {
            Self::Checking | Self::Closed { .. } | Self::Refusing { .. } | Self::GivenUp { .. } => {
                true
            }
            Self::Absent
            | Self::Opening { .. }
            | Self::Guarded { .. }
            | Self::Open
            | Self::Failed { .. } => false,
        }
    }

    /// Whether connects wait.
    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// When this state ends by time alone; `waiting`: connects may wait still.
    pub(super) fn ends(self, waiting: bool) -> Option<Monotonic> {
        match self {
            Self::Closed { deadline, renew_at, reason: _ } => Some(renew_at.unwrap_or(deadline)),
            Self::Refusing { renew_at, reason: _ } => Some(renew_at),
            Self::Opening { since, then: _ } => Some(since + if waiting { GRACE } else { SETTLE }),
            Self::Failed { retry_at } => retry_at,
            Self::Absent
            | Self::Checking
            | Self::Guarded { .. }
            | Self::Open
            | Self::GivenUp { .. } => None,
        }
    }
}
