//! What the operator wants of a pod's gate, whatever the facts say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Exemption, Monotonic, PREFIX};

/// What the operator wants of a pod's gate. The agent alone knows of it: it ends with it, and with
/// the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Open.
    Open {
        /// When it ends by itself.
        until: Option<Monotonic>,
    },
    /// Closed, at most until then.
    Closed {
        /// When it ends by itself.
        until: Monotonic,
    },
}

/// Who has given an order, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orderer {
    /// His user.
    pub uid: u32,
    /// His process, if the agent can see it.
    pub pid: Option<u32>,
}

/// Why a gate cannot be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefusal {
    /// Nothing of the pod can be held.
    #[error("its gate cannot be closed: {}{}", .0.as_str(), Remedy(*.0))]
    Exempt(Exemption),
    /// It has been tried.
    #[error(
        "its gate cannot be closed: its programs could not be worked; the order auto tries again"
    )]
    Failed,
}

/// Why a pod's starts are not observed, whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "refused", content = "exemption")]
pub enum WatchRefusal {
    /// The API has not told of it.
    #[error("the API server has not told enough of it yet")]
    Unknown,
    /// It is held; what becomes of that is told anyway.
    #[error("it is enabled: holdfast explain and holdfast events tell what becomes of it")]
    Enabled,
    /// Somebody has said no.
    #[error("it, or its namespace, says that it is not to be held: nobody looks at it")]
    Disabled,
    /// There is nothing that anybody could come too early for.
    #[error("it has no proxy that holdfast knows")]
    NoProxy,
    /// It is never held, whatever anybody says.
    #[error("it is never held: {}", .0.as_str())]
    Exempt(Exemption),
}

/// What can be done about an exemption, if anything.
struct Remedy(Exemption);

// === impl Order ===

impl Order {
    /// As it is written; `None`: the facts decide.
    #[must_use]
    pub const fn as_str(order: Option<Self>) -> &'static str {
        match order {
            Some(Self::Open { .. }) => "open",
            Some(Self::Closed { .. }) => "close",
            None => "auto",
        }
    }

    /// When it ends by itself.
    #[must_use]
    pub const fn until(self) -> Option<Monotonic> {
        match self {
            Self::Open { until } => until,
            Self::Closed { until } => Some(until),
        }
    }
}

// === impl Remedy ===

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Exemption::NotEnabled => {
                write!(f, "; label it or its namespace {PREFIX}hold=enabled")
            }
            Exemption::NoProxy => write!(f, "; the annotation {PREFIX}proxy can name one"),
            _ => Ok(()),
        }
    }
}
