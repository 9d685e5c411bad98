//! The log's format and level.

use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Lines that may wait for the reader: some for each of a thousand connects that are held in one
/// moment. A place takes 32 bytes from the start on, a waiting line its text; the default of 128,000
/// is 4 MB of the 25 that the agent may take, and with the lines in it more than its limit.
const WAITING_LINES: usize = 16_384;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

/// How the targets of the agent's own lines begin; those of its programs are `holdfast_ebpf`.
const OWN: &str = "holdfast";

/// Libraries that are chatty at info.
const QUIET: [&str; 5] = [
    "hyper=warn",
    "kube=warn",
    "kube_client=warn",
    // A line at level error for each request that failed; what follows from one the agent says.
    "kube_client::client::builder=off",
    "tower=warn",
];

/// Writes what is left of the log when it is dropped.
#[derive(Debug)]
#[must_use = "the log ends when this is dropped"]
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
}

/// Counts the lines that the reader of the log did not take in time.
#[derive(Clone, Debug)]
pub struct LinesDropped(ErrorCounter);

/// Sends the log to standard error, from a thread of its own: whoever holds a connect must not wait
/// for a slow reader of its log. What the reader does not take in time is left out.
///
/// # Errors
///
/// If the filter cannot be read, or a log has been set up before.
pub fn init(
    format: LogFormat,
    level: &str,
) -> Result<LogGuard, Box<dyn std::error::Error + Send + Sync>> {
    let (writer, worker) =
        NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(std::io::stderr());
    let dropped = writer.error_counter();
    let filter = EnvFilter::try_new(directives(level))?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Plain => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry
                .with(fmt::layer().with_ansi(ansi).with_target(false).with_writer(writer))
                .try_init()?;
        }
        LogFormat::Json => {
            registry
                .with(fmt::layer().json().flatten_event(true).with_writer(writer))
                .try_init()?;
        }
    }
    Ok(LogGuard { _worker: worker, dropped })
}

// === impl LogGuard ===

impl LogGuard {
    /// Counts the lines that the reader of the log did not take in time.
    #[must_use]
    pub fn dropped(&self) -> LinesDropped {
        LinesDropped(self.dropped.clone())
    }
}

// === impl LinesDropped ===

impl LinesDropped {
    /// How many they are.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.dropped_lines() as u64
    }
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
    use super::*;

    /// Which targets a filter lets say how much.
    fn enabled(filter: &str, wanted: &[(&str, bool)]) {
        let filter = EnvFilter::try_new(directives(filter)).unwrap();
        let text = filter.to_string();
        let subscriber = tracing_subscriber::registry().with(filter);
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
