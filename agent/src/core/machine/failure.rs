//! A gate that could not be worked: its programs come off, and nothing of its pod waits. What was
//! wanting on the node may be there again a moment later; then the gate is worked after all, if the
//! proxy is still not ready.

use std::time::Duration;

use super::{evaluate::Context, gate::GatePhase, pod::Pod};
use crate::core::{Action, CgroupId, Line, Monotonic};

/// The first trial comes so long after a failure; each further one twice as late as the one before.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Further apart they do not get: a pod starts for some tens of seconds.
const RETRY_AT_MOST: Duration = Duration::from_secs(5);

/// No trial later than this after the first failure: as long as a hold lasts by default.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// A gate that has stood for so long fails for another reason, or for the same one anew.
const FORGET_AFTER: Duration = Duration::from_secs(20);

/// A gate that could not be renewed is tried again so much later, or sooner if the kernel opens it soon.
const RENEW_AFTER: Duration = Duration::from_millis(250);

/// Of the time until the kernel opens it, no more than this part passes before the next trial.
const RENEW_BEFORE_END: u32 = 4;

/// Trials come no faster: the task's timer goes by milliseconds.
const RENEW_AT_LEAST_AFTER: Duration = Duration::from_millis(1);

/// How a gate has failed, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failures {
    first: Monotonic,
    last: Monotonic,
    count: u32,
    /// What was wanting the last time may be there again.
    may_pass: bool,
}

/// Verdicts that the kernel could not be told: their containers are held meanwhile, as those of which
/// nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untold {
    last: Monotonic,
    count: u32,
    /// When they are told again; `None`: they have been, since.
    pub(super) again_at: Option<Monotonic>,
}

/// How long after the failure number `count` the next trial comes; `None`: it is one of too many.
fn retry_after(count: u32) -> Option<Duration> {
    let doubled = RETRY_AFTER.saturating_mul(1_u32.checked_shl(count - 1)?);
    Some(doubled.min(RETRY_AT_MOST))
}

// === impl Failures ===

impl Failures {
    /// With one more.
    fn and_one(before: Option<Self>, now: Monotonic, may_pass: bool) -> Self {
        let (first, count) = match before.filter(|before| now < before.last + FORGET_AFTER) {
            Some(before) => (before.first, before.count.saturating_add(1)),
            None => (now, 1),
        };
        Self { first, last: now, count, may_pass }
    }

    /// When it is tried again; `None`: not any more.
    fn retry_at(self) -> Option<Monotonic> {
        if !self.may_pass {
            return None;
        }
        let at = self.last + retry_after(self.count)?;
        (at < self.first + RETRY_FOR).then_some(at)
    }
}

// === impl Pod ===

impl Pod {
    /// The gate could not be worked: its programs come off. Told once, and once more when it is not
    /// tried again, however often it was.
    pub(super) fn failed(
        &mut self,
        error: String,
        may_pass: bool,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        // What failed went with its cgroup; what stands on the next one is still to be taken over.
        if self.cgroup.is_none() {
            return;
        }
        let failures = Failures::and_one(self.failures, now, may_pass);
        let was_last = self.failures.is_none_or(|before| before.retry_at().is_none());
        self.failures = Some(failures);
        let retry_at = failures.retry_at();
        let trials = failures.count - 1;
        if trials == 0 || (retry_at.is_none() && !was_last) {
            let (error, again) = (error.clone(), retry_at.is_some());
            self.log(Line::GateFailed { error, again, trials }, actions);
        }
        self.error = Some(error);
        self.let_go(now, actions);
        self.gate = GatePhase::Failed { retry_at };
        self.note_phase(now);
    }

    /// The kernel has still what it had, and opens a closed gate at `stands`: it is told anew, before
    /// that. Where it is only to be looked, what it had may hold, and nobody must wait for that.
    pub(super) fn not_renewed(
        &mut self,
        error: String,
        stands: Option<Monotonic>,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        if self.observes {
            return self.failed(error, true, now, actions);
        }
        let mut after = RENEW_AFTER;
        if let GatePhase::Closed { deadline, renew_at, .. } = &mut self.gate {
            *deadline = stands.map_or(*deadline, |stands| stands.min(*deadline));
            after = after.min(deadline.since(now) / RENEW_BEFORE_END).max(RENEW_AT_LEAST_AFTER);
            if let Some(renew_at) = renew_at {
                *renew_at = now + after;
            }
        }
        self.renew_again_at = Some(now + after);
    }

    /// Has the kernel told anew, if the time for that has come.
    pub(super) fn renew_again(&mut self, now: Monotonic) {
        self.tells_again |= self.renew_again_at.take_if(|at| now >= *at).is_some();
        if let Some(untold) = &mut self.untold {
            untold.again_at.take_if(|at| now >= *at);
        }
    }

    /// The kernel has no verdict of this container, so it holds it.
    pub(super) fn verdict_failed(&mut self, container: CgroupId, now: Monotonic) {
        let mut containers = self.containers.values_mut();
        let Some(container) = containers.find(|one| one.cgroup == container) else { return };
        container.told = None;
        let count = match self.untold {
            // Of several that fail at once.
            Some(Untold { last, count, .. }) if last == now => count,
            Some(Untold { count, .. }) => count.saturating_add(1),
            None => 1,
        };
        let again_at = Some(now + retry_after(count).unwrap_or(RETRY_AT_MOST));
        self.untold = Some(Untold { last: now, count, again_at });
    }

    /// Whether verdicts are left untold for a moment, because they could not be told just now.
    pub(super) fn leaves_untold(&self) -> bool {
        self.untold.is_some_and(|untold| untold.again_at.is_some())
    }

    /// Has it tried whether the programs can be worked again, if the time for that has come.
    pub(super) fn prove(
        &mut self,
        retry_at: Option<Monotonic>,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        if retry_at.is_none_or(|at| context.now < at) {
            return false;
        }
        let (uid, cgroup) = (self.uid.clone(), context.cgroup);
        actions.push(Action::ProveGate { uid, cgroup });
        // How it went is told before anything else happens.
        self.gate = GatePhase::Failed { retry_at: None };
        false
    }

    /// A gate that had failed is worked again; but the pod has run without one meanwhile, so its proxy
    /// is asked first.
    pub(super) fn begin_anew(&mut self) {
        if matches!(self.gate, GatePhase::Failed { .. }) {
            self.gate = GatePhase::Absent;
            self.late = true;
        }
    }
}
