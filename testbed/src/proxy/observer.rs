//! When the proxy became ready, seen from inside the pod.

use std::{
    fs::File,
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
/// While a proxy is watched closely, between an answer and the next question: less than what an agent takes
/// to know. A question that is refused takes some 20 us.
const WATCH_EVERY: Duration = Duration::from_micros(100);
/// ... and so many times what the question has taken, if that is longer: a fifth of a core at most goes into
/// watching, for the tenth of a second that Envoy takes to start.
const WATCH_PAUSES: u32 = 4;
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

/// Between which two moments a proxy became ready, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// When it was asked for the last time without saying that it is; `None` if it was at the first
    /// question.
    pub after_ns: Option<u64>,
    /// When its first answer that says so was there.
    pub by_ns: u64,
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
    outcome: Mutex<Option<std::result::Result<Readiness, String>>>,
    changed: Condvar,
}

impl ReadyObserver {
    pub(crate) fn start(netns: Netns, endpoint: Endpoint) -> Self {
        Self::spawn(netns, move |shared| {
            shared.poll(|taken| POLL_EVERY.saturating_sub(taken), || endpoint.is_ready())
        })
    }

    /// Begins at a moment of `CLOCK_MONOTONIC` to watch as closely as is possible at the price of a part
    /// of a core, and writes a byte to `bell` at the first success.
    pub(crate) fn watch_from(
        netns: Netns,
        endpoint: Endpoint,
        ns: u64,
        bell: Option<File>,
    ) -> Self {
        Self::spawn(netns, move |shared| {
            sleep_until(ns);
            run_at_once();
            let ready = shared
                .poll(|taken| WATCH_EVERY.max(taken * WATCH_PAUSES), || endpoint.is_ready())?;
            if let Some(mut bell) = bell {
                // Nobody may be listening any more; who waits for it in vain says so.
                let _ = bell.write_all(b"!");
            }
            Some(ready)
        })
    }

    fn spawn(
        netns: Netns,
        watch: impl FnOnce(&Shared) -> Option<Readiness> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let observer = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let outcome =
                netns.enter().map_err(|error| format!("{error:#}")).map(|()| watch(&observer));
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
        outcome.as_ref()?.as_ref().ok().map(|ready| ready.by_ns)
    }

    /// Waits for the first success and gives its moment in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn wait(&self, timeout: Duration) -> Result<u64> {
        Ok(self.wait_readiness(timeout)?.by_ns)
    }

    /// Waits for the first success and gives all that is known of the moment.
    pub fn wait_readiness(&self, timeout: Duration) -> Result<Readiness> {
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
    /// Pauses after a question that has taken so long.
    fn poll(
        &self,
        pause: impl Fn(Duration) -> Duration,
        mut is_ready: impl FnMut() -> bool,
    ) -> Option<Readiness> {
        let mut after_ns = None;
        while !self.stop.load(Ordering::Relaxed) {
            let asked_ns = monotonic_ns();
            if is_ready() {
                return Some(Readiness { after_ns, by_ns: monotonic_ns() });
            }
            after_ns = Some(asked_ns);
            let taken = Duration::from_nanos(monotonic_ns() - asked_ns);
            thread::sleep(pause(taken));
        }
        None
    }
}

/// From now on this thread runs as soon as it wakes, whoever else wants its core. Who may not have that
/// has a longer time between two questions, and [`Readiness`] tells it.
fn run_at_once() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the thread is the caller, and `lowest` lives until the call has returned.
    unsafe {
        libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_FIFO, &raw const lowest)
    };
}

impl Readiness {
    /// The last moment at which it was certainly not ready yet, and in nanoseconds how much later it may
    /// have become so: what is measured from there is not too short.
    pub fn after(self) -> Result<(u64, u64)> {
        let Some(after_ns) = self.after_ns else {
            bail!("the proxy was ready before anybody had asked it");
        };
        Ok((after_ns, self.by_ns.saturating_sub(after_ns)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_lies_between_the_last_no_and_the_first_yes() {
        let mut answers = [false, false, true].into_iter();
        let mut asked_ns = Vec::new();
        let ready = Shared::default().poll(
            |_| Duration::ZERO,
            || {
                asked_ns.push(monotonic_ns());
                answers.next().unwrap()
            },
        );
        let ready = ready.unwrap();
        let (after_ns, width_ns) = ready.after().unwrap();
        assert!(asked_ns[0] <= after_ns && after_ns <= asked_ns[1], "{ready:?} {asked_ns:?}");
        assert!(asked_ns[2] <= ready.by_ns, "{ready:?} {asked_ns:?}");
        assert_eq!(after_ns + width_ns, ready.by_ns);
    }

    #[test]
    fn who_comes_too_late_does_not_know_since_when() {
        let ready = Shared::default().poll(|_| Duration::ZERO, || true).unwrap();
        assert_eq!(ready.after_ns, None);
        assert!(ready.after().is_err());
    }
}
