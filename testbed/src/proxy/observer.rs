//! When the proxy became ready, seen from inside the pod.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{clock::monotonic_ns, netns::Netns};

/// Istio's readiness endpoint.
const ENDPOINT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);
const REQUEST: &[u8] = b"GET /healthz/ready HTTP/1.1\r\nHost: testbed\r\nConnection: close\r\n\r\n";
const READY: &[u8] = b"HTTP/1.1 200";
/// Fine enough to measure a release of a few milliseconds, coarse enough to cost nothing.
const POLL_EVERY: Duration = Duration::from_millis(2);
/// An answer over loopback takes well under a millisecond; a proxy that accepts and says nothing
/// must not stop the polling.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// Polls the proxy's readiness endpoint from a thread inside the pod's network namespace, but in
/// the testbed's own cgroup, so that no gate on the pod's can touch it.
#[derive(Debug)]
pub struct ReadyObserver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    outcome: Mutex<Option<std::result::Result<u64, String>>>,
    changed: Condvar,
}

impl ReadyObserver {
    pub(crate) fn start(netns: Netns) -> Self {
        let shared = Arc::new(Shared::default());
        let observer = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let outcome =
                netns.enter().map_err(|error| format!("{error:#}")).map(|()| observer.poll());
            let outcome = match outcome {
                Ok(None) => return,
                Ok(Some(ready)) => Ok(ready),
                Err(error) => Err(error),
            };
            *observer.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            observer.changed.notify_all();
        });
        Self { shared, thread: Some(thread) }
    }

    /// The moment of the first 200, in nanoseconds of `CLOCK_MONOTONIC`, if it has come.
    pub fn ready_ns(&self) -> Option<u64> {
        let outcome = self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.as_ref()?.as_ref().ok().copied()
    }

    /// Waits for the first 200 and gives its moment in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn wait(&self, timeout: Duration) -> Result<u64> {
        let deadline = Instant::now() + timeout;
        let mut outcome = self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*outcome {
                Some(Ok(ready)) => return Ok(*ready),
                Some(Err(error)) => bail!("observe readiness: {error}"),
                None => {}
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("the proxy was not ready within {timeout:?}");
            };
            (outcome, _) = self
                .shared
                .changed
                .wait_timeout(outcome, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for ReadyObserver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed already; a second one here would abort an unwinding test.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn poll(&self) -> Option<u64> {
        while !self.stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            if is_ready() {
                return Some(monotonic_ns());
            }
            thread::sleep(POLL_EVERY.saturating_sub(asked.elapsed()));
        }
        None
    }
}

fn is_ready() -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&ENDPOINT, ANSWER_WITHIN) else {
        return false;
    };
    let mut answer = [0; READY.len()];
    stream.set_read_timeout(Some(ANSWER_WITHIN)).is_ok()
        && stream.write_all(REQUEST).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == READY
}
