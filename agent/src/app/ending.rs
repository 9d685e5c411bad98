//! What becomes of the gates when the agent ends: an upgrade must not open them, the end of holdfast
//! on this node must.

use crate::{
    cli::OnExit,
    cluster::{self, DaemonSetName, Fate, Server},
};

/// What becomes of the gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// They stay as they are, each until its deadline at most.
    Keep,
    /// They open, and nothing of the agent is left.
    Detach,
}

/// What decides about it.
pub(super) struct Endings {
    pub(super) on_exit: OnExit,
    pub(super) daemonset: Option<DaemonSetName>,
    pub(super) server: Server,
}

impl Endings {
    /// The agent was told to stop.
    pub(super) async fn when_told(&self) -> Ending {
        let (OnExit::Auto, Some(daemonset)) = (self.on_exit, &self.daemonset) else {
            return self.when_failed();
        };
        match cluster::fate(&self.server, daemonset).await {
            Fate::Stays => Ending::Keep,
            Fate::Goes { reason } => {
                tracing::info!(%daemonset, reason, "holdfast is being removed from this node");
                Ending::Detach
            }
            // What is left open nobody closes again, what is left closed the kernel opens.
            Fate::Unknown { reason } => {
                tracing::warn!(
                    %daemonset, reason,
                    "it cannot be known whether another agent follows; gates stay as they are"
                );
                Ending::Keep
            }
        }
    }

    /// The agent ends by itself. Whoever restarts it goes on with the gates.
    pub(super) fn when_failed(&self) -> Ending {
        match (self.on_exit, &self.daemonset) {
            (OnExit::Keep, _) | (OnExit::Auto, Some(_)) => Ending::Keep,
            (OnExit::Detach, _) | (OnExit::Auto, None) => Ending::Detach,
        }
    }
}
