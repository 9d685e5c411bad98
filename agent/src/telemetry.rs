//! The agent's log: its form, what it says, and the lines of the eBPF programs.

mod filter;
mod kernel;
mod level;
mod names;

#[cfg(test)]
mod tests;

use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer as _,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::filter::LogFilter;
pub use self::{
    kernel::KernelLines,
    level::{LevelError, Levels, check_filter},
    names::{Named, Names},
};

/// Lines that may wait for the reader: some for each of a thousand connects that are held in one
/// moment. A place takes 32 bytes from the start on, a waiting line its text; the default of 128,000
/// is 4 MB of the 25 that the agent may take, and with the lines in it more than its limit.
const WAITING_LINES: usize = 16_384;

/// How the targets of the agent's own lines begin; those of its programs are `holdfast_ebpf`.
const OWN: &str = "holdfast";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

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
) -> Result<(LogGuard, Levels), Box<dyn std::error::Error + Send + Sync>> {
    let (levels, filter) = Levels::new(level)?;
    let (writer, worker) =
        NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(std::io::stderr());
    let dropped = writer.error_counter();
    install(format, filter, writer)?;
    Ok((LogGuard { _worker: worker, dropped }, levels))
}

/// Sends the log to standard error, a line at a time and without a thread: for a process that nobody
/// waits for.
///
/// # Errors
///
/// As [`init`].
pub fn init_direct(
    format: LogFormat,
    level: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (_, filter) = Levels::new(level)?;
    install(format, filter, std::io::stderr)
}

fn install<W>(
    format: LogFormat,
    filter: LogFilter,
    writer: W,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Plain => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let layer = fmt::layer().with_ansi(ansi).with_target(false).with_writer(writer);
            registry.with(layer.with_filter(filter)).try_init()?;
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(writer);
            registry.with(layer.with_filter(filter)).try_init()?;
        }
    }
    Ok(())
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
    /// Of a log that is not there.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(NonBlockingBuilder::default().finish(std::io::sink()).0.error_counter())
    }

    /// How many they are.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.dropped_lines() as u64
    }
}
