//! How much the log says, and changing that while the agent runs.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError},
};

use super::{OWN, filter::LogFilter};
use crate::core::PodUid;

/// The pods that may be followed at a time: each is somebody who looks at it.
const MAX_FOLLOWED: usize = 16;

/// Libraries that are chatty at info.
const QUIET: [&str; 7] = [
    "hyper=warn",
    "kube=warn",
    "kube_client=warn",
    // A line at level error for each request that failed; what follows from one the agent says.
    "kube_client::client::builder=off",
    // Each end of a watch that is not a regular one, and each 403, however many: `cluster/watch/` tells of
    // those that matter, once a minute.
    "kube_client::client=error",
    "kube_runtime::watcher=error",
    "tower=warn",
];

/// The log's level, which can be changed at any time. Clones change the same log.
#[derive(Clone, Debug)]
pub struct Levels {
    filter: LogFilter,
    texts: Arc<Mutex<Texts>>,
}

#[derive(Debug)]
struct Texts {
    initial: String,
    current: String,
}

/// Why the level stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// The filter means nothing.
    #[error(
        "bad log filter {filter:?}: {source}; it is a level, such as \"debug\", or a filter, such as \
         \"info,holdfast::reconcile=debug\""
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// A word that is no level. `EnvFilter` would take it for a target, and leave all others out.
    #[error(
        "bad log filter: {word:?} is no level; levels are error, warn, info, debug, trace and off, and a \
         target has one behind =, such as holdfast::reconcile=debug"
    )]
    Word {
        /// The word.
        word: String,
    },
    /// As many pods as possible are followed.
    #[error("{MAX_FOLLOWED} pods are followed already; reset the level of one of them first")]
    TooMany,
}

// === impl Levels ===

impl Levels {
    pub(super) fn new(filter: &str) -> Result<(Self, LogFilter), LevelError> {
        let log_filter = LogFilter::new(parse(filter)?);
        let texts = Texts { initial: filter.to_owned(), current: filter.to_owned() };
        let levels = Self { filter: log_filter.clone(), texts: Arc::new(Mutex::new(texts)) };
        Ok((levels, log_filter))
    }

    /// Those of a log that nobody writes.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_no_log() -> Self {
        Self::new("info").expect("it is a level").0
    }

    /// Has the log say what this filter takes, of the same form as `--log-level`.
    ///
    /// # Errors
    ///
    /// [`LevelError::Filter`]; the log goes on as before.
    pub fn set(&self, filter: &str) -> Result<(), LevelError> {
        let parsed = parse(filter)?;
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.set(parsed);
        filter.clone_into(&mut texts.current);
        Ok(())
    }

    /// Goes back to the filter with which the agent was started, and follows no pod any more.
    pub fn reset(&self) {
        let initial = self.initial();
        // It was one when the agent started.
        let _: Result<(), LevelError> = self.set(&initial);
        self.filter.change_pods(Vec::clear);
    }

    /// The filter, as it was given.
    #[must_use]
    pub fn current(&self) -> String {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// The filter with which the agent was started.
    #[must_use]
    pub fn initial(&self) -> String {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).initial.clone()
    }

    /// Has the log take all lines about a pod down to debug.
    ///
    /// # Errors
    ///
    /// [`LevelError::TooMany`].
    pub fn follow(&self, pod: &PodUid) -> Result<(), LevelError> {
        self.filter.change_pods(|pods| {
            if pods.contains(pod) {
                return Ok(());
            }
            if pods.len() >= MAX_FOLLOWED {
                return Err(LevelError::TooMany);
            }
            pods.push(pod.clone());
            Ok(())
        })
    }

    /// Takes a pod as all others again: nobody wants its lines any more, or it is gone.
    pub fn forget(&self, pod: &PodUid) {
        self.retain(|other| other != pod);
    }

    /// Takes those pods as all others again of which `stays` is not true.
    pub fn retain(&self, stays: impl Fn(&PodUid) -> bool) {
        // Seldom is anybody followed, and often somebody asked about.
        if !self.filter.pods().is_empty() {
            self.filter.change_pods(|pods| pods.retain(stays));
        }
    }

    /// The pods that are followed.
    #[must_use]
    pub fn followed(&self) -> Vec<PodUid> {
        self.filter.pods().clone()
    }
}

/// Checks that a filter means what it seems to.
///
/// # Errors
///
/// If it does not.
pub fn check_filter(filter: &str) -> Result<(), LevelError> {
    parse(filter).map(|_| ())
}

fn parse(filter: &str) -> Result<EnvFilter, LevelError> {
    let words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    let is_meant = |word: &str| match word.split_once('=') {
        // A span's fields have the same sign.
        Some((target, level)) => !target.is_empty() && !level.is_empty(),
        None => word.contains('[') || word.parse::<LevelFilter>().is_ok(),
    };
    if let Some(word) = { words }.find(|word| !is_meant(word)) {
        return Err(LevelError::Word { word: word.to_owned() });
    }
    EnvFilter::try_new(directives(filter))
        .map_err(|source| LevelError::Filter { filter: filter.to_owned(), source })
}

/// A level without a target is the agent's; its libraries stay at info, or below, unless they are
/// named. The more exact directive wins, of equal ones the last.
fn directives(filter: &str) -> String {
    let mut bare = Vec::new();
    let mut named = Vec::new();
    for directive in filter.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match directive.parse::<LevelFilter>() {
            Ok(level) if level > LevelFilter::INFO => {
                bare.push(LevelFilter::INFO.to_string());
                bare.push(format!("{OWN}={level}"));
            }
            Ok(level) => bare.push(level.to_string()),
            Err(_) => named.push(directive.to_owned()),
        }
    }
    let quiet = QUIET.into_iter().map(str::to_owned);
    quiet.chain(bare).chain(named).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Which targets a filter lets say how much.
    fn enabled(filter: &str, wanted: &[(&str, bool)]) {
        let filter = EnvFilter::try_new(directives(filter)).unwrap();
        let text = filter.to_string();
        let subscriber = tracing_subscriber::registry().with(filter);
        crate::captured_log::never_alone();
        tracing::subscriber::with_default(subscriber, || {
            for (case, expected) in wanted {
                let now = match *case {
                    "holdfast debug" => {
                        tracing::enabled!(target: "holdfast::app", tracing::Level::DEBUG)
                    }
                    "holdfast info" => {
                        tracing::enabled!(target: "holdfast::app", tracing::Level::INFO)
                    }
                    "kernel debug" => {
                        tracing::enabled!(target: "holdfast_ebpf::gate", tracing::Level::DEBUG)
                    }
                    "hyper_util debug" => {
                        tracing::enabled!(target: "hyper_util::client", tracing::Level::DEBUG)
                    }
                    "kube debug" => {
                        tracing::enabled!(target: "kube_client::x", tracing::Level::DEBUG)
                    }
                    "tower warn" => {
                        tracing::enabled!(target: "tower::buffer", tracing::Level::WARN)
                    }
                    "rustls debug" => {
                        tracing::enabled!(target: "rustls::client", tracing::Level::DEBUG)
                    }
                    "rustls info" => {
                        tracing::enabled!(target: "rustls::client", tracing::Level::INFO)
                    }
                    other => panic!("{other}"),
                };
                assert_eq!(now, *expected, "{case}: {text}");
            }
        });
    }

    #[test]
    fn a_bare_level_is_the_agents_not_its_libraries() {
        for level in ["debug", "trace", "DEBUG", "rustls=info,debug"] {
            enabled(
                level,
                &[
                    ("holdfast debug", true),
                    ("kernel debug", true),
                    ("hyper_util debug", false),
                    ("kube debug", false),
                    ("rustls debug", false),
                    ("rustls info", true),
                    ("tower warn", true),
                ],
            );
        }
        enabled("warn", &[("holdfast info", false), ("rustls info", false), ("tower warn", true)]);
        enabled("off", &[("holdfast info", false), ("rustls info", false)]);
    }

    #[test]
    fn a_word_that_is_no_level_is_no_filter() {
        for wrong in ["warning", "deubg", "info,nonsense", "holdfast=", "=debug"] {
            let error = check_filter(wrong).unwrap_err().to_string();
            assert!(error.contains("levels are error, warn, info"), "{wrong}: {error}");
        }
        for right in ["info", "WARN", "off", "info,holdfast::reconcile=debug", "", "[span]=trace"] {
            check_filter(right).unwrap_or_else(|error| panic!("{right}: {error}"));
        }
    }

    #[test]
    fn what_is_named_says_what_it_was_asked_for() {
        enabled(
            "debug,rustls=debug,kube_client=debug",
            &[("rustls debug", true), ("kube debug", true), ("hyper_util debug", false)],
        );
        enabled(
            "info,holdfast=debug",
            &[("holdfast debug", true), ("kernel debug", true), ("rustls debug", false)],
        );
        for filter in ["debug,holdfast=info", "holdfast=info,debug"] {
            enabled(filter, &[("holdfast debug", false), ("holdfast info", true)]);
        }
    }
}
