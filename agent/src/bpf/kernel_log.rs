//! Reading the debug lines of the loud programs.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
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
    reader: Option<Reader>,
}

struct Reader {
    thread: JoinHandle<()>,
    /// The thread ends with this.
    _wanted: PipeWriter,
}

struct Buffer {
    logger: Mutex<EbpfLogger<Counted>>,
    sink: Counted,
}

/// Counts what arrives, and tells what does not. It looks at its own time, also between two lines:
/// under a flood the buffer never is empty.
#[derive(Clone)]
struct Counted {
    sink: LineSink,
    /// How many lines the programs began to write.
    begun: Arc<dyn Fn() -> u64 + Send + Sync>,
    losses: Arc<Mutex<Losses>>,
}

/// Finds out how many lines found the buffer full: those that were begun and never came. A line is
/// begun a moment before it is there, so what is compared with what has come was counted a while
/// ago.
struct Losses {
    received: u64,
    begun: u64,
    told: u64,
    looked: Instant,
    /// What had been received then.
    seen: u64,
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
        let begun = move || begun.get(&0, 0).map_or(0, |counts| counts.iter().sum());
        let sink = Counted {
            sink,
            begun: Arc::new(begun),
            losses: Arc::new(Mutex::new(Losses::new(Instant::now()))),
        };
        let logger = EbpfLogger::init_with_logger(ebpf, sink.clone())
            .map_err(|source| BpfError::Log(Box::new(source)))?;
        let buffer = Arc::new(Buffer { logger: Mutex::new(logger), sink });
        Ok(Self { buffer, reader: None })
    }

    /// Has the lines read from now on. Idle, that costs a sleeping thread.
    pub(super) fn start(&mut self) -> Result<(), BpfError> {
        // One that has failed is followed by another.
        if self.reader.as_ref().is_some_and(|reader| !reader.thread.is_finished()) {
            return Ok(());
        }
        let (stopped, wanted) = io::pipe().map_err(BpfError::Ring)?;
        let buffer = Arc::clone(&self.buffer);
        let thread = thread::Builder::new()
            .name("kernel-log".to_owned())
            .spawn(move || {
                if let Err(error) = buffer.read(&stopped) {
                    tracing::warn!(%error, "kernel debug lines have ended");
                }
            })
            .map_err(BpfError::Ring)?;
        self.reader = Some(Reader { thread, _wanted: wanted });
        Ok(())
    }
}

// === impl Buffer ===

impl Buffer {
    fn read(&self, stopped: &PipeReader) -> io::Result<()> {
        // Whether something may have to be told although no further line comes.
        let mut is_pending = false;
        loop {
            let has_ended = self.wait(stopped, is_pending)?;
            self.logger.lock().unwrap_or_else(PoisonError::into_inner).flush();
            is_pending = if has_ended || self.sink.losses().looked.elapsed() >= LOOK {
                self.sink.look()
            } else {
                true
            };
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
    const fn new(now: Instant) -> Self {
        Self { received: 0, begun: 0, told: 0, looked: now, seen: 0 }
    }

    /// What is known to be lost since the last call.
    fn newly(&mut self) -> u64 {
        let lost = self.begun.saturating_sub(self.received);
        let new = lost.saturating_sub(self.told);
        self.told += new;
        new
    }

    const fn is_told(&self) -> bool {
        self.begun <= self.received + self.told
    }

    /// Begins the time until the next look; returns whether that may find something although no
    /// further line comes.
    fn begin(&mut self, begun: u64, now: Instant) -> bool {
        let is_pending = self.received != self.seen;
        (self.begun, self.looked, self.seen) = (begun, now, self.received);
        is_pending || !self.is_told()
    }
}

// === impl Counted ===

impl Counted {
    fn losses(&self) -> MutexGuard<'_, Losses> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what was lost, and has the sink do the same; returns whether there may be more to tell
    /// although no further line comes.
    fn look(&self) -> bool {
        let lost = self.losses().newly();
        if lost > 0 {
            tracing::warn!(lost, "kernel debug lines lost: they came faster than they were read");
        }
        self.sink.flush();
        self.losses().begin((self.begun)(), Instant::now())
    }
}

impl Log for Counted {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.sink.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let is_time = {
            let mut losses = self.losses();
            losses.received += 1;
            losses.looked.elapsed() >= LOOK
        };
        self.sink.log(record);
        if is_time {
            self.look();
        }
    }

    fn flush(&self) {
        self.sink.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_was_begun_and_never_came_is_lost_and_told_once() {
        let mut losses = Losses::new(Instant::now());
        assert_eq!(losses.newly(), 0);
        // Ten were begun, eight have come: two are on their way or lost.
        (losses.begun, losses.received) = (10, 8);
        assert!(!losses.is_told());
        assert_eq!(losses.newly(), 2);
        assert!(losses.is_told());
        assert_eq!(losses.newly(), 0);
        // More have come than had been begun when that was counted.
        losses.received = 20;
        assert_eq!(losses.newly(), 0);
        losses.begun = 25;
        assert_eq!(losses.newly(), 3);
        assert!(losses.is_told());
    }

    /// Counts how often it is told to flush.
    #[derive(Default)]
    struct Flushes(AtomicU64);

    impl Log for Flushes {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, _: &Record<'_>) {}

        fn flush(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_flood_that_never_ends_does_not_keep_losses_from_being_told() {
        let flushes = Arc::new(Flushes::default());
        let counted = Counted {
            sink: Arc::clone(&flushes) as LineSink,
            begun: Arc::new(|| 10),
            losses: Arc::new(Mutex::new(Losses::new(Instant::now()))),
        };
        for (looks, told) in [(1, 0), (2, 8)] {
            // As if the time for a look had come since the line before.
            counted.losses().looked -= LOOK;
            counted.log(&Record::builder().build());
            assert_eq!(flushes.0.load(Ordering::Relaxed), looks);
            assert_eq!(counted.losses().told, told);
        }
        assert_eq!(counted.losses().received, 2);
    }
}
