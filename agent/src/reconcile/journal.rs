//! What happens to the pods, told to all who want to know: the log, Kubernetes Events, the stream
//! of entries, the metrics, and the history that sums it up.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::broadcast;

use super::{log, notice};
use crate::{
    clock,
    cluster::EventSink,
    core::{Entry, Episode, Epoch, History, Line, PodRef, PodUid, Stamp, Totals, WorkloadFacts},
    metrics::Counts,
};

/// Entries that are kept for whoever asks later.
const RECENT: usize = 512;

/// Entries that a reader of the stream may be behind; then it loses some, and is told how many.
pub(crate) const BEHIND: usize = 4096;

/// Tells. The agent never waits for who is told.
#[derive(Debug)]
pub struct Journal {
    history: History,
    counts: Counts,
    events: EventSink,
    recent: VecDeque<Told>,
    stream: EntryStream,
    next_seq: u64,
}

/// What an entry is made of, when somebody wants it: a hold has one in a burst of thousands, and an
/// entry's fields cost more than all else that is done about it.
#[derive(Debug)]
struct Told {
    seq: u64,
    at: Stamp,
    pod: PodRef,
    line: Line,
}

/// The entries as they come; there before the journal is, for who waits for the first. Clones are of
/// the same journal.
#[derive(Clone, Debug)]
pub struct EntryStream {
    entries: broadcast::Sender<Arc<Entry>>,
    lost: Arc<AtomicU64>,
}

impl Default for EntryStream {
    fn default() -> Self {
        Self { entries: broadcast::Sender::new(BEHIND), lost: Arc::default() }
    }
}

// === impl EntryStream ===

impl EntryStream {
    /// Entries from now on. A reader that falls behind loses the oldest.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.entries.subscribe()
    }

    /// Notes that a reader has lost so many.
    pub fn note_lost(&self, entries: u64) {
        self.lost.fetch_add(entries, Relaxed);
    }

    /// How many all readers have lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Tells all readers, without waiting for any.
    pub(crate) fn tell(&self, entry: Arc<Entry>) {
        // Fails if nobody listens.
        let _: Result<usize, _> = self.entries.send(entry);
    }

    /// How many there are.
    pub(crate) fn readers(&self) -> usize {
        self.entries.receiver_count()
    }
}

// === impl Told ===

impl Told {
    fn entry(&self) -> Entry {
        Entry::new(self.seq, self.at, self.pod.clone(), &self.line)
    }
}

// === impl Journal ===

impl Journal {
    /// Nothing has happened yet. What happens is told to `events`, and comes by `stream`.
    #[must_use]
    pub fn new(epoch: Epoch, events: EventSink, stream: EntryStream, counts: Counts) -> Self {
        let (history, recent) = (History::new(epoch), VecDeque::new());
        Self { history, counts, events, recent, stream, next_seq: 1 }
    }

    /// The clock by which its stamps are made.
    pub(super) const fn epoch(&self) -> Epoch {
        self.history.epoch()
    }

    /// What has happened lately.
    pub(super) fn episodes(&self) -> Vec<Episode> {
        self.history.episodes().cloned().collect()
    }

    /// What has happened since the agent was started.
    pub(super) fn totals(&self) -> Totals {
        self.history.totals().clone()
    }

    /// What was found out about the workloads.
    pub(super) fn workloads(&self) -> Vec<WorkloadFacts> {
        self.history.workloads()
    }

    /// The last entries, the oldest first.
    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        self.recent.iter().map(|told| Arc::new(told.entry())).collect()
    }

    /// Tells of one line.
    pub(super) fn record(&mut self, pod: PodRef, line: Line) {
        let now = clock::now();
        let noted = self.history.record(&pod, &line, now);
        self.counts.record(&pod, &line, &noted);
        let at = self.history.epoch().stamp(now);
        // Whoever has not asked for anything finds nothing on his pods.
        if !noted.observes {
            let running = self.history.running(&pod.uid);
            notice::publish(&self.events, &pod, &line, &noted, running, at);
        }
        let told = Told { seq: self.next_seq, at, pod: pod.clone(), line: line.clone() };
        self.next_seq += 1;
        if self.stream.readers() > 0 {
            self.stream.tell(Arc::new(told.entry()));
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(told);
        log::line(pod.clone(), line, &noted, now);
        if let Some(episode) = noted.ended {
            log::summary(pod, &episode, now);
        }
    }

    /// A pod is gone.
    pub(super) fn forget(&mut self, uid: &PodUid) {
        self.history.forget(uid, clock::now());
        self.counts.forget_pod(uid);
    }

    /// Counters and histograms of what happens.
    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }
}
