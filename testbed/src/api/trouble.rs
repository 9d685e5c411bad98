//! What goes wrong with requests: a hook looks at each of them and says what becomes of it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, StreamExt as _, stream};
use tokio::{
    sync::watch::{Receiver, Sender},
    time::sleep,
};

use super::reply::Failure;

/// A request, as a hook sees it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `list`, `watch`, `get`, `create`, ...
    pub verb: &'a str,
    /// The resource's plural name, or the path of something else, such as `/version`.
    pub resource: &'a str,
    /// What stands behind the question mark.
    pub query: &'a str,
    /// The bearer token that came with it.
    pub token: Option<&'a str>,
    /// It is a watch that has been answered already. Only silence can befall it.
    pub is_open: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It is refused.
    Status {
        /// The HTTP status.
        code: u16,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// Nothing comes until the trouble is over, then what had to come. An open watch says nothing.
    Silence,
    /// The answer's head comes, and nothing else until the trouble is over; then its end.
    Mute,
    /// The body comes byte by byte until the trouble is over, with this pause between two.
    Slow(Duration),
    /// The body ends after so many bytes.
    Cut {
        /// How many come.
        after: usize,
        /// It looks like a regular end: only what was said is incomplete.
        clean: bool,
    },
    /// These lines come instead of the body, after a moment, and then its end.
    Lines {
        /// Without their ends.
        lines: Vec<String>,
        /// The moment.
        after: Duration,
    },
}

type Hook = dyn Fn(&Asked<'_>) -> Option<Trouble> + Send + Sync;

/// The hook, and the news that it is another one.
#[derive(Clone)]
pub(super) struct Troubles {
    hook: Arc<Mutex<Option<Arc<Hook>>>>,
    changed: Arc<Sender<u64>>,
    asked: Arc<AtomicU64>,
}

impl fmt::Debug for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Troubles").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Default for Troubles {
    fn default() -> Self {
        let changed = Arc::new(Sender::new(0));
        Self { hook: Arc::default(), changed, asked: Arc::default() }
    }
}

impl Troubles {
    pub(super) fn set(&self, hook: Option<Arc<Hook>>) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
        self.changed.send_modify(|count| *count += 1);
    }

    /// What becomes of a request, and the news that this has changed.
    pub(super) fn of(&self, asked: &Asked<'_>) -> (Option<Trouble>, Receiver<u64>) {
        // Subscribed first, so that a change right after is not missed.
        let changed = self.changed.subscribe();
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !asked.is_open {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        (hook.and_then(|hook| hook(asked)), changed)
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Trouble {
    /// Does it to a request, which `answer` would answer.
    pub(super) async fn befall(
        self,
        mut changed: Receiver<u64>,
        answer: impl Future<Output = Response>,
    ) -> Response {
        match self {
            Self::Status { code, retry_after } => {
                let mut response = Failure::of(code).into_response();
                if let Some(seconds) = retry_after {
                    let value = HeaderValue::from(seconds);
                    response.headers_mut().insert(header::RETRY_AFTER, value);
                }
                response
            }
            Self::Silence => {
                // The sender lives as long as the API itself.
                let _: Result<_, _> = changed.changed().await;
                answer.await
            }
            Self::Mute => json(stream::once(async move {
                let _: Result<_, _> = changed.changed().await;
                Ok(Bytes::new())
            })),
            Self::Slow(pause) => {
                answer.await.map(|body| Body::from_stream(slowly(body, pause, changed)))
            }
            Self::Cut { after, clean } => {
                answer.await.map(|body| Body::from_stream(cut(body, after, clean)))
            }
            Self::Lines { lines, after } => json(stream::once(async move {
                sleep(after).await;
                let body: String =
                    lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
                Ok(Bytes::from(body))
            })),
        }
    }
}

fn json(body: impl Stream<Item = Result<Bytes, axum::Error>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}

fn slowly(
    body: Body,
    pause: Duration,
    changed: Receiver<u64>,
) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let state = (body.into_data_stream(), Bytes::new(), changed, false);
    stream::unfold(state, move |(mut body, mut rest, mut changed, mut is_over)| async move {
        if rest.is_empty() {
            match body.next().await? {
                Ok(bytes) => rest = bytes,
                Err(error) => return Some((Err(error), (body, rest, changed, is_over))),
            }
        }
        if !is_over {
            tokio::select! {
                _ = changed.changed() => is_over = true,
                () = sleep(pause) => {}
            }
        }
        let count = if is_over { rest.len() } else { rest.len().min(1) };
        let now = rest.split_to(count);
        Some((Ok(now), (body, rest, changed, is_over)))
    })
}

fn cut(body: Body, after: usize, clean: bool) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let state = (body.into_data_stream(), Some(after));
    stream::unfold(state, move |(mut body, left)| async move {
        match left? {
            0 if clean => None,
            0 => Some((Err(axum::Error::new(std::io::Error::other("cut"))), (body, None))),
            left => match body.next().await? {
                Ok(mut bytes) => {
                    bytes.truncate(left);
                    let left = left - bytes.len();
                    Some((Ok(bytes), (body, Some(left))))
                }
                error => Some((error, (body, None))),
            },
        }
    })
}
