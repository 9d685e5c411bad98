//! A snapshot, then deltas: kube's watcher, which lists or has the list streamed, follows
//! bookmarks and backs off on errors; after 410, in whichever form, the objects are listed again.

mod anew;
mod heard;
mod pace;
mod request;
mod trouble;

use std::{fmt::Debug, time::Duration};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event as WatchEvent, watcher},
    },
};
use serde::de::DeserializeOwned;

pub use self::heard::Watches;
use self::{
    anew::{Initial, anew_when_refused},
    heard::Heard,
    pace::Patience,
    trouble::Trouble,
};
use super::{convert, kept::Kept, object::PodObject};
use crate::core::Event;

/// Namespaces a page.
const NAMESPACES_A_PAGE: u32 = 500;

/// Bytes of pods that are taken at once: of 500 with 30 KiB of JSON each. They are in memory twice as text,
/// then as text and as objects, of which little is kept.
const LONGEST_OF_PODS: usize = 16 * 1024 * 1024;

/// Bytes of namespaces: of a thousand. Their metadata is parsed with all that managers of fields have
/// left there, which takes ten times its text.
const LONGEST_OF_NAMESPACES: usize = 2 * 1024 * 1024;

/// How long a streamed list may take before the server is asked otherwise: nothing is known of the pods
/// meanwhile, and a held connect waits for a minute by default.
const STREAM_TAKES: Duration = Duration::from_secs(20);

/// Pods a page, where they are more than [`LONGEST_OF_PODS`]. Of the 1.5 MiB of an object that the API server stores it
/// makes up to 9 MiB of JSON: six bytes for each `<`. So a page takes some 40 MiB at worst.
const PODS_A_PAGE: u32 = 2;

/// The pods of the node `node`.
pub fn watch_pods(
    client: Client,
    node: &str,
    watches: &Watches,
    kept: Kept,
) -> impl Stream<Item = Event> + Send + use<> {
    let config = config().fields(&format!("spec.nodeName={node}"));
    let heard = watches.pods.clone();
    let sizes = (LONGEST_OF_PODS, PODS_A_PAGE);
    let events = from_cache::<PodObject>(&heard, client, config, sizes);
    let events = events.backoff(Patience::default());
    collect(
        "pods",
        heard,
        events,
        move |pod: &PodObject| convert::pod(pod, &kept),
        Event::PodsListed,
        Event::PodApplied,
        |pod| Event::PodDeleted(pod.uid),
    )
}

/// All namespaces, of which only the metadata is read.
pub fn watch_namespaces(
    client: Client,
    watches: &Watches,
    kept: Kept,
) -> impl Stream<Item = Event> + Send + use<> {
    let heard = watches.namespaces.clone();
    let events = from_cache::<PartialObjectMeta<Namespace>>(
        &heard,
        client,
        config(),
        (LONGEST_OF_NAMESPACES, NAMESPACES_A_PAGE),
    );
    let events = events.backoff(Patience::default());
    collect(
        "namespaces",
        heard,
        events,
        move |namespace| Some(convert::namespace(namespace, &kept)),
        Event::NamespacesListed,
        Event::NamespaceApplied,
        |namespace| Event::NamespaceDeleted(namespace.name),
    )
}

/// All there is, from the server's cache, and what changes: streamed where the server can; else at once if
/// that is no longer than so many bytes; else in pages of this size.
fn from_cache<K>(
    heard: &Heard,
    client: Client,
    config: watcher::Config,
    (longest, page_size): (usize, u32),
) -> impl Stream<Item = watcher::Result<WatchEvent<K>>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let whole = Api::<K>::all(heard.listen(client.clone(), longest));
    let pages = Api::<K>::all(heard.listen(client, usize::MAX));
    anew_when_refused(Initial::Streamed, STREAM_TAKES, move |initial| {
        let config = config.clone();
        match initial {
            Initial::Streamed => watcher(whole.clone(), config.streaming_lists()),
            Initial::Whole => {
                let config = watcher::Config { page_size: None, ..config.any_semantic() };
                watcher(whole.clone(), config)
            }
            Initial::Paged => watcher(pages.clone(), config.page_size(page_size)),
        }
    })
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(*request::WATCH_SECONDS.end())
}

/// Turns the watcher's initial sequence into one list, and objects into views.
fn collect<K, V>(
    resource: &'static str,
    heard: Heard,
    events: impl Stream<Item = watcher::Result<WatchEvent<K>>> + Send,
    view: impl Fn(&K) -> Option<V> + Send,
    listed: impl Fn(Vec<V>) -> Event + Send,
    applied: impl Fn(V) -> Event + Send,
    deleted: impl Fn(V) -> Event + Send,
) -> impl Stream<Item = Event> + Send
where
    K: Send,
    V: Send,
{
    let mut initial = Vec::new();
    let failing = heard.clone();
    let mut trouble = Trouble::default();
    events
        .inspect_err(move |error| {
            failing.failed();
            trouble.tell(resource, error);
        })
        .filter_map(move |event| {
            let event = match event {
                Ok(WatchEvent::Init) => {
                    initial.clear();
                    None
                }
                Ok(WatchEvent::InitApply(object)) => {
                    initial.extend(view(&object));
                    None
                }
                Ok(WatchEvent::InitDone) => {
                    heard.listed();
                    Some(listed(std::mem::take(&mut initial)))
                }
                Ok(WatchEvent::Apply(object)) => view(&object).map(&applied),
                Ok(WatchEvent::Delete(object)) => view(&object).map(&deleted),
                Err(_) => None,
            };
            std::future::ready(event)
        })
        .chain(stream::pending())
}

#[cfg(test)]
mod tests;
