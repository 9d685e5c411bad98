//! A snapshot, then deltas: kube's watcher, which lists in pages, follows bookmarks and backs off
//! on errors; after 410, in whichever form, the objects are listed again.

mod heard;

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event as WatchEvent, watcher},
    },
};

use self::heard::Heard;
pub use self::heard::Watches;
use super::{convert, kept::Kept};
use crate::core::Event;

/// Objects a page: a list of a large cluster's namespaces does not come in one answer.
const PAGE_SIZE: u32 = 500;

/// Seconds after which the server ends a watch and it is taken up again from where it was; well
/// below the time after which a connection that died silently would be noticed otherwise.
const WATCH_TIMEOUT_SECONDS: u32 = 120;

/// The pods of the node `node`.
pub fn watch_pods(
    client: Client,
    node: &str,
    watches: &Watches,
    kept: Kept,
) -> impl Stream<Item = Event> + Send + use<> {
    let config = config().fields(&format!("spec.nodeName={node}"));
    let heard = watches.pods.clone();
    let pods = Api::<Pod>::all(heard.listen(client));
    let events = anew_when_gone(move || watcher(pods.clone(), config.clone())).default_backoff();
    collect(
        "pods",
        heard,
        events,
        move |pod: &Pod| convert::pod(pod, &kept),
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
    let events = anew_when_gone(move || watcher(namespaces.clone(), config())).default_backoff();
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

fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE).timeout(WATCH_TIMEOUT_SECONDS)
}

/// Starts the watcher anew, so with a list, when the server answers a watch with the HTTP status
/// 410 (Gone). kube's watcher lists again only after 410 in an event of a running watch; after the
/// status it would ask for the same version for ever.
fn anew_when_gone<K, S>(start: impl Fn() -> S) -> impl Stream<Item = watcher::Result<WatchEvent<K>>>
where
    S: Stream<Item = watcher::Result<WatchEvent<K>>>,
{
    stream::unfold((Box::pin(start()), start), |(mut events, start)| async move {
        let event = events.next().await?;
        if event.as_ref().is_err_and(is_gone) {
            events.set(start());
        }
        Some((event, (events, start)))
    })
}

fn is_gone(error: &watcher::Error) -> bool {
    /// RFC 9110, section 15.5.11.
    const GONE: u16 = 410;
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == GONE
    )
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
    events
        .inspect_err(move |error| {
            failing.failed();
            tracing::warn!(resource, %error, "watch interrupted; trying again");
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
