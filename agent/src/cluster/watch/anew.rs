//! Where kube's watcher would ask for the same for ever: it is started anew.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use http_body_util::LengthLimitError;
use kube::runtime::watcher::{self, Event as WatchEvent};
use tokio::time::{Instant, timeout_at};

/// How a watch learns what there is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Initial {
    /// The watch itself begins with it, one object at a time (`sendInitialEvents`). Kubernetes 1.32 and
    /// from 1.34 on can by default, others answer with the HTTP status 422.
    Streamed,
    /// It is listed first, all at once, as the server has it in its cache (`resourceVersion=0`).
    Whole,
    /// It is listed first, in pages. Of a node's pods a server reads those of the whole cluster from etcd
    /// for that (`shouldDelegateList` in staging/src/k8s.io/apiserver/pkg/storage/cacher of Kubernetes):
    /// only where they are more than the agent takes at once.
    Paged,
}

impl Initial {
    /// What to try where this one was in vain.
    const fn next(self) -> Option<Self> {
        match self {
            Self::Streamed => Some(Self::Whole),
            Self::Whole => Some(Self::Paged),
            Self::Paged => None,
        }
    }
}

/// How many streamed lists in a row may break off before their end, as when the server goes away in the
/// middle of one.
const BROKEN_STREAMS: u32 = 2;

/// How long a way in which lists did not come is not tried again: what was in the way may be gone, as after
/// the server's upgrade.
const BETTER_AFTER: Duration = Duration::from_secs(60 * 60);

/// How far the list has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// It was asked for then; nothing has been answered but errors.
    Asked(Instant),
    /// It has begun.
    Begun(Instant),
    /// It has come to its end.
    Over,
}

/// A watcher, and how it came to be.
struct Anew<S> {
    events: S,
    list: List,
    /// How lists are asked for at first.
    first: Initial,
    /// How they are now, and since when it is not as at first.
    initial: Initial,
    since: Option<Instant>,
    /// How long a streamed list may take.
    takes: Duration,
    /// Streamed lists in a row that broke off.
    broken: u32,
}

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Nothing but what it says.
    Itself,
    /// The server cannot go on from where the watch was: a list is due.
    Refused,
    /// A streamed list has broken off. What has come of it is not all there is.
    Broken,
    /// The list does not come in this way.
    InVain,
}

// === impl Anew ===

impl<S> Anew<S> {
    /// The watcher's next event; `None`: its list is overdue.
    async fn next<K>(&mut self) -> Option<Option<watcher::Result<WatchEvent<K>>>>
    where
        S: Stream<Item = watcher::Result<WatchEvent<K>>> + Unpin,
    {
        match (self.initial, self.list) {
            (Initial::Streamed, List::Asked(at) | List::Begun(at)) => {
                timeout_at(at + self.takes, self.events.next()).await.ok()
            }
            _ => Some(self.events.next().await),
        }
    }

    fn meaning<K>(&self, event: &watcher::Result<WatchEvent<K>>) -> Meaning {
        match (self.initial, event, self.list) {
            (Initial::Streamed, Err(error), List::Asked(_)) if is_unknown_way(error) => {
                Meaning::InVain
            }
            (Initial::Streamed, Err(_) | Ok(WatchEvent::Init), List::Begun(_)) => Meaning::Broken,
            (Initial::Whole, Err(watcher::Error::InitialListFailed(error)), _)
                if is_too_long(error) =>
            {
                Meaning::InVain
            }
            (_, Err(error), _) if is_refusal(error) => Meaning::Refused,
            _ => Meaning::Itself,
        }
    }

    fn follow<K>(&mut self, event: &watcher::Result<WatchEvent<K>>) {
        match event {
            Ok(WatchEvent::Init) => self.list = List::Begun(Instant::now()),
            Ok(WatchEvent::InitDone) => (self.list, self.broken) = (List::Over, 0),
            _ => {}
        }
    }

    /// A list is to be asked for, of which it is known since when it is due.
    fn ask(&mut self, now: Instant) {
        if !matches!(self.list, List::Asked(_)) {
            self.list = List::Asked(now);
        }
        if self.since.is_some_and(|since| now.duration_since(since) >= BETTER_AFTER) {
            (self.initial, self.since) = (self.first, None);
        }
    }

    /// Lists are asked for in another way from now on.
    fn give_up(&mut self, now: Instant) {
        if let Some(next) = self.initial.next() {
            tracing::debug!(way = ?self.initial, ?next, "the API server's list does not come so");
            (self.initial, self.since) = (next, Some(now));
        }
        (self.list, self.broken) = (List::Asked(now), 0);
    }
}

/// Starts the watcher anew, so with a list, when the server refuses a watch for what it asks: with 410
/// (Gone) in whichever form, or because the version is none, as a bookmark may have told it. kube's
/// watcher lists again only after 410 in an event of a running watch; after a status it would ask for
/// the same version for ever.
///
/// So it does with a streamed list that breaks off: kube's watcher would go on with the rest, and call the
/// list done. A server of which no streamed list comes to its end within `takes`, or that does not know
/// of any, is asked for a whole one for the next hour; one whose whole list is too long, for pages.
///
/// Must be polled within a tokio runtime.
pub(super) fn anew_when_refused<K, S>(
    first: Initial,
    takes: Duration,
    start: impl Fn(Initial) -> S,
) -> impl Stream<Item = watcher::Result<WatchEvent<K>>>
where
    S: Stream<Item = watcher::Result<WatchEvent<K>>>,
{
    let (events, list) = (Box::pin(start(first)), List::Asked(Instant::now()));
    let watch = Anew { events, list, first, initial: first, since: None, takes, broken: 0 };
    stream::unfold((watch, start), next)
}

/// The next event of whichever watcher there is then.
async fn next<K, S, F>(
    (mut watch, start): (Anew<Pin<Box<S>>>, F),
) -> Option<(watcher::Result<WatchEvent<K>>, (Anew<Pin<Box<S>>>, F))>
where
    F: Fn(Initial) -> S,
    S: Stream<Item = watcher::Result<WatchEvent<K>>>,
{
    loop {
        let event = match watch.next().await {
            Some(event) => Some(event?),
            None => None,
        };
        let now = Instant::now();
        let mut meaning = event.as_ref().map_or(Meaning::InVain, |event| watch.meaning(event));
        if meaning == Meaning::Broken {
            watch.broken += 1;
            if watch.broken < BROKEN_STREAMS && matches!(event, Some(Ok(_))) {
                // kube's watcher has begun another one already, and the same is due of it.
                meaning = Meaning::Itself;
            }
        }
        if meaning != Meaning::Itself {
            if meaning == Meaning::InVain || watch.broken >= BROKEN_STREAMS {
                watch.give_up(now);
            }
            watch.ask(now);
            let initial = watch.initial;
            watch.events.set(start(initial));
        }
        // Errors have their pause; that a way is in vain is none.
        let is_told = |event: &watcher::Result<WatchEvent<K>>| match meaning {
            Meaning::Itself | Meaning::Refused => true,
            Meaning::Broken => event.is_err(),
            Meaning::InVain => false,
        };
        if let Some(event) = event.filter(is_told) {
            watch.follow(&event);
            return Some((event, (watch, start)));
        }
    }
}

/// Whether the server does not know what a streamed list is: of its parameters (422 since Kubernetes 1.27
/// without the feature), or of what comes back.
fn is_unknown_way(error: &watcher::Error) -> bool {
    const UNKNOWN: [u16; 3] = [400, 415, 422];
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if UNKNOWN.contains(&status.code)
    )
}

/// Whether an answer was longer than the agent takes at once.
fn is_too_long(error: &kube::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether another version may be answered otherwise.
fn is_refusal(error: &watcher::Error) -> bool {
    /// What has nothing to do with the version (RFC 9110, RFC 6585): nobody or somebody without
    /// the right has asked, too slowly, or too often.
    const OF_ANY_VERSION: [u16; 4] = [401, 403, 408, 429];
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            (400..500).contains(&status.code) && !OF_ANY_VERSION.contains(&status.code)
        }
        // kube's watcher begins anew by itself then, in the way in which it began.
        watcher::Error::WatchError(status) => status.code == 410,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::stream::BoxStream;
    use http_body_util::{BodyExt as _, Full, Limited};
    use hyper::body::Bytes;
    use kube::core::Status;
    use tokio::time::sleep;

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
    async fn run(watchers: Vec<Vec<Event>>) -> (Vec<Initial>, Vec<&'static str>) {
        let watchers = watchers.into_iter().map(|events| stream::iter(events).boxed()).collect();
        run_all(watchers, Duration::from_secs(600)).await
    }

    async fn run_all(
        watchers: Vec<BoxStream<'static, Event>>,
        takes: Duration,
    ) -> (Vec<Initial>, Vec<&'static str>) {
        let started = RefCell::new(Vec::new());
        let watchers = RefCell::new(watchers.into_iter());
        let events = anew_when_refused(Initial::Streamed, takes, |initial| {
            started.borrow_mut().push(initial);
            watchers.borrow_mut().next().unwrap_or_else(|| stream::empty().boxed())
        });
        let told = events.map(|event| match event {
            Ok(WatchEvent::Init) => "init",
            Ok(WatchEvent::InitApply(_)) => "object",
            Ok(WatchEvent::InitDone) => "done",
            Ok(_) => "change",
            Err(_) => "error",
        });
        let told = told.collect().await;
        (started.into_inner(), told)
    }

    fn list() -> Vec<Event> {
        vec![Ok(WatchEvent::Init), Ok(WatchEvent::InitApply(1)), Ok(WatchEvent::InitDone)]
    }

    #[tokio::test]
    async fn a_server_that_refuses_to_stream_is_asked_for_a_list_at_once() {
        use Initial::{Streamed, Whole};
        let (started, told) = run(vec![vec![interrupted(), refused(422)], list()]).await;
        assert_eq!(started, [Streamed, Whole]);
        assert_eq!(told, ["error", "init", "object", "done"]);
        // Who is refused for a reason of his own is not.
        for code in [401, 403, 429] {
            let (started, told) = run(vec![vec![refused(code)]]).await;
            assert_eq!((started, told), (vec![Streamed], vec!["error"]), "{code}");
        }
    }

    #[tokio::test]
    async fn a_streamed_list_that_breaks_off_is_none() {
        use Initial::{Streamed, Whole};
        let mut broken = vec![Ok(WatchEvent::Init), Ok(WatchEvent::InitApply(1)), interrupted()];
        // What kube's watcher says when the stream goes on behind a line that it could not read.
        broken.push(Ok(WatchEvent::InitDone));
        let (started, told) = run(vec![broken, list()]).await;
        assert_eq!(started, [Streamed, Streamed]);
        assert_eq!(told, ["init", "object", "error", "init", "object", "done"]);
        // A server that does it twice in a row is asked otherwise.
        let expired = || {
            let status = Status::failure("", "").with_code(410).boxed();
            vec![Ok(WatchEvent::Init), Err(watcher::Error::WatchError(status))]
        };
        let (started, told) = run(vec![expired(), expired(), list()]).await;
        assert_eq!(started, [Streamed, Streamed, Whole]);
        assert_eq!(told, ["init", "error", "init", "error", "init", "object", "done"]);
        let (started, _) = run(vec![expired(), list(), expired(), list()]).await;
        assert_eq!(started, [Streamed, Streamed], "the list has come, and the watch goes on");
        // Nor is it trouble in two rows.
        let mut later = list();
        later.extend(expired().pop());
        let (started, _) = run(vec![expired(), later, expired(), list()]).await;
        assert_eq!(started, [Streamed; 4]);
    }

    #[tokio::test]
    async fn a_server_that_never_ends_its_list_is_asked_for_another_one() {
        use Initial::{Streamed, Whole};
        let ended =
            || vec![Ok(WatchEvent::Init), Ok(WatchEvent::InitApply(1)), Ok(WatchEvent::Init)];
        let mut twice = ended();
        twice.extend(ended().drain(1..));
        let (started, told) = run(vec![twice, list()]).await;
        assert_eq!(started, [Streamed, Whole]);
        assert_eq!(told, ["init", "object", "init", "object", "init", "object", "done"]);
        // A server that was only told to stop in the middle of it.
        let mut once = ended();
        once.extend(list().drain(1..));
        let (started, told) = run(vec![once]).await;
        assert_eq!(started, [Streamed]);
        assert_eq!(told, ["init", "object", "init", "object", "done"]);
    }

    #[tokio::test]
    async fn a_list_whose_end_is_overdue_is_asked_for_otherwise() {
        use Initial::{Streamed, Whole};
        // As a server that knows no such stream: the objects come, and bookmarks, of which kube's watcher
        // says nothing.
        let silent = stream::iter([Ok(WatchEvent::Init), Ok(WatchEvent::InitApply(1))]);
        let silent = silent.chain(stream::pending()).boxed();
        let (started, told) =
            run_all(vec![silent, stream::iter(list()).boxed()], Duration::from_millis(50)).await;
        assert_eq!(started, [Streamed, Whole]);
        assert_eq!(told, ["init", "object", "init", "object", "done"]);
        // As one whose cache is behind: it refuses for a reason that may pass, or says nothing at all.
        let busy = stream::unfold((), |()| async {
            sleep(Duration::from_millis(1)).await;
            Some((refused(429), ()))
        });
        let (started, told) =
            run_all(vec![busy.boxed(), stream::iter(list()).boxed()], Duration::from_millis(50))
                .await;
        assert_eq!(started, [Streamed, Whole]);
        assert_eq!((told[0], told.last()), ("error", Some(&"done")));
        let mute = stream::pending().boxed();
        let (started, _) =
            run_all(vec![mute, stream::iter(list()).boxed()], Duration::from_millis(50)).await;
        assert_eq!(started, [Streamed, Whole]);
    }

    #[tokio::test]
    async fn a_list_that_is_too_long_is_asked_for_in_pages() {
        use Initial::{Paged, Streamed, Whole};
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Err(watcher::Error::InitialListFailed(kube::Error::Service(error)))
        };
        let body = Limited::new(Full::new(Bytes::from_static(b"12")), 1);
        let too_long = body.collect().await.unwrap_err();
        let whole = vec![Ok(WatchEvent::Init), failed("reset".into()), failed(too_long)];
        let (started, told) = run(vec![vec![refused(422)], whole, list()]).await;
        assert_eq!(started, [Streamed, Whole, Paged]);
        assert_eq!(told, ["init", "error", "init", "object", "done"]);
    }

    #[tokio::test]
    async fn a_watch_from_a_version_that_is_gone_begins_with_a_list() {
        use Initial::Streamed;
        for code in [410, 400, 404] {
            let mut gone = list();
            gone.push(refused(code));
            let (started, told) = run(vec![gone, list()]).await;
            assert_eq!(started, [Streamed, Streamed], "{code}");
            assert_eq!(told, ["init", "object", "done", "error", "init", "object", "done"]);
        }
    }
}
