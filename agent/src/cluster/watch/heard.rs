//! When the API server has last said anything about what is watched.
//!
//! kube's watcher keeps bookmarks to itself. In a quiet cluster they are all there is to hear, and tell
//! a watch that has nothing to say from one that is dead; so the answers themselves are listened to.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::Request;
use http_body_util::{BodyExt as _, Limited};
use kube::{Client, client::Body};
use tokio::time::{Instant, sleep};
use tower::service_fn;

use super::{
    pace::Pace,
    request::{self, Age},
};
use crate::{
    clock,
    core::{Epoch, Monotonic, WatchReport, Watched},
};

/// What has been heard of all that is watched. Clones hear the same.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    pub(super) pods: Heard,
    pub(super) namespaces: Heard,
}

/// What has been heard in one watch.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// On the monotonic clock, in ns; 0: never.
    at: AtomicU64,
    lists: AtomicU64,
    errors: AtomicU64,
    /// From which the last watch went on.
    version: Mutex<Option<String>>,
}

// === impl Watches ===

impl Watches {
    /// How they stand, with stamps by this clock.
    #[must_use]
    pub fn report(&self, epoch: Epoch) -> Vec<WatchReport> {
        let Self { pods, namespaces } = self;
        vec![pods.report(Watched::Pods, epoch), namespaces.report(Watched::Namespaces, epoch)]
    }
}

// === impl Heard ===

impl Heard {
    /// A client for this watch alone, which notes whatever comes, keeps watches apart, takes lists of
    /// so many bytes at most, and asks as [`request`] says.
    pub(super) fn listen(&self, client: Client, longest_list: usize) -> Client {
        let namespace = client.default_namespace().to_owned();
        let (heard, pace) = (self.clone(), Pace::default());
        let service = service_fn(move |mut request: Request<Body>| {
            let (client, heard, pace) = (client.clone(), heard.clone(), pace.clone());
            let is_watch = request::is_watch(request.uri());
            if let Some(version) = request::version(request.uri()) {
                heard.knows(Some(version));
            }
            request::rewrite(request.uri_mut(), &heard.oldest_list());
            let (pause, longest) = if is_watch {
                (pace.before_watch(Instant::now()), usize::MAX)
            } else {
                (Duration::ZERO, longest_list)
            };
            async move {
                sleep(pause).await;
                let response = client.send(request).await?;
                // An error says nothing about what is watched.
                let succeeded = response.status().is_success();
                if !succeeded {
                    pace.refused();
                    if !is_watch {
                        // It may be of a version that the server will never have, as after a restored etcd.
                        heard.knows(None);
                    }
                }
                Ok::<_, kube::Error>(response.map(|body| {
                    let heard = body.map_frame(move |frame| {
                        if succeeded {
                            heard.something();
                        }
                        frame
                    });
                    Limited::new(heard, longest)
                }))
            }
        });
        Client::new(service, namespace)
    }

    pub(super) fn listed(&self) {
        self.0.lists.fetch_add(1, Relaxed);
    }

    /// How old a list may be that is asked for now.
    fn oldest_list(&self) -> Age {
        if self.0.lists.load(Relaxed) == 0 {
            return Age::Any;
        }
        let version = self.0.version.lock().unwrap_or_else(PoisonError::into_inner);
        version.clone().map_or(Age::Newest, Age::Since)
    }

    /// All up to this version has been heard.
    fn knows(&self, version: Option<&str>) {
        let mut known = self.0.version.lock().unwrap_or_else(PoisonError::into_inner);
        *known = version.map(ToOwned::to_owned);
    }

    pub(super) fn failed(&self) {
        self.0.errors.fetch_add(1, Relaxed);
    }

    fn something(&self) {
        self.0.at.store(clock::now().0, Relaxed);
    }

    fn report(&self, resource: Watched, epoch: Epoch) -> WatchReport {
        let Counts { at, lists, errors, version: _ } = &*self.0;
        let at = at.load(Relaxed);
        WatchReport {
            resource,
            heard_at: (at != 0).then(|| epoch.stamp(Monotonic(at))),
            lists: lists.load(Relaxed),
            errors: errors.load(Relaxed),
        }
    }
}
