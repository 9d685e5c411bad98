//! Reading the debug lines of the loud programs.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::BpfError;

/// Where the lines go, as six numbers each ([`agent_ebpf::note::NoteLine`]). It is told to flush
/// about once a second while lines come, and once when they have ended.
pub type LineSink = Arc<dyn Log>;

/// How often lost lines are counted, and the sink is told to flush.
const LOOK: Duration = Duration::from_secs(1);

/// The buffer of the programs' debug lines. Its reader is a thread: it empties the buffer for as
/// long as there is something in it, which may be long.
pub(super) struct KernelLog {
    buffer: Arc<Buffer>,
    /// The thread ends with this.
    reader: Option<PipeWriter>,
}

struct Buffer {
    logger: Mutex<EbpfLogger<Counted>>,
    /// The lines that the programs began to write.
    begun: PerCpuArray<MapData, u64>,
    sink: Counted,
}

/// Counts what arrives.
#[derive(Clone)]
struct Counted {
    sink: LineSink,
    received: Arc<AtomicU64>,
}

/// Finds out how many lines found the buffer full: those that were begun and never came. A line is
/// begun a moment before it is there, so what is compared with what has come was counted a while
/// ago.
struct Losses {
    begun: u64,
    told: u64,
}

// === impl KernelLog ===

impl KernelLog {
    pub(super) const MAP: &'static str = "LINES";

    /// Takes the buffer out of the object, for which it stays what it is: programs that are loaded
    /// later find it by the number of its descriptor.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        begun: PerCpuArray<MapData, u64>,
        sink: LineSink,
    ) -> Result<Self, BpfError> {
        let sink = Counted { sink, received: Arc::default() };
        let logger = EbpfLogger::init_with_logger(ebpf, sink.clone())
            .map_err(|source| BpfError::Log(Box::new(source)))?;
        let buffer = Arc::new(Buffer { logger: Mutex::new(logger), begun, sink });
        Ok(Self { buffer, reader: None })
    }

    /// Has the lines read from now on. Idle, that costs a sleeping thread.
    pub(super) fn start(&mut self) -> Result<(), BpfError> {
        if self.reader.is_some() {
            return Ok(());
        }
        let (stopped, reader) = io::pipe().map_err(BpfError::Ring)?;
        let buffer = Arc::clone(&self.buffer);
        thread::Builder::new()
            .name("kernel-log".to_owned())
            .spawn(move || {
                if let Err(error) = buffer.read(&stopped) {
                    tracing::warn!(%error, "kernel debug lines have ended");
                }
            })
            .map_err(BpfError::Ring)?;
        self.reader = Some(reader);
        Ok(())
    }
}

// === impl Buffer ===

impl Buffer {
    fn read(&self, stopped: &PipeReader) -> io::Result<()> {
        let mut losses = Losses { begun: 0, told: 0 };
        let mut looked = Instant::now();
        let mut seen = 0;
        // Whether something may have to be told although no further line comes.
        let mut is_pending = false;
        loop {
            let has_ended = self.wait(stopped, is_pending)?;
            self.logger.lock().unwrap_or_else(PoisonError::into_inner).flush();
            let received = self.sink.received.load(Ordering::Relaxed);
            if looked.elapsed() >= LOOK || has_ended {
                let lost = losses.newly(received);
                if lost > 0 {
                    tracing::warn!(
                        lost,
                        "kernel debug lines lost: they came faster than they were read"
                    );
                }
                self.sink.flush();
                losses.begun = self.begun.get(&0, 0).map_or(0, |counts| counts.iter().sum());
                is_pending = received != seen || !losses.is_told(received);
                (looked, seen) = (Instant::now(), received);
            } else {
                is_pending = true;
            }
            if has_ended {
                return Ok(());
            }
        }
    }

    /// Waits for lines, or until it is time to look; returns whether nobody wants them any more.
    fn wait(&self, stopped: &PipeReader, is_pending: bool) -> io::Result<bool> {
        let timeout = if is_pending {
            PollTimeout::try_from(LOOK).map_err(io::Error::other)?
        } else {
            PollTimeout::NONE
        };
        let logger = self.logger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = [
            PollFd::new(logger.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut files, timeout) {
            Ok(_) => Ok(files[1].any().unwrap_or(true)),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

// === impl Losses ===

impl Losses {
    /// What is known to be lost since the last call.
    fn newly(&mut self, received: u64) -> u64 {
        let lost = self.begun.saturating_sub(received);
        let new = lost.saturating_sub(self.told);
        self.told += new;
        new
    }

    fn is_told(&self, received: u64) -> bool {
        self.begun <= received + self.told
    }
}

// === impl Counted ===

impl Log for Counted {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.sink.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.sink.log(record);
    }

    fn flush(&self) {
        self.sink.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_and_never_came_is_lost_and_told_once() {
        let mut losses = Losses { begun: 0, told: 0 };
        assert_eq!(losses.newly(0), 0);
        // Ten were begun, eight have come: two are on their way or lost.
        losses.begun = 10;
        assert!(!losses.is_told(8));
        assert_eq!(losses.newly(8), 2);
        assert!(losses.is_told(8));
        assert_eq!(losses.newly(8), 0);
        // More have come than had been begun when that was counted.
        assert_eq!(losses.newly(20), 0);
        losses.begun = 25;
        assert_eq!(losses.newly(20), 3);
        assert!(losses.is_told(20));
    }
}
