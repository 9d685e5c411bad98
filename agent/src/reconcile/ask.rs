//! Questions to the task that owns all state, and orders.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    bpf::GateTotals,
    core::{Entry, Episode, PodName, PodReport, PodUid, Stamp, Totals},
};

/// Questions that may wait: one of each reader that there can be at a time.
const QUESTIONS: usize = 16;

/// How long an answer may take, as for [`crate::health::Liveness`].
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A question.
#[derive(Debug)]
pub enum Ask {
    /// How things stand.
    Snapshot(oneshot::Sender<Snapshot>),
    /// What the operator wants of a pod's gate.
    Order {
        /// Which pod.
        pod: PodName,
        /// What.
        order: OrderRequest,
        /// The pod that it is for; `None`: there is no such pod.
        answer: oneshot::Sender<Option<PodUid>>,
    },
}

/// What the operator wants of a pod's gate, whatever the facts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderRequest {
    /// Open.
    Open,
    /// Closed, for so long at most.
    Close(Duration),
    /// As the facts say.
    Auto,
}

// === impl OrderRequest ===

impl OrderRequest {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close(_) => "close",
            Self::Auto => "auto",
        }
    }
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

    /// Gives an order; answers with the pod that it is for, if there is one.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub async fn order(
        &self,
        pod: PodName,
        order: OrderRequest,
    ) -> Result<Option<PodUid>, AskError> {
        self.ask(|answer| Ask::Order { pod, order, answer }).await
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
