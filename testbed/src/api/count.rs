//! What requests cost: how many came when and from whom, and how many bytes went back.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use super::trouble::Asked;
use crate::clock::monotonic_ns;

/// What the requests of one kind have cost. Bytes are those of bodies, without any head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many came, whatever became of them.
    pub requests: u64,
    /// Bytes that came with them.
    pub received: u64,
    /// Bytes that went back.
    pub sent: u64,
    /// Answers that have not come to their end: open watches, for the most part.
    pub open: u64,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    /// When.
    pub at: Instant,
    /// The bearer token that came with it.
    pub token: Option<String>,
    /// `list`, `watch`, `get`, `create`, ...
    pub verb: String,
    /// The resource's plural name, or the path of something else, such as `/version`.
    pub resource: String,
    /// What stands behind the question mark.
    pub query: String,
    /// The status of its answer.
    pub code: u16,
    /// When its answer began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub answered_ns: u64,
}

/// All requests so far. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    counts: BTreeMap<Kind, Count>,
    came: Vec<Came>,
}

/// Verb and resource.
type Kind = (String, String);

/// A body on its way.
struct Weighed {
    body: Body,
    counter: Counter,
    kind: Kind,
}

// === impl Count ===

impl Count {
    /// What has come since `earlier`; what is open, as it is now.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            received: self.received - earlier.received,
            sent: self.sent - earlier.sent,
            open: self.open,
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            received: self.received + other.received,
            sent: self.sent + other.sent,
            open: self.open + other.open,
        }
    }
}

// === impl Counter ===

impl Counter {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that came `at`, and its answer as it is sent.
    pub(super) fn answered(
        &self,
        at: Instant,
        asked: &Asked<'_>,
        received: usize,
        response: Response,
    ) -> Response {
        let kind = (asked.verb.to_owned(), asked.resource.to_owned());
        let came = Came {
            at,
            token: asked.token.map(str::to_owned),
            verb: kind.0.clone(),
            resource: kind.1.clone(),
            query: asked.query.to_owned(),
            code: response.status().as_u16(),
            answered_ns: monotonic_ns(),
        };
        {
            let mut counted = self.lock();
            counted.came.push(came);
            let count = counted.counts.entry(kind.clone()).or_default();
            count.requests += 1;
            count.received += received as u64;
            count.open += 1;
        }
        let counter = self.clone();
        response.map(|body| Body::new(Weighed { body, counter, kind }))
    }

    pub(super) fn count(&self, verb: &str, resource: &str) -> Count {
        let kind = (verb.to_owned(), resource.to_owned());
        self.lock().counts.get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn total(&self) -> Count {
        self.lock().counts.values().copied().fold(Count::default(), Count::and)
    }

    pub(super) fn came(&self, since: Instant) -> Vec<Came> {
        self.lock().came.iter().filter(|came| came.at >= since).cloned().collect()
    }
}

// === impl Weighed ===

impl Weighed {
    fn change(&self, change: impl FnOnce(&mut Count)) {
        change(self.counter.lock().counts.entry(self.kind.clone()).or_default());
    }
}

impl HttpBody for Weighed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            let sent = bytes.len() as u64;
            self.change(|count| count.sent += sent);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    // As the body itself has it, so that answers keep their Content-Length.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Weighed {
    fn drop(&mut self) {
        self.change(|count| count.open -= 1);
    }
}
