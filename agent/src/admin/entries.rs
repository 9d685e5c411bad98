//! The entries as lines of JSON: those that were, and those that come. The agent never waits for a
//! reader: one that is too slow loses entries, and is told how many.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures::stream;
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        mpsc,
    },
    time::timeout,
};

use super::protocol::{Follow, Line};
use crate::{
    core::{self, Entry, PodName},
    reconcile::EntryStream,
};

/// Readers that follow at a time: some operators, and what they have left running.
pub(super) const MAX_FOLLOWERS: usize = 8;

/// Lines between the journal and the connection; what does not fit waits in the journal's queue.
const AHEAD: usize = 64;

/// A reader that has taken nothing for so long is stopped, or its terminal is gone: its place is for
/// another one.
const STALLED: Duration = Duration::from_secs(60);

/// What one entry takes, roughly.
const LINE_BYTES: usize = 512;

/// Which entries somebody wants.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pod: Option<PodName>,
    namespace: Option<String>,
    kinds: Vec<String>,
}

// === impl Wanted ===

impl Wanted {
    /// As a query says; or what is wrong with it.
    pub(super) fn new(query: &Follow) -> Result<Self, String> {
        let Follow { follow: _, pod, namespace, kind } = query;
        let pod = pod.as_deref().map(|pod| match pod.split_once('/') {
            Some((namespace, name)) => Ok(PodName::new(namespace, name)),
            None => Err(format!("{pod:?} is not NAMESPACE/NAME")),
        });
        let kinds = kind.iter().flat_map(|kinds| kinds.split(',')).map(str::to_owned);
        let kinds: Vec<String> = kinds.collect();
        if let Some(unknown) = kinds.iter().find(|kind| !core::Line::KINDS.contains(&kind.as_str()))
        {
            let known = core::Line::KINDS.join(", ");
            return Err(format!("{unknown:?} is no kind of entry; these are: {known}"));
        }
        Ok(Self { pod: pod.transpose()?, namespace: namespace.clone(), kinds })
    }

    fn takes(&self, entry: &Entry) -> bool {
        let name = entry.pod.name.as_ref();
        self.pod.as_ref().is_none_or(|pod| name == Some(pod))
            && self
                .namespace
                .as_deref()
                .is_none_or(|namespace| name.is_some_and(|name| *name.namespace == *namespace))
            && (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
    }
}

/// Those that were.
pub(super) fn recent(entries: &[Arc<Entry>], wanted: &Wanted) -> Response {
    lines(Body::from(text(entries, wanted)))
}

/// Those that were, and those that come until the reader goes. `holds` is dropped with the last one.
pub(super) fn follow<H: Send + 'static>(
    entries: &[Arc<Entry>],
    live: Receiver<Arc<Entry>>,
    stream: EntryStream,
    wanted: Wanted,
    holds: H,
) -> Response {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(AHEAD);
    let seen = entries.last().map_or(0, |entry| entry.seq);
    let first = Bytes::from(text(entries, &wanted));
    tokio::spawn(async move {
        if first.is_empty() || sender.send(first).await.is_ok() {
            pass_on(live, &stream, seen, &wanted, &sender).await;
        }
        drop(holds);
    });
    let chunks = stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|chunk| chunk.map(Ok::<_, Infallible>))
    });
    lines(Body::from_stream(chunks))
}

/// Passes on what is newer than `seen`, until nobody takes it any more.
async fn pass_on(
    mut live: Receiver<Arc<Entry>>,
    stream: &EntryStream,
    seen: u64,
    wanted: &Wanted,
    reader: &mpsc::Sender<Bytes>,
) {
    loop {
        let received = tokio::select! {
            received = live.recv() => received,
            () = reader.closed() => return,
        };
        let line = match received {
            Ok(entry) if entry.seq > seen && wanted.takes(&entry) => json(&*entry),
            Ok(_) => continue,
            Err(RecvError::Lagged(lost)) => {
                stream.note_lost(lost);
                json(&Line::Lost { lost })
            }
            Err(RecvError::Closed) => return,
        };
        if !matches!(timeout(STALLED, reader.send(line.into())).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn text(entries: &[Arc<Entry>], wanted: &Wanted) -> String {
    let mut text = String::with_capacity(entries.len() * LINE_BYTES);
    for entry in entries.iter().filter(|entry| wanted.takes(entry)) {
        text.push_str(&json(&**entry));
    }
    text
}

fn json(line: &impl serde::Serialize) -> String {
    // Neither has a map with keys that are no strings, which is all that JSON refuses.
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

fn lines(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}
