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

use crate::{
    clock::{monotonic_ns, sleep_until},
    netns::Netns,
};

/// Any status from 200 to 299: Dapr answers 204.
const READY: &[u8] = b"HTTP/1.1 2";
/// Fine enough to measure a release of a few milliseconds, coarse enough to cost nothing.
const POLL_EVERY: Duration = Duration::from_millis(2);
/// An answer over loopback takes well under a millisecond; a proxy that accepts and says nothing
/// must not stop the polling.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// What answers in the pod's namespace when its proxy is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A request that is answered with success.
    Http {
        /// The port on loopback.
        port: u16,
        /// The path.
        path: &'static str,
    },
    /// A port on loopback that accepts connections.
    Tcp {
        /// The port.
        port: u16,
    },
}

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
    pub(crate) fn start(netns: Netns, endpoint: Endpoint) -> Self {
        Self::start_at(netns, endpoint, 0, POLL_EVERY)
    }

    /// Begins to poll at a moment of `CLOCK_MONOTONIC`, with these pauses.
    pub(crate) fn start_at(netns: Netns, endpoint: Endpoint, ns: u64, every: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let observer = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let outcome = netns
                .enter()
                .map_err(|error| format!("{error:#}"))
                .map(|()| observer.poll(endpoint, ns, every));
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

    /// The moment of the first success, in nanoseconds of `CLOCK_MONOTONIC`, if it has come.
    pub fn ready_ns(&self) -> Option<u64> {
        let outcome = self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.as_ref()?.as_ref().ok().copied()
    }

    /// Waits for the first success and gives its moment in nanoseconds of `CLOCK_MONOTONIC`.
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
    fn poll(&self, endpoint: Endpoint, first_ns: u64, every: Duration) -> Option<u64> {
        sleep_until(first_ns);
        while !self.stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            if endpoint.is_ready() {
                return Some(monotonic_ns());
            }
            thread::sleep(every.saturating_sub(asked.elapsed()));
        }
        None
    }
}

impl Endpoint {
    /// Asks once.
    pub fn is_ready(self) -> bool {
        let (port, path) = match self {
            Self::Http { port, path } => (port, Some(path)),
            Self::Tcp { port } => (port, None),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, ANSWER_WITHIN) else {
            return false;
        };
        let Some(path) = path else {
            return true;
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: testbed\r\nConnection: close\r\n\r\n");
        let mut answer = [0; READY.len()];
        stream.set_read_timeout(Some(ANSWER_WITHIN)).is_ok()
            && stream.write_all(request.as_bytes()).is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && answer == READY
    }
}
