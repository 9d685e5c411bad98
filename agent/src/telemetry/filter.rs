//! What the log takes: a filter, and pods of which it takes more.

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};
use tracing_subscriber::{
    EnvFilter,
    layer::{Context, Filter},
};

use super::OWN;
use crate::core::PodUid;

/// The field by which a line says which pod it is about.
const POD_UID: &str = "pod_uid";

/// The level to which lines about a followed pod are taken.
const FOLLOWED: Level = Level::DEBUG;

/// An [`EnvFilter`] that can be exchanged, and the pods that are followed: the agent's own lines about
/// one of them are taken down to debug, whatever the filter says. While nobody is followed that
/// costs nothing: a line that the filter leaves out is left out where it is written.
///
/// `tracing_subscriber::reload` does not do: as a filter it does not hand `event_enabled` on.
#[derive(Clone, Debug)]
pub(super) struct LogFilter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    filter: RwLock<EnvFilter>,
    follows: AtomicBool,
    pods: RwLock<Vec<PodUid>>,
}

/// Looks whether a line is about one of these pods.
struct About<'a> {
    pods: &'a [PodUid],
    is: bool,
}

// === impl LogFilter ===

impl LogFilter {
    pub(super) fn new(filter: EnvFilter) -> Self {
        Self(Arc::new(Shared {
            filter: RwLock::new(filter),
            follows: AtomicBool::new(false),
            pods: RwLock::default(),
        }))
    }

    pub(super) fn set(&self, filter: EnvFilter) {
        *self.0.filter.write().unwrap_or_else(PoisonError::into_inner) = filter;
        refresh();
    }

    /// Changes who is followed.
    pub(super) fn change_pods<T>(&self, change: impl FnOnce(&mut Vec<PodUid>) -> T) -> T {
        let mut pods = self.0.pods.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut pods);
        let follows = !pods.is_empty();
        drop(pods);
        if self.0.follows.swap(follows, Ordering::Relaxed) != follows {
            refresh();
        }
        result
    }

    pub(super) fn pods(&self) -> RwLockReadGuard<'_, Vec<PodUid>> {
        self.0.pods.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn filter(&self) -> RwLockReadGuard<'_, EnvFilter> {
        self.0.filter.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line from here may be taken although the filter does not take it.
    fn may_be_followed(&self, metadata: &Metadata<'_>) -> bool {
        self.0.follows.load(Ordering::Relaxed)
            && metadata.is_event()
            && *metadata.level() <= FOLLOWED
            && metadata.target().starts_with(OWN)
            && metadata.fields().field(POD_UID).is_some()
    }
}

/// Each place at which a line is written remembers whether anybody wants it; so does `log`.
fn refresh() {
    tracing::callsite::rebuild_interest_cache();
    log::set_max_level(match LevelFilter::current().into_level() {
        None => log::LevelFilter::Off,
        Some(Level::ERROR) => log::LevelFilter::Error,
        Some(Level::WARN) => log::LevelFilter::Warn,
        Some(Level::INFO) => log::LevelFilter::Info,
        Some(Level::DEBUG) => log::LevelFilter::Debug,
        Some(Level::TRACE) => log::LevelFilter::Trace,
    });
}

impl<S: Subscriber> Filter<S> for LogFilter {
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        let interest = Filter::<S>::callsite_enabled(&*self.filter(), metadata);
        if interest.is_never() && self.may_be_followed(metadata) {
            return Interest::sometimes();
        }
        interest
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        Filter::enabled(&*self.filter(), metadata, context) || self.may_be_followed(metadata)
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if !self.may_be_followed(metadata) || Filter::enabled(&*self.filter(), metadata, context) {
            return true;
        }
        let pods = self.pods();
        let mut about = About { pods: &pods, is: false };
        event.record(&mut about);
        about.is
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let hint = Filter::<S>::max_level_hint(&*self.filter());
        if self.0.follows.load(Ordering::Relaxed) {
            return hint.map(|hint| hint.max(LevelFilter::from_level(FOLLOWED)));
        }
        hint
    }

    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        Filter::on_new_span(&*self.filter(), attributes, id, context);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        Filter::on_record(&*self.filter(), id, values, context);
    }

    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        Filter::on_enter(&*self.filter(), id, context);
    }

    fn on_exit(&self, id: &span::Id, context: Context<'_, S>) {
        Filter::on_exit(&*self.filter(), id, context);
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        Filter::on_close(&*self.filter(), id, context);
    }
}

// === impl About ===

impl Visit for About<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == POD_UID {
            self.is = self.pods.iter().any(|pod| pod.as_str() == value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == POD_UID {
            // What is recorded by its Display comes as a Debug that writes the same.
            self.record_str(field, &format!("{value:?}"));
        }
    }
}
