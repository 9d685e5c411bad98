//! A snapshot, then deltas: kube's watcher, which lists in pages or has the list streamed, follows
//! bookmarks and backs off on errors; after 410, in whichever form, the objects are listed again.

mod anew;
mod heard;
mod pace;
mod trouble;

use std::ops::RangeInclusive;

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event as WatchEvent, watcher},
    },
};

pub use self::heard::Watches;
use self::{
    anew::{Initial, anew_when_refused},
    heard::Heard,
    pace::Patience,
    trouble::Trouble,
};
use super::{convert, kept::Kept, object::PodObject};
use crate::core::Event;

/// Namespaces a page: a list of a large cluster's does not come in one answer.
const NAMESPACES_A_PAGE: u32 = 500;

/// Pods a page, where the server does not stream its list. A page is in memory at once, twice as text, then as text and as objects. Of the 1.5 MiB
/// of an object that the API server stores it makes up to 9 MiB of JSON: six bytes for each `<`. So a
/// page takes some 40 MiB at worst, and the 110 pods of a usual node take 55 requests.
const PODS_A_PAGE: u32 = 2;

/// Seconds after which the server ends a watch and it is taken up again from where it was; well
/// below the time after which a connection that died silently would be noticed otherwise. Which of these is
/// left to chance: the nodes of a cluster, which have all come back to the same server within some
/// seconds, would come back to it together ever after.
const WATCH_TIMEOUT_SECONDS: RangeInclusive<u32> = 90..=120;

/// The pods of the node `node`.
pub fn watch_pods(
    client: Client,
    node: &str,
    watches: &Watches,
    kept: Kept,
) -> impl Stream<Item = Event> + Send + use<> {
    let config = config(PODS_A_PAGE).fields(&format!("spec.nodeName={node}"));
    let heard = watches.pods.clone();
    let pods = Api::<PodObject>::all(heard.listen(client));
    // A list that asks for a node's pods makes a server without a cache for it read those of the whole
    // cluster from etcd, and so does its every next page; a streamed one comes from its cache.
    let events = anew_when_refused(Initial::Streamed, move |initial| {
        let config = config.clone();
        let config = match initial {
            Initial::Streamed => config.streaming_lists(),
            Initial::Paged => config,
        };
        watcher(pods.clone(), config)
    });
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

/// All namespaces, of which only the metadata is asked for.
pub fn watch_namespaces(
    client: Client,
    watches: &Watches,
    kept: Kept,
) -> impl Stream<Item = Event> + Send + use<> {
    let heard = watches.namespaces.clone();
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(heard.listen(client));
    let events = anew_when_refused(Initial::Paged, move |_| {
        watcher(namespaces.clone(), config(NAMESPACES_A_PAGE))
    });
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

fn config(page_size: u32) -> watcher::Config {
    let timeout = fastrand::u32(WATCH_TIMEOUT_SECONDS);
    watcher::Config::default().page_size(page_size).timeout(timeout)
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
