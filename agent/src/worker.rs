//! A thread of one's own, for what would keep the others waiting.
//!
//! It is there from the start on. Those that tokio starts when they are wanted may be refused then, by
//! a limit on the agent's threads; what they were to do is not done before another one comes.

use std::{io, sync::mpsc, thread};

use tokio::sync::oneshot;

/// Does one job after another. The thread ends with the last clone of this handle.
#[derive(Clone, Debug)]
pub struct Worker {
    name: &'static str,
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

// === impl Worker ===

impl Worker {
    /// Starts the thread under this name.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(name: &'static str) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = inbox.recv() {
                job();
            }
        })?;
        Ok(Self { name, jobs })
    }

    /// Has `work` done, when it is its turn.
    ///
    /// # Errors
    ///
    /// If the thread has ended, which only a job that panics makes it do.
    pub async fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::other(format!("the thread {} has ended", self.name));
        let job: Job = Box::new(move || {
            // Whoever asked may have gone; then there is nobody to tell.
            let _: Result<(), _> = answer.send(work());
        });
        self.jobs.send(job).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_are_done_in_their_order_on_one_thread() {
        let worker = Worker::start("tested").unwrap();
        let thread = || thread::current().id();
        let clone = worker.clone();
        let (first, second) = tokio::join!(worker.run(thread), clone.run(thread));
        assert_eq!(first.unwrap(), second.unwrap());
    }

    #[tokio::test]
    async fn a_thread_that_has_ended_is_named() {
        let worker = Worker::start("tested").unwrap();
        assert!(worker.run(|| panic!("as it should")).await.is_err());
        let error = worker.run(|| ()).await.unwrap_err();
        assert_eq!(error.to_string(), "the thread tested has ended");
    }
}
