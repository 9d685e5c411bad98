//! Events: what a pod's owner should know and can act on, in `kubectl describe pod`.
//!
//! Nothing waits for them. They pass a limit for each pod and reason, a bounded queue, and one task
//! that takes as long as the API server does, or longer if the node has many to tell; what is too much
//! is dropped and counted.

mod limit;
mod pace;

use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{limit::Limit, pace::Pace};
use crate::core::{PodName, PodUid};

/// What the events are reported by, as `kubectl describe` names it.
const CONTROLLER: &str = "holdfast";

/// Events that wait for the API server: some for each pod of a full node (110, kubelet's default).
const QUEUE: usize = 256;

/// How long the API server may take for one event; it is not worth more.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the agent's end may be delayed by what waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Events that are counted up if they come again. kube's recorder keeps each for six minutes, some
/// KiB of it, and looks through all of them for the next: without a limit, where pods come and go by
/// the dozen a second, tens of MiB.
const REMEMBERED: u32 = 512;

/// Between two warnings of events that could not be published.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The API server's limits on an event's fields, in bytes (pkg/apis/core/validation/events.go).
const MAX_NOTE: usize = 1024;
const MAX_ACTION: usize = 128;
const MAX_INSTANCE: usize = 128;

/// The pod that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its uid; for a static pod its manifest's hash, by which kubectl looks for the events of its
    /// mirror object, too.
    pub uid: PodUid,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is good to know.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Takes events. Clones share one queue and one limit.
#[derive(Clone, Debug)]
pub struct EventSink {
    queue: mpsc::Sender<Notice>,
    shared: Arc<Shared>,
}

/// Publishes what a sink takes.
pub struct EventPublisher {
    client: Client,
    reporter: Reporter,
    recorder: Recorder,
    /// How many this recorder has been given.
    recorded: u32,
    queue: mpsc::Receiver<Notice>,
    shared: Arc<Shared>,
    publish_timeout: Duration,
    pace: Pace,
    forbidden_told: bool,
    warned_at: Option<Instant>,
    failed: u64,
}

#[derive(Debug)]
struct Shared {
    limit: Mutex<Limit>,
    dropped: AtomicU64,
    published: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
struct Notice {
    pod: PodRef,
    kind: EventKind,
    reason: &'static str,
    action: Cow<'static, str>,
    note: String,
}

impl std::fmt::Debug for EventPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventPublisher").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// A sink, and the publisher that has to run for it, for the agent of the node `node`.
#[must_use]
pub fn events(client: Client, node: &str) -> (EventSink, EventPublisher) {
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(cut(node, MAX_INSTANCE).to_owned()),
    };
    let shared = Arc::new(Shared {
        limit: Mutex::new(Limit::default()),
        dropped: AtomicU64::new(0),
        published: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let (sender, queue) = mpsc::channel(QUEUE);
    let sink = EventSink { queue: sender, shared: Arc::clone(&shared) };
    let publisher = EventPublisher {
        recorder: Recorder::new(client.clone(), reporter.clone()),
        client,
        reporter,
        recorded: 0,
        queue,
        shared,
        publish_timeout: PUBLISH_TIMEOUT,
        pace: Pace::default(),
        forbidden_told: false,
        warned_at: None,
        failed: 0,
    };
    (sink, publisher)
}

// === impl PodRef ===

impl PodRef {
    /// Of a pod with this name and uid.
    #[must_use]
    pub fn new(name: &PodName, uid: &PodUid) -> Self {
        let PodName { namespace, name } = name;
        Self { namespace: Arc::clone(namespace), name: Arc::clone(name), uid: uid.clone() }
    }
}

// === impl EventSink ===

impl EventSink {
    /// Has an event published; never waits. `reason` and `action` are short words in PascalCase.
    /// Within some minutes, unless hundreds of others come in between, what has the same pod, kind,
    /// reason and action becomes one Event that counts, with the first one's note.
    pub fn publish(
        &self,
        pod: PodRef,
        kind: EventKind,
        reason: &'static str,
        action: impl Into<Cow<'static, str>>,
        note: String,
    ) {
        // Nothing panics while it is locked; if something did, the limit would be none the worse.
        let mut limit = self.shared.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = limit.allows(&pod.uid, reason, Instant::now());
        drop(limit);
        let notice = Notice { pod, kind, reason, action: action.into(), note };
        if !allowed || self.queue.try_send(notice).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped: over the limit of their pod, or with the queue full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// How many events the API server has taken.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.shared.published.load(Ordering::Relaxed)
    }

    /// How many events the API server has not taken.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }
}

// === impl EventPublisher ===

impl EventPublisher {
    /// Publishes until `stop` is cancelled or no sink is left; then what still waits, for a second
    /// at most.
    pub async fn run(mut self, stop: CancellationToken) {
        let deadline = loop {
            let notice = tokio::select! {
                biased;
                () = stop.cancelled() => break Instant::now() + FLUSH_TIMEOUT,
                notice = self.queue.recv() => notice,
            };
            let Some(notice) = notice else { return };
            let mut publishing = std::pin::pin!(self.publish(notice));
            tokio::select! {
                () = &mut publishing => {}
                () = stop.cancelled() => {
                    let deadline = Instant::now() + FLUSH_TIMEOUT;
                    let _: Result<(), _> = timeout_at(deadline, publishing).await;
                    break deadline;
                }
            }
        };
        self.queue.close();
        while let Ok(Some(notice)) = timeout_at(deadline, self.queue.recv()).await {
            let _: Result<(), _> = timeout_at(deadline, self.publish(notice)).await;
        }
    }

    async fn publish(&mut self, notice: Notice) {
        sleep(self.pace.before_event(Instant::now())).await;
        let Notice { pod, kind, reason, action, note } = notice;
        let PodRef { namespace, name, uid } = pod;
        let event = Event {
            type_: match kind {
                EventKind::Normal => EventType::Normal,
                EventKind::Warning => EventType::Warning,
            },
            reason: reason.to_owned(),
            note: Some(cut(&note, MAX_NOTE).to_owned()),
            action: cut(&action, MAX_ACTION).to_owned(),
            secondary: None,
        };
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.to_string()),
            name: Some(name.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectReference::default()
        };
        if self.recorded >= REMEMBERED {
            self.recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            self.recorded = 0;
        }
        self.recorded += 1;
        let published = timeout(self.publish_timeout, self.recorder.publish(&event, &regarding));
        let published = published.await;
        let counter = match published {
            Ok(Ok(())) => &self.shared.published,
            _ => &self.shared.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match published {
            Ok(Ok(())) => {}
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
                self.forbidden(&namespace, &status);
            }
            Ok(Err(kube::Error::Api(status))) => self.failed(&status.message),
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("the API server does not answer"),
        }
    }

    fn forbidden(&mut self, namespace: &str, status: &kube::core::Status) {
        // The apiserver's NamespaceLifecycle admission: nothing is made in a namespace that goes.
        let terminating = status.details.as_ref().is_some_and(|details| {
            details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        });
        if terminating {
            tracing::debug!(namespace, "namespace is going; no event of its pods");
        } else if !std::mem::replace(&mut self.forbidden_told, true) {
            tracing::warn!(
                namespace,
                error = status.message,
                "the API server does not let this agent write Events; grant create and patch on \
                 events of events.k8s.io (deploy/holdfast.yaml); said once"
            );
        }
    }

    fn failed(&mut self, error: &str) {
        self.failed += 1;
        if self.warned_at.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
            tracing::debug!(error, "event cannot be published");
            return;
        }
        self.warned_at = Some(Instant::now());
        let failed = std::mem::take(&mut self.failed);
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        tracing::warn!(
            error,
            failed,
            dropped,
            "Kubernetes Events cannot be published; this log has the same"
        );
    }
}

/// The longest beginning of `text` that takes `max` bytes at most.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests;
