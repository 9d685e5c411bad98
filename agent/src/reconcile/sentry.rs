//! What this agent does for the sentry: tells it as of which pod it would be needed, and relieves one
//! that is posted as soon as it is not.

use crate::{
    bpf::{BpfError, Sentry},
    clock,
    core::{CgroupId, Monotonic},
};

/// The sentry's books. Ids of cgroups only grow, so one number tells which pods were taken up.
#[derive(Debug)]
pub(super) struct SentryBooks {
    sentry: Sentry,
    /// What an agent before this one has taken up.
    inherited: CgroupId,
    /// What an agent has taken up, as the kernel was told.
    taken_up: CgroupId,
    /// All pods up to this one have been reported and treated; `None` until the first report.
    complete: Option<CgroupId>,
    /// All cgroups have been listed: this agent works, whatever the API tells.
    listed: bool,
    /// It is on its post, or another version's is.
    is_posted: bool,
    /// When the kernel relieves it; of another version's that is not known.
    until: Option<Monotonic>,
    /// When nobody whom a sentry has held before it was relieved needs its programs any more.
    settles_at: Option<Monotonic>,
}

// === impl SentryBooks ===

impl SentryBooks {
    pub(super) fn open(sentry: Sentry) -> Result<Self, BpfError> {
        let inherited = sentry.taken_up()?;
        let mut books = Self {
            sentry,
            inherited,
            taken_up: inherited,
            complete: None,
            listed: false,
            is_posted: false,
            until: None,
            settles_at: None,
        };
        books.look()?;
        // An agent has relieved it, and died before it had settled.
        if !books.is_posted && books.sentry.is_there() {
            books.settles_at = Some(clock::now() + Sentry::SETTLE);
        }
        Ok(books)
    }

    /// Looks whether one is on its post.
    fn look(&mut self) -> Result<(), BpfError> {
        self.until = self.sentry.until()?;
        self.is_posted = self.until.is_some() || self.sentry.is_posted_elsewhere();
        Ok(())
    }

    /// Only now nobody posts it any more: one may have been posted since the last look.
    pub(super) fn look_again(&mut self) {
        if let Err(error) = self.look() {
            tracing::debug!(%error, "it cannot be told whether a sentry is posted; taken for posted");
            self.is_posted = true;
        }
        // What it has on a cgroup belongs to the one that is posted.
        if self.is_posted {
            self.settles_at = None;
        }
    }

    /// All cgroups have been listed, and what was reported has been done.
    pub(super) fn listed(&mut self) {
        self.listed = true;
    }

    /// All pods up to this one have been reported, and what was reported has been done.
    pub(super) fn complete(&mut self, up_to: CgroupId) {
        self.complete = Some(up_to);
    }

    /// For an armed agent: draws what follows, while it is open of the pods `undecided` whether they
    /// get a gate. Returns how many connects the sentry has held, if it was relieved.
    pub(super) fn keep(&mut self, undecided: impl Iterator<Item = CgroupId>) -> Option<u64> {
        let complete = self.complete?;
        if !self.is_posted && self.taken_up >= complete {
            return None;
        }
        // Those that an agent had taken up before are no business of the sentry's.
        let first = undecided.filter(|pod| *pod > self.inherited).min();
        let taken_up = first.map_or(complete, |first| complete.min(CgroupId(first.0 - 1)));
        if taken_up > self.taken_up {
            match self.sentry.set_taken_up(taken_up) {
                Ok(()) => self.taken_up = taken_up,
                Err(error) => tracing::debug!(%error, "more pods than need be are the sentry's"),
            }
        }
        if first.is_some() { None } else { self.relieve() }
    }

    /// Relieves it when its time is up, armed or not: it holds nobody any more, and would cost every
    /// packet of every pod for nothing; nor would it be posted again at this agent's end. Returns as
    /// [`Self::keep`].
    pub(super) fn relieve_in_time(&mut self) -> Option<u64> {
        let is_due = self.relieve_at().is_some_and(|until| until <= clock::now());
        if is_due { self.relieve() } else { None }
    }

    /// Takes off what was left for those whom the sentry had held.
    pub(super) fn settle(&mut self) {
        if self.settles_at.take_if(|at| *at <= clock::now()).is_some() {
            self.sentry.settle();
        }
    }

    /// When [`Self::relieve_in_time`] or [`Self::settle`] has something to do.
    pub(super) fn due(&self) -> Option<Monotonic> {
        self.relieve_at().into_iter().chain(self.settles_at).min()
    }

    /// An agent that dies before it has listed the cgroups has not worked: crashes in a row do not
    /// prolong the sentry's time.
    fn relieve_at(&self) -> Option<Monotonic> {
        self.until.filter(|_| self.listed)
    }

    fn relieve(&mut self) -> Option<u64> {
        if !std::mem::take(&mut self.is_posted) {
            return None;
        }
        self.until = None;
        self.settles_at = Some(clock::now() + Sentry::SETTLE);
        match self.sentry.relieve() {
            Ok(held) => {
                if let Some(held) = held {
                    tracing::info!(held, "sentry relieved: this agent works");
                }
                held
            }
            Err(error) => {
                tracing::warn!(%error, "sentry relieved; what it has held cannot be told");
                None
            }
        }
    }
}
