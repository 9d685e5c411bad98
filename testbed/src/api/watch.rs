//! Watches: a stream of changes that ends when the client goes, time is up or history is gone.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse as _, Response},
};
use futures::{Stream, stream};
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};

use super::{
    Shared,
    reply::{Failure, Shape, expired_event},
    resource::Resource,
    routes::{Parameters, is_set},
    select::Selector,
    store::{Expired, Refusal, Seen},
    trouble::{Asked, Trouble},
};

/// What a real server takes, at least, for a watch without `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// What is watched, and how the objects are to look.
pub(super) struct Scope {
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
    pub(super) shape: Shape,
}

struct Watch {
    shared: Shared,
    scope: Scope,
    /// All up to here has been sent.
    version: u64,
    expiry: u64,
    cuts: u64,
    /// So many of the lines that it was made to say are behind it.
    said: usize,
    news: Receiver<u64>,
    bookmarks: bool,
    bookmark_every: Duration,
    next_bookmark: Instant,
    ends: Instant,
    unsent: VecDeque<Vec<u8>>,
    is_over: bool,
}

pub(super) fn start(
    shared: &Shared,
    scope: Scope,
    parameters: &Parameters,
) -> Result<Response, Failure> {
    let bookmarks = is_set(parameters.allow_watch_bookmarks.as_ref());
    let from = match parameters.resource_version.as_deref() {
        None | Some("" | "0") => None,
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| Failure::bad_request(format!("invalid resource version: {text}")))?,
        ),
    };
    let initial = is_set(parameters.send_initial_events.as_ref());
    let news = shared.subscribe();
    let store = shared.lock();
    let mut unsent = VecDeque::new();
    let mut is_over = false;
    let version = match from.filter(|_| !initial) {
        Some(version) => {
            if store.can_watch_from(scope.resource, version) == Err(Expired) {
                match store.refusal {
                    Refusal::Status => return Err(Failure::expired()),
                    Refusal::Event => unsent.push_back(expired_event()),
                }
                is_over = true;
            }
            version
        }
        None => {
            let page = store
                .list(scope.resource, scope.namespace.as_deref(), &scope.selector, None, None)
                .map_err(|_| Failure::expired())?;
            unsent.extend(
                page.items.into_iter().map(|object| scope.shape.event(Seen::Added(object))),
            );
            if initial {
                unsent.push_back(scope.shape.bookmark(scope.resource, page.version, true));
            }
            page.version
        }
    };
    let now = Instant::now();
    let timeout = parameters.timeout_seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let watch = Watch {
        shared: shared.clone(),
        version,
        expiry: store.expiry,
        cuts: store.cuts,
        said: store.said.len(),
        news,
        bookmarks,
        bookmark_every: store.bookmark_every,
        next_bookmark: now + store.bookmark_every,
        ends: now + timeout,
        unsent,
        is_over,
        scope,
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(watch.into_stream()))
        .into_response())
}

impl Watch {
    fn into_stream(self) -> impl Stream<Item = Result<Vec<u8>, Infallible>> {
        stream::unfold(self, |mut watch| async move {
            let line = watch.next().await?;
            Some((Ok(line), watch))
        })
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let asked = Asked {
                verb: "watch",
                resource: self.scope.resource.plural(),
                query: "",
                token: None,
                is_open: true,
            };
            let (trouble, mut troubles) = self.shared.troubles.of(&asked);
            if matches!(trouble, Some(Trouble::Silence)) {
                troubles.changed().await.ok()?;
                continue;
            }
            if let Some(line) = self.unsent.pop_front() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            // Marked as seen before looking, so that a change right after is not missed.
            self.news.borrow_and_update();
            self.collect();
            if !self.unsent.is_empty() || self.is_over {
                continue;
            }
            tokio::select! {
                changed = self.news.changed() => {
                    // The sender lives as long as the API itself.
                    changed.ok()?;
                }
                changed = troubles.changed() => changed.ok()?,
                () = sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + self.bookmark_every;
                    let Scope { resource, shape, .. } = &self.scope;
                    return Some(shape.bookmark(*resource, self.version, false));
                }
                () = sleep_until(self.ends) => return None,
            }
        }
    }

    fn collect(&mut self) {
        let store = self.shared.lock();
        // Who reads too slowly is told so by a real server as well.
        let lags = store.can_watch_from(self.scope.resource, self.version) == Err(Expired);
        if store.expiry != self.expiry || lags {
            self.is_over = true;
            self.unsent.push_back(expired_event());
            return;
        }
        let Scope { resource, namespace, selector, shape } = &self.scope;
        let said = store.said.iter().skip(self.said);
        self.unsent.extend(said.filter(|(of, _)| of == resource).map(|(_, line)| line.clone()));
        self.said = store.said.len();
        if store.cuts != self.cuts {
            self.is_over = true;
            return;
        }
        let changes = store.changes_since(self.version, *resource, namespace.as_deref(), selector);
        self.unsent.extend(changes.into_iter().map(|seen| shape.event(seen)));
        self.version = store.version();
    }
}
