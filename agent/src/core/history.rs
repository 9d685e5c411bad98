//! What has happened to the pods lately: one episode for each closing of a gate.
//!
//! The lines of the log are the only source. What people are told in sum (the log's last line on a
//! hold, Events, metrics, timelines) comes from here, so that all of it agrees.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{
    CloseReason, Epoch, Exemption, Line, Monotonic, Observed, OpenReason, PodRef, PodUid, Totals,
    WorkloadFacts,
};

mod entry;
mod episode;
mod pace;
mod words;

pub use self::{
    entry::Entry,
    episode::{ConnectSpan, ContainerSpan, Episode, Fate},
    pace::Saying,
};

/// Episodes that are remembered after their end: the last start of each pod of a full node (110,
/// kubelet's default).
const MAX_ENDED: usize = 128;

/// Episodes that go on: as many as there can be gates.
const MAX_RUNNING: usize = 4096;

/// The episodes of a node's pods.
#[derive(Debug)]
pub struct History {
    epoch: Epoch,
    next_id: u64,
    running: HashMap<PodUid, Episode>,
    ended: VecDeque<Episode>,
    totals: Totals,
    observed: Observed,
}

/// What a line comes to, given what came before it.
#[derive(Debug, Default)]
pub struct Noted {
    /// Whether it is worth a line of the log.
    pub saying: Saying,
    /// It is about a gate of a pod of which the API has not told, and at which nobody has waited.
    pub quiet: bool,
    /// It is about a pod that nobody enabled, and which is observed.
    pub observes: bool,
    /// It is the first connect of its episode that waits, fails or is observed.
    pub first: bool,
    /// An episode began with it.
    pub began: bool,
    /// It is a connect that was established so long after its proxy was ready.
    pub after_ready: Option<Duration>,
    /// The episode that ended with it.
    pub ended: Option<Box<Episode>>,
}

// === impl History ===

impl History {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        let (running, ended) = (HashMap::new(), VecDeque::new());
        let (totals, observed) = (Totals::default(), Observed::default());
        Self { epoch, next_id: 1, running, ended, totals, observed }
    }

    /// The clock by which its stamps are made.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes in a line that was told at `now`.
    pub fn record(&mut self, pod: &PodRef, line: &Line, now: Monotonic) -> Noted {
        self.count(pod, line);
        match line {
            Line::GateClosed { .. } | Line::GateInherited { reason: Some(_), .. } => {
                self.begin(pod, line, now)
            }
            Line::GateGuards | Line::GateDetached | Line::GateFailed { .. } => {
                self.end(pod, line, now)
            }
            _ => self.go_on(pod, line, now),
        }
    }

    /// What has happened since the beginning.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What was found out about the workloads whose pods were held or observed, by name; what goes on
    /// is part of it.
    #[must_use]
    pub fn workloads(&self) -> Vec<WorkloadFacts> {
        let mut observed = self.observed.clone();
        let mut running: Vec<&Episode> = self.running.values().collect();
        running.sort_by_key(|episode| episode.id);
        for episode in running {
            observed.add(episode);
        }
        observed.by_name()
    }

    /// A pod is gone: so is whatever went on with it.
    pub fn forget(&mut self, uid: &PodUid, now: Monotonic) {
        if let Some(episode) = self.running.remove(uid) {
            self.bury(episode, now);
        }
    }

    /// The episodes, the latest first; those that go on before those that have ended.
    pub fn episodes(&self) -> impl Iterator<Item = &Episode> {
        let mut running: Vec<&Episode> = self.running.values().collect();
        running.sort_by_key(|episode| std::cmp::Reverse(episode.id));
        running.into_iter().chain(self.ended.iter().rev())
    }

    /// The episode that goes on with this pod.
    #[must_use]
    pub fn running(&self, uid: &PodUid) -> Option<&Episode> {
        self.running.get(uid)
    }

    fn count(&mut self, pod: &PodRef, line: &Line) {
        let observes = self.running.get(&pod.uid).is_some_and(|episode| episode.observes);
        let totals = &mut self.totals;
        match line {
            Line::Held(_) => totals.held += 1,
            Line::GateInherited { held, .. } => totals.held += *held as u64,
            Line::Refused { .. } => totals.refused += 1,
            Line::Observed { .. } => totals.observed += 1,
            Line::Released { outcome, .. } => *totals.outcomes.entry(*outcome).or_default() += 1,
            // What only observes keeps nobody waiting until its time is up.
            Line::GateOpened { reason: OpenReason::Deadline, .. } if observes => {}
            Line::GateOpened { reason: OpenReason::Deadline, .. }
            | Line::DeadlineRefuses { .. } => {
                totals.timed_out_gates += 1;
            }
            Line::GateFailed { .. } => totals.failed_gates += 1,
            _ => {}
        }
    }

    fn begin(&mut self, pod: &PodRef, line: &Line, now: Monotonic) -> Noted {
        let at = match line {
            Line::GateClosed { at, .. } => *at,
            _ => now,
        };
        // Told again, or of a connect that was told first.
        let goes_on = self.running.get(&pod.uid).is_some_and(|episode| {
            episode.opened_at.is_none()
                && (episode.reason.is_none() || episode.closed_at == self.epoch.stamp(at))
        });
        if !goes_on {
            self.forget(&pod.uid, now);
            self.make_room(now);
            let episode = Episode::new(self.next_id, pod.clone(), self.epoch.stamp(at));
            self.next_id += 1;
            self.running.insert(pod.uid.clone(), episode);
        }
        Noted { began: !goes_on, ..self.go_on(pod, line, now) }
    }

    fn go_on(&mut self, pod: &PodRef, line: &Line, now: Monotonic) -> Noted {
        let epoch = self.epoch;
        let is_connect = matches!(
            line,
            Line::Held(_) | Line::Refused { .. } | Line::Observed { .. } | Line::Released { .. }
        );
        let late = |episode: &&mut Episode| episode.pod.uid == pod.uid && !episode.guards;
        if is_connect && !self.running.contains_key(&pod.uid) {
            // The kernel's reports may be read after the end of what they are about.
            if let Some(episode) = self.ended.iter_mut().rev().find(late) {
                let before = episode.tally();
                let noted = episode.record(line, now, epoch);
                self.observed.amend(episode, before);
                return noted;
            }
            if !matches!(line, Line::Released { .. }) {
                self.make_room(now);
                let episode = Episode::new(self.next_id, pod.clone(), epoch.stamp(now));
                self.next_id += 1;
                self.running.insert(pod.uid.clone(), episode);
            }
        }
        let Some(episode) = self.running.get_mut(&pod.uid) else { return Noted::default() };
        // The API may have named it since.
        if pod.name.is_some() {
            episode.pod.clone_from(pod);
        }
        episode.record(line, now, epoch)
    }

    fn end(&mut self, pod: &PodRef, line: &Line, now: Monotonic) -> Noted {
        let noted = self.go_on(pod, line, now);
        let Some(mut episode) = self.running.remove(&pod.uid) else { return noted };
        episode.guards = matches!(line, Line::GateGuards);
        let ended = self.bury(episode, now);
        Noted { ended: Some(Box::new(ended)), ..noted }
    }

    fn bury(&mut self, mut episode: Episode, now: Monotonic) -> Episode {
        episode.ended_at = Some(self.epoch.stamp(now));
        self.observed.add(&episode);
        let ended = episode.clone();
        // Every pod's gate is closed until the API tells what it is: most of these are nobody's start.
        let was_none = matches!(
            episode.open_reason,
            Some(OpenReason::Exempt(exemption)) if exemption != Exemption::Operator
        );
        // And what was observed of a start at which nobody came too early is a number.
        if !((was_none || episode.observes) && episode.touched() == 0) {
            self.ended.push_back(episode);
            if self.ended.len() > MAX_ENDED {
                self.ended.pop_front();
            }
        }
        ended
    }

    fn make_room(&mut self, now: Monotonic) {
        if self.running.len() < MAX_RUNNING {
            return;
        }
        let oldest = self.running.values().min_by_key(|episode| episode.id);
        if let Some(uid) = oldest.map(|episode| episode.pod.uid.clone()) {
            self.forget(&uid, now);
        }
    }
}

impl Episode {
    /// Whether nothing has come of it that anybody would want to know.
    fn is_quiet(&self) -> bool {
        self.observes
            || (self.enabled_by.is_none()
                && self.touched() == 0
                && self.reason != Some(CloseReason::Operator))
    }
}

#[cfg(test)]
mod tests;
