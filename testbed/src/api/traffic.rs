//! How much clients ask for, and how much they are told.

use std::{
    collections::BTreeMap,
    ops::{Add, Sub},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    body::{Body, HttpBody as _},
    response::Response,
};
use futures::StreamExt as _;

use crate::clock::monotonic_ns;

/// Requests of one kind, and the bytes of their bodies: heads and TLS are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// How many requests came.
    pub requests: u64,
    /// Bytes that clients have sent.
    pub received: u64,
    /// Bytes that they were sent.
    pub sent: u64,
    /// When the last answer began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub answered_ns: u64,
}

/// By verb (`list`, `watch`, `create`, ...) and a resource's plural name.
pub type Flows = BTreeMap<(String, String), Flow>;

/// The counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic(Arc<Mutex<Flows>>);

/// A request that is being answered.
pub(super) struct Asking {
    traffic: Traffic,
    kind: (String, String),
}

// === impl Flow ===

impl Add for Flow {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            received: self.received + other.received,
            sent: self.sent + other.sent,
            answered_ns: self.answered_ns.max(other.answered_ns),
        }
    }
}

impl Sub for Flow {
    type Output = Self;

    /// What has come since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            received: self.received - earlier.received,
            sent: self.sent - earlier.sent,
            answered_ns: self.answered_ns,
        }
    }
}

// === impl Traffic ===

impl Traffic {
    fn lock(&self) -> MutexGuard<'_, Flows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub(super) fn asked(&self, verb: &str, resource: &str, received: usize) -> Asking {
        let kind = (verb.to_owned(), resource.to_owned());
        let mut flows = self.lock();
        let flow = flows.entry(kind.clone()).or_default();
        flow.requests += 1;
        flow.received += received as u64;
        Asking { traffic: self.clone(), kind }
    }

    pub(super) fn so_far(&self) -> Flows {
        self.lock().clone()
    }
}

// === impl Asking ===

impl Asking {
    /// It is answered; a watch goes on being counted.
    pub(super) fn answered(self, response: Response) -> Response {
        self.count(|flow| flow.answered_ns = monotonic_ns());
        response.map(|body| match body.size_hint().exact() {
            // Left as it is, so that it keeps its Content-Length.
            Some(length) => {
                self.count(|flow| flow.sent += length);
                body
            }
            None => Body::from_stream(body.into_data_stream().inspect(move |bytes| {
                let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                self.count(|flow| flow.sent += length);
            })),
        })
    }

    fn count(&self, change: impl FnOnce(&mut Flow)) {
        change(self.traffic.lock().entry(self.kind.clone()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        time::Duration,
    };

    use super::*;
    use crate::{Api, Resource};

    fn flow(api: &Api, verb: &str) -> Flow {
        api.traffic()[&(verb.to_owned(), "namespaces".to_owned())]
    }

    fn ask(api: &Api, query: &str) -> TcpStream {
        let mut stream = TcpStream::connect(api.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = "Host: testbed\r\nConnection: close\r\n\r\n";
        write!(stream, "GET /api/v1/namespaces{query} HTTP/1.1\r\n{head}").unwrap();
        stream
    }

    #[test]
    fn an_answer_s_bytes_are_counted_and_a_watch_s_as_they_are_sent() {
        let api = Api::start().unwrap();
        api.put_namespace("shop", &[]);
        let mut answer = String::new();
        ask(&api, "").read_to_string(&mut answer).unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let list = flow(&api, "list");
        assert_eq!((list.requests, list.sent), (1, body.len() as u64));
        assert!(answer.to_lowercase().contains("content-length"), "{answer}");

        let mut watch = ask(&api, "?watch=1&resourceVersion=0");
        let mut seen = String::new();
        let mut read_until = |wanted: &str| {
            while !seen.contains(wanted) {
                let mut chunk = [0; 4096];
                let read = watch.read(&mut chunk).unwrap();
                assert!(read > 0, "{seen}");
                seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        };
        read_until("shop");
        let before = flow(&api, "watch");
        api.put(Resource::Namespaces, serde_json::json!({"metadata": {"name": "market"}}));
        read_until("market");
        let since = flow(&api, "watch") - before;
        assert!(before.sent > 0 && since.sent > 0 && since.requests == 0, "{before:?} {since:?}");
    }
}
