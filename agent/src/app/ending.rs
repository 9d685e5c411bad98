//! What becomes of the gates when the agent ends: an upgrade must not open them, the end of holdfast
//! on this node must.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    cli::OnExit,
    cluster::{self, DaemonSetName, Fate, Server},
    status::Status,
};

/// How long those who wait are still worked for by an agent that only seems to be the last one. With the
/// eight seconds that asking takes at worst, and the end itself, it stays within the 30 that kubelet gives
/// the pod (`terminationGracePeriodSeconds` in the chart).
const IN_DOUBT: Duration = Duration::from_secs(15);

/// Between two looks whether anybody waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    pub(super) status: Status,
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
            // Kept gates would have nobody left if it is so, and open ones would refuse those who wait
            // if it is not.
            Fate::SeemsToGo { reason } => {
                tracing::info!(
                    %daemonset, reason,
                    "holdfast seems to be removed from this node; those who wait are still worked for"
                );
                let _: Result<(), _> = timeout(IN_DOUBT, self.until_nobody_waits()).await;
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

    async fn until_nobody_waits(&self) {
        while self.status.report().await.0.held > 0 {
            sleep(LOOK_EVERY).await;
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
