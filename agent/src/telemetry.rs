//! The log's format and level.

use clap::ValueEnum;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

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
}

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
    let (writer, worker) = tracing_appender::non_blocking(std::io::stderr());
    let quiet = QUIET.join(",");
    let filter = EnvFilter::try_new(format!("{quiet},{level}"))?;
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
    Ok(LogGuard { _worker: worker })
}
