//! What has happened to the pods lately: one episode for each closing of a gate.
//!
//! The lines of the log are the only source. What people are told in sum (the log's last line on a
//! hold, Events, metrics, timelines) comes from here, so that all of it agrees.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{
    CloseReason, Epoch, Exemption, HeldConnect, Line, Monotonic, Observed, OpenReason, PodRef,
    PodUid, Stamp, Totals, WorkloadFacts,
};

mod entry;
mod episode;
mod pace;
mod words;

use self::episode::Before;
pub use self::{
    entry::Entry,
    episode::{ConnectSpan, ContainerSpan, Episode, Fate},
    pace::Saying,
};

/// Episodes that are remembered after their end: the last start of each pod of a full node (110,
/// kubelet's default).
const MAX_ENDED: usize = 128;

/// Ended episodes in which nobody had come when they ended: they are nobody's story, unless a report of
/// the kernel is read so late that it belongs to one. A second's worth of pods that come and go.
const MAX_UNTOUCHED: usize = 64;

/// Episodes that go on: as many as there can be gates.
const MAX_RUNNING: usize = 4096;

/// The episodes of a node's pods.
#[derive(Debug)]
pub struct History {
    epoch: Epoch,
    next_id: u64,
    running: HashMap<PodUid, Episode>,
    ended: VecDeque<Episode>,
    untouched: VecDeque<Episode>,
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
    /// A gate has closed: not told before, and not by an agent before this one.
    pub closes: bool,
    /// A gate that an agent before this one had not closed is known to be that of a pod to hold.
    pub becomes_known: bool,
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
        let (running, ended, untouched) = (HashMap::new(), VecDeque::new(), VecDeque::new());
        let (totals, observed) = (Totals::default(), Observed::default());
        Self { epoch, next_id: 1, running, ended, untouched, totals, observed }
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
        self.untouched.retain(|episode| episode.pod.uid != *uid);
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
            Line::GateFailed { trials: 0, .. } => totals.failed_gates += 1,
            _ => {}
        }
    }

    fn begin(&mut self, pod: &PodRef, line: &Line, now: Monotonic) -> Noted {
        let at = match line {
            Line::GateClosed { at, .. } => *at,
            _ => now,
        };
        let closed_at = self.epoch.stamp(at);
        let goes_on = self.running.get(&pod.uid).and_then(|episode| {
            (episode.opened_at.is_none()).then(|| episode.goes_on_as(closed_at)).flatten()
        });
        let mut replaced = None;
        if goes_on.is_none() {
            replaced =
                self.running.remove(&pod.uid).map(|episode| Box::new(self.bury(episode, now)));
            self.start(pod, closed_at, now);
        }
        let closes = match goes_on {
            Some(before) => before == Before::OfConnect,
            None => matches!(line, Line::GateClosed { .. }),
        };
        let was_known =
            self.running.get(&pod.uid).is_some_and(|episode| episode.enabled_by.is_some());
        if let Some(episode) = self.running.get_mut(&pod.uid) {
            episode.closed_at = closed_at;
            episode.is_inherited = matches!(line, Line::GateInherited { .. });
        }
        let noted = self.go_on(pod, line, now);
        let is_known = matches!(line, Line::GateClosed { enabled_by: Some(_), .. });
        let becomes_known = is_known && !was_known && goes_on != Some(Before::Inherited);
        Noted { closes, becomes_known, ended: replaced, ..noted }
    }

    fn start(&mut self, pod: &PodRef, closed_at: Stamp, now: Monotonic) {
        self.make_room(now);
        let episode = Episode::new(self.next_id, pod.clone(), closed_at);
        self.next_id += 1;
        self.running.insert(pod.uid.clone(), episode);
    }

    fn go_on(&mut self, pod: &PodRef, line: &Line, now: Monotonic) -> Noted {
        let epoch = self.epoch;
        // The kernel's reports may be read after the end of what they are about.
        if let Some(connect) = line.connect() {
            let is_end = matches!(line, Line::Released { .. });
            match self.running.get(&pod.uid) {
                Some(running) if !is_end || !running.has_ended_all() => {}
                None if !self.is_of_ended(pod, connect, is_end) => {
                    if !is_end {
                        self.start(pod, epoch.stamp(now), now);
                    }
                }
                _ => {
                    if let Some(noted) = self.amend(pod, line, now) {
                        return noted;
                    }
                }
            }
        }
        let Some(episode) = self.running.get_mut(&pod.uid) else { return Noted::default() };
        // The API may have named it since.
        if pod.name.is_some() {
            episode.pod.clone_from(pod);
        }
        episode.record(line, now, epoch)
    }

    /// Whether a connect belongs to the pod's last episode that has ended: it was called before that
    /// end. Of an end of a wait nothing else is possible.
    fn is_of_ended(&self, pod: &PodRef, connect: &HeldConnect, is_end: bool) -> bool {
        let called_at = self.epoch.stamp(connect.caller.connect_at);
        let ended = self.ended.iter().chain(&self.untouched);
        let last = ended.filter(|episode| episode.pod.uid == pod.uid).max_by_key(|last| last.id);
        last.is_some_and(|last| is_end || last.ended_at.is_none_or(|end| called_at <= end))
    }

    /// Adds a line to the pod's last episode that has ended, if there is one.
    fn amend(&mut self, pod: &PodRef, line: &Line, now: Monotonic) -> Option<Noted> {
        let is_ours = |episode: &&mut Episode| episode.pod.uid == pod.uid;
        let shown = self.ended.iter_mut().rev().find(is_ours).map(|episode| episode.id);
        let untouched = self.untouched.iter().rposition(|episode| episode.pod.uid == pod.uid);
        // The later of the two; one in which somebody has come is worth telling of from now on.
        if let Some(index) = untouched
            && shown.is_none_or(|id| self.untouched[index].id > id)
        {
            let episode = self.untouched.remove(index)?;
            self.keep(episode);
        }
        let episode = self.ended.iter_mut().rev().find(is_ours)?;
        let before = episode.tally();
        let noted = episode.record(line, now, self.epoch);
        self.observed.amend(episode, before);
        Some(noted)
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
        if (was_none || episode.observes) && episode.touched() == 0 {
            self.untouched.push_back(episode);
            if self.untouched.len() > MAX_UNTOUCHED {
                self.untouched.pop_front();
            }
        } else {
            self.keep(episode);
        }
        ended
    }

    /// Keeps an ended episode for whoever asks.
    fn keep(&mut self, episode: Episode) {
        self.ended.push_back(episode);
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_front();
        }
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
