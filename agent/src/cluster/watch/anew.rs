//! Where kube's watcher would ask for the same for ever: it is started anew.

use futures::{Stream, StreamExt as _, stream};
use kube::runtime::watcher::{self, Event as WatchEvent};

/// How a watch learns what there is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Initial {
    /// The watch itself begins with it, one object at a time (`sendInitialEvents`). Kubernetes 1.32 and
    /// from 1.34 on can by default, others answer with the HTTP status 422.
    Streamed,
    /// It is listed first, in pages.
    Paged,
}

/// How far the list has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// It was asked for; nothing has been answered but errors.
    Asked,
    /// It has begun.
    Begun,
    /// It has come to its end, or was interrupted.
    Over,
}

// === impl List ===

impl List {
    fn after<K>(self, event: &watcher::Result<WatchEvent<K>>) -> Self {
        match (event, self) {
            (Ok(WatchEvent::Init), _) => Self::Begun,
            (Ok(WatchEvent::InitDone), _) | (Err(_), Self::Begun) => Self::Over,
            (Ok(_) | Err(_), list) => list,
        }
    }
}

/// Starts the watcher anew, so with a list, when the server refuses a watch for what it asks: with the
/// HTTP status 410 (Gone), or because the version is none, as a bookmark may have told it. kube's
/// watcher lists again only after 410 in an event of a running watch; after a status it would ask for
/// the same version for ever.
///
/// A server that streams no list is asked for pages from then on: one that says so, at once or in the
/// middle of it, or that ends the watch without having said where the list ends.
pub(super) fn anew_when_refused<K, S>(
    initial: Initial,
    start: impl Fn(Initial) -> S,
) -> impl Stream<Item = watcher::Result<WatchEvent<K>>>
where
    S: Stream<Item = watcher::Result<WatchEvent<K>>>,
{
    let state = (Box::pin(start(initial)), start, initial, List::Asked);
    stream::unfold(state, |(mut events, start, mut initial, mut list)| async move {
        loop {
            let event = events.next().await?;
            let refused = event.as_ref().is_err_and(is_refusal);
            let in_vain = initial == Initial::Streamed
                && match (&event, list) {
                    (Err(_), List::Asked) => refused,
                    (Ok(WatchEvent::Init) | Err(watcher::Error::WatchError(_)), List::Begun) => {
                        true
                    }
                    _ => false,
                };
            if in_vain {
                tracing::debug!("the API server streams no list; asking for pages");
                initial = Initial::Paged;
            }
            if in_vain || refused {
                list = List::Asked;
                events.set(start(initial));
            } else {
                list = list.after(&event);
            }
            if in_vain {
                // Neither an error nor worth a pause.
                continue;
            }
            return Some((event, (events, start, initial, list)));
        }
    })
}

/// Whether another version may be answered otherwise.
fn is_refusal(error: &watcher::Error) -> bool {
    /// What has nothing to do with the version (RFC 9110, RFC 6585): nobody or somebody without
    /// the right has asked, too slowly, or too often.
    const OF_ANY_VERSION: [u16; 4] = [401, 403, 408, 429];
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if (400..500).contains(&status.code) && !OF_ANY_VERSION.contains(&status.code)
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::FutureExt as _;
    use kube::core::Status;

    use super::*;

    type Event = watcher::Result<WatchEvent<u8>>;

    fn refused(code: u16) -> Event {
        let status = Status::failure("", "").with_code(code).boxed();
        Err(watcher::Error::WatchStartFailed(kube::Error::Api(status)))
    }

    fn interrupted() -> Event {
        Err(watcher::Error::NoResourceVersion)
    }

    /// How each watcher was started that says these one after the other, and what of it comes through.
    fn run(watchers: Vec<Vec<Event>>) -> (Vec<Initial>, Vec<&'static str>) {
        let started = RefCell::new(Vec::new());
        let watchers = RefCell::new(watchers.into_iter());
        let events = anew_when_refused(Initial::Streamed, |initial| {
            started.borrow_mut().push(initial);
            stream::iter(watchers.borrow_mut().next().unwrap_or_default())
        });
        let told = events.map(|event| match event {
            Ok(WatchEvent::Init) => "init",
            Ok(WatchEvent::InitApply(_)) => "object",
            Ok(WatchEvent::InitDone) => "done",
            Ok(_) => "change",
            Err(_) => "error",
        });
        let told = told.collect().now_or_never().unwrap();
        (started.into_inner(), told)
    }

    fn list() -> Vec<Event> {
        vec![Ok(WatchEvent::Init), Ok(WatchEvent::InitApply(1)), Ok(WatchEvent::InitDone)]
    }

    #[test]
    fn a_server_that_refuses_to_stream_is_asked_for_pages_at_once() {
        use Initial::{Paged, Streamed};
        let (started, told) = run(vec![vec![interrupted(), refused(422)], list()]);
        assert_eq!(started, [Streamed, Paged]);
        assert_eq!(told, ["error", "init", "object", "done"]);
        // Who is refused for a reason of his own is not.
        for code in [401, 403, 429] {
            let (started, told) = run(vec![vec![refused(code)]]);
            assert_eq!((started, told), (vec![Streamed], vec!["error"]), "{code}");
        }
    }

    #[test]
    fn a_server_that_never_ends_its_list_is_asked_for_pages() {
        use Initial::{Paged, Streamed};
        let endless =
            vec![Ok(WatchEvent::Init), Ok(WatchEvent::InitApply(1)), Ok(WatchEvent::Init)];
        let (started, told) = run(vec![endless, list()]);
        assert_eq!(started, [Streamed, Paged]);
        assert_eq!(told, ["init", "object", "init", "object", "done"]);
        // One whose connection broke in the middle of it may end the next one.
        let mut broken = vec![Ok(WatchEvent::Init), interrupted()];
        broken.extend(list());
        let (started, told) = run(vec![broken]);
        assert_eq!(started, [Streamed]);
        assert_eq!(told, ["init", "error", "init", "object", "done"]);
    }

    #[test]
    fn a_server_that_fails_in_the_middle_of_its_list_is_asked_for_pages() {
        use Initial::{Paged, Streamed};
        let expired = || {
            let status = Status::failure("", "").with_code(410).boxed();
            Err(watcher::Error::WatchError(status))
        };
        let (started, told) = run(vec![vec![Ok(WatchEvent::Init), expired()], list()]);
        assert_eq!(started, [Streamed, Paged]);
        assert_eq!(told, ["init", "init", "object", "done"]);
        // Not so once the list has come.
        let mut expires = list();
        expires.push(expired());
        let (started, _) = run(vec![expires]);
        assert_eq!(started, [Streamed]);
    }

    #[test]
    fn a_watch_from_a_version_that_is_gone_begins_with_a_list() {
        use Initial::Streamed;
        for code in [410, 400] {
            let mut gone = list();
            gone.push(refused(code));
            let (started, told) = run(vec![gone, list()]);
            assert_eq!(started, [Streamed, Streamed], "{code}");
            assert_eq!(told, ["init", "object", "done", "error", "init", "object", "done"]);
        }
    }
}
