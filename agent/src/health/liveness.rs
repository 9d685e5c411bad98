//! Whether the task that owns all state still does its work.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long the task may take for an answer. It makes a few system calls for each fact; 2 s are
/// thousands of them, and less than what kubelet waits for a probe if it is told 3 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A question. Who answers it is alive.
#[derive(Debug)]
pub struct Ping(oneshot::Sender<()>);

/// Asks the task. Clones ask the same one.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    pings: Arc<OnceLock<mpsc::Sender<Ping>>>,
}

/// Why the agent does not count as alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stuck {
    #[error("the reconcile task has not answered within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
    #[error("the reconcile task has ended")]
    Gone,
}

// === impl Ping ===

impl Ping {
    /// Answers.
    pub fn answer(self) {
        // Whoever asked may have given up.
        let _: Result<(), ()> = self.0.send(());
    }
}

// === impl Liveness ===

impl Liveness {
    /// From now on whoever has the other end is asked. Until then the agent counts as alive: it
    /// starts, or stands by, and readiness tells what it waits for. To be called once.
    #[must_use]
    pub fn pings(&self) -> mpsc::Receiver<Ping> {
        // One: further questions wait here, and not among the facts.
        let (sender, receiver) = mpsc::channel(1);
        if self.pings.set(sender).is_err() {
            tracing::error!("liveness is answered by two tasks; only the first is asked");
        }
        receiver
    }

    pub(super) async fn check(&self) -> Result<(), Stuck> {
        let Some(pings) = self.pings.get() else { return Ok(()) };
        let (ping, answer) = oneshot::channel();
        let asked = async {
            pings.send(Ping(ping)).await.map_err(|_| Stuck::Gone)?;
            answer.await.map_err(|_| Stuck::Gone)
        };
        timeout(ANSWER_WITHIN, asked).await.unwrap_or(Err(Stuck::Silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_starts_is_alive() {
        assert_eq!(Liveness::default().check().await, Ok(()));
    }

    #[tokio::test]
    async fn a_task_is_alive_as_long_as_it_answers() {
        let liveness = Liveness::default();
        let mut pings = liveness.pings();
        let task = tokio::spawn(async move {
            for _ in 0..2 {
                pings.recv().await.unwrap().answer();
            }
        });
        assert_eq!(liveness.clone().check().await, Ok(()));
        assert_eq!(liveness.check().await, Ok(()));
        task.await.unwrap();
        assert_eq!(liveness.check().await, Err(Stuck::Gone));
    }

    #[tokio::test]
    async fn a_task_that_takes_questions_and_does_not_answer_is_stuck() {
        let liveness = Liveness::default();
        let mut pings = liveness.pings();
        // One waits for its answer, one for its turn: neither waits for ever.
        let (first, second) = tokio::join!(liveness.check(), liveness.check());
        assert_eq!((first, second), (Err(Stuck::Silent), Err(Stuck::Silent)));
        // The answer to a question that was given up harms nobody.
        pings.recv().await.unwrap().answer();
        let (answered, ()) = tokio::join!(liveness.check(), async {
            pings.recv().await.unwrap().answer();
        });
        assert_eq!(answered, Ok(()));
    }
}
