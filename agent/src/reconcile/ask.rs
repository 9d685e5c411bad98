//! Questions to the task that owns all state, and orders.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};

use super::{FollowError, Followed};
use crate::{
    bpf::{GateTotals, Inventory, LoudPrograms, Stock},
    core::{
        Diagnosis, Entry, Episode, OrderRefusal, Orderer, PodName, PodReport, Stamp, Totals,
        WatchRefusal, WorkloadFacts,
    },
};

/// Questions that may wait: one of each reader that there can be at a time.
const QUESTIONS: usize = 16;

/// How long an answer may take, as for [`crate::health::Liveness`].
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long the kernel may take for the programs that write debug lines: its verifier needs a fifth
/// of a second of processor time. With the other answers it stays below the 10 s after which an
/// admin connection ends.
pub(super) const LOADED_WITHIN: Duration = Duration::from_secs(4);

/// How long a pod's starts may be observed on request: somebody who wants more than a day of it
/// switches it on for all.
pub const WATCH_AT_MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// A question.
#[derive(Debug)]
pub enum Ask {
    /// How things stand.
    Snapshot(oneshot::Sender<Snapshot>),
    /// How one pod stands.
    Pod {
        /// Which.
        pod: PodName,
        /// The answer; `None`: there is no such pod.
        answer: oneshot::Sender<Option<PodReport>>,
    },
    /// What the operator wants of a pod's gate.
    Order {
        /// Which pod.
        pod: PodName,
        /// What.
        order: OrderRequest,
        /// Who has asked for it.
        by: Orderer,
        /// What has come of it.
        answer: oneshot::Sender<Result<PodReport, OrderError>>,
    },
    /// The pods of which the log says more.
    Followed(oneshot::Sender<Vec<Followed>>),
    /// The programs that [`Ask::Follow`] needs loaded if it is to follow the eBPF programs.
    LoudPrograms(oneshot::Sender<LoudPrograms>),
    /// Have the log say more about a pod.
    Follow {
        /// Which.
        pod: PodName,
        /// Or no more.
        on: bool,
        /// The eBPF programs, too.
        kernel: bool,
        /// Whether it does.
        answer: oneshot::Sender<Result<(), FollowError>>,
    },
    /// What stands in the kernel.
    Inventory(oneshot::Sender<Stock>),
    /// Have the log say what it said when the agent was started.
    UnfollowAll(oneshot::Sender<Result<(), FollowError>>),
    /// What was found out about the workloads.
    Workloads(oneshot::Sender<Workloads>),
    /// What would become of a pod if it were enabled.
    Diagnose {
        /// Which.
        pod: PodName,
        /// The answer; `None`: there is no such pod.
        answer: oneshot::Sender<Option<Diagnosis>>,
    },
    /// That a pod's starts be observed, and those of its workload.
    Watch {
        /// Which pod.
        pod: PodName,
        /// For how long; nothing: no more.
        time: Duration,
        /// Who has asked for it.
        by: Orderer,
        /// What has come of it.
        answer: oneshot::Sender<Result<PodReport, WatchError>>,
    },
}

// === impl Ask ===

impl Ask {
    /// Whether nobody waits for the answer any more.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Snapshot(answer) => answer.is_closed(),
            Self::Pod { answer, .. } => answer.is_closed(),
            Self::Order { answer, .. } => answer.is_closed(),
            Self::Followed(answer) => answer.is_closed(),
            Self::LoudPrograms(answer) => answer.is_closed(),
            Self::Follow { answer, .. } | Self::UnfollowAll(answer) => answer.is_closed(),
            Self::Inventory(answer) => answer.is_closed(),
            Self::Workloads(answer) => answer.is_closed(),
            Self::Diagnose { answer, .. } => answer.is_closed(),
            Self::Watch { answer, .. } => answer.is_closed(),
        }
    }
}

/// What was found out about the workloads.
#[derive(Clone, Debug)]
pub struct Workloads {
    /// When this was so.
    pub at: Stamp,
    /// Whether pods that nobody enabled are observed.
    pub observe: bool,
    /// The workloads, by name.
    pub workloads: Vec<WorkloadFacts>,
}

/// Why a pod's starts are not observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// There is no such pod.
    #[error("there is no such pod on this node")]
    NoSuchPod,
    /// It is not one to observe.
    #[error(transparent)]
    Refused(#[from] WatchRefusal),
}

/// What the operator wants of a pod's gate, whatever the facts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderRequest {
    /// Open; for so long, or for good.
    Open(Option<Duration>),
    /// Closed, for so long at most.
    Close(Duration),
    /// As the facts say.
    Auto,
}

/// Why an order is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// There is no such pod.
    #[error("there is no such pod on this node")]
    NoSuchPod,
    /// It cannot be.
    #[error(transparent)]
    Refused(#[from] OrderRefusal),
}

// === impl OrderRequest ===

impl OrderRequest {
    /// How long an order may stand. Nobody waits for longer than a hold may take; and a gate that
    /// somebody has forgotten must not stay closed.
    pub const LIMITS: RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(60 * 60);
}

/// How things stand.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When.
    pub at: Stamp,
    /// All pods, by name.
    pub pods: Vec<PodReport>,
    /// What has happened to them lately, see [`crate::core::History::episodes`].
    pub episodes: Vec<Episode>,
    /// What has happened since the agent was started; the kernel's lost reports are not known here.
    pub totals: Totals,
    /// The last entries, the oldest first.
    pub entries: Vec<Arc<Entry>>,
    /// What the kernel has counted for all gates.
    pub gates: GateTotals,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It starts, stands by, or is stuck.
    #[error("the agent does not work gates yet, or is stuck: no answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
    /// It is ending.
    #[error("the agent is ending")]
    Gone,
}

/// Asks. Clones ask the same task.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Ask>);

// === impl Asker ===

impl Asker {
    /// An asker, and where its questions arrive.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(QUESTIONS);
        (Self(sender), receiver)
    }

    /// How things stand.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn snapshot(&self) -> Result<Snapshot, AskError> {
        self.ask(Ask::Snapshot).await
    }

    /// How one pod stands, if there is one of this name.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn pod(&self, pod: PodName) -> Result<Option<PodReport>, AskError> {
        self.ask(|answer| Ask::Pod { pod, answer }).await
    }

    /// Gives an order; answers with how the pod stands then.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn order(
        &self,
        pod: PodName,
        order: OrderRequest,
        by: Orderer,
    ) -> Result<Result<PodReport, OrderError>, AskError> {
        self.ask(|answer| Ask::Order { pod, order, by, answer }).await
    }

    /// What was found out about the workloads.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn workloads(&self) -> Result<Workloads, AskError> {
        self.ask(Ask::Workloads).await
    }

    /// What would become of a pod if it were enabled, if there is one of this name.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn diagnose(&self, pod: PodName) -> Result<Option<Diagnosis>, AskError> {
        self.ask(|answer| Ask::Diagnose { pod, answer }).await
    }

    /// Has a pod's starts observed; answers with how it stands then.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn watch(
        &self,
        pod: PodName,
        time: Duration,
        by: Orderer,
    ) -> Result<Result<PodReport, WatchError>, AskError> {
        self.ask(|answer| Ask::Watch { pod, time, by, answer }).await
    }

    /// The pods of which the log says more than of others.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn followed(&self) -> Result<Vec<Followed>, AskError> {
        self.ask(Ask::Followed).await
    }

    /// Has the log say more about a pod, or no more; `kernel`: its eBPF programs, too.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn follow(
        &self,
        pod: PodName,
        on: bool,
        kernel: bool,
    ) -> Result<Result<(), FollowError>, AskError> {
        // Here and not in the task: gates would wait for it.
        if on
            && kernel
            && let Err(error) = load(self.ask(Ask::LoudPrograms).await?).await?
        {
            return Ok(Err(error));
        }
        self.ask(|answer| Ask::Follow { pod, on, kernel, answer }).await
    }

    /// Has the log say what it said when the agent was started.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn unfollow_all(&self) -> Result<Result<(), FollowError>, AskError> {
        self.ask(Ask::UnfollowAll).await
    }

    /// What stands in the kernel for the gates.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn inventory(&self) -> Result<Inventory, AskError> {
        let stock = self.ask(Ask::Inventory).await?;
        // It fails if the runtime ends, and with it the agent.
        spawn_blocking(move || stock.read()).await.map_err(|_| AskError::Gone)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, AskError> {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.0.send(ask(sender)).await.map_err(|_| AskError::Gone)?;
            answer.await.map_err(|_| AskError::Gone)
        };
        timeout(ANSWER_WITHIN, asked).await.unwrap_or(Err(AskError::Silent))
    }
}

/// Loads the programs on a thread of its own, which goes on if nobody waits any more.
async fn load(programs: LoudPrograms) -> Result<Result<(), FollowError>, AskError> {
    if programs.are_loaded() {
        return Ok(Ok(()));
    }
    match timeout(LOADED_WITHIN, spawn_blocking(move || programs.load())).await {
        Ok(Ok(loaded)) => Ok(loaded.map_err(FollowError::from)),
        // The runtime ends, and so does the agent.
        Ok(Err(_)) => Err(AskError::Gone),
        Err(_) => Ok(Err(FollowError::Slow)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_that_nobody_waits_for_any_more_is_known() {
        let (asker, mut asked) = Asker::new();
        let by = Orderer { uid: 0, pid: Some(1) };
        let order = tokio::spawn(async move {
            asker.order(PodName::new("shop", "cart"), OrderRequest::Auto, by).await
        });
        let ask = asked.recv().await.unwrap();
        assert!(!ask.is_given_up());
        // As a time limit does it.
        order.abort();
        assert!(order.await.unwrap_err().is_cancelled());
        assert!(ask.is_given_up());
    }
}
