//! An agent of the node: what it knows, and what is done of what it asks for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Result, ensure};

use super::{
    super::{super::gate::GatePhase, *},
    step::Setup,
    told::Told,
    world::{World, ms},
};
use crate::core::{Epoch, History, SetGate};

/// One agent's life.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) machine: Machine,
    pub(super) history: History,
    pub(super) told: Told,
    /// The gates that were found, and no pod yet that they belong to.
    pub(super) left: BTreeSet<CgroupId>,
    /// The pods that are asked, and what the probe has said.
    pub(super) probes: BTreeMap<PodUid, Option<bool>>,
    /// Those that a probe has called ready since it was started.
    pub(super) ready: BTreeSet<PodUid>,
    /// Connects that were told of as waiting, and those whose wait has ended.
    pub(super) waits: (u64, u64),
    /// Everything that has come in, and what came of it, if it is to be played again.
    pub(super) record: Option<Vec<(Event, Monotonic, Vec<Action>)>>,
    /// The last of each source.
    pub(super) last: BTreeMap<u8, Event>,
}

pub(super) fn rules_of(setup: Setup) -> Rules {
    let Setup { guard, observe, mode, on_timeout, timeout_ms, same_name: _ } = setup;
    let choices = Choices {
        guard: Some(guard),
        observe: Some(observe),
        mode: Some(mode),
        on_timeout: Some(on_timeout),
        timeout: Some(ms(timeout_ms)),
        ..Choices::default()
    };
    /// One mesh's is enough, and much faster to look through than all.
    static PROFILES: LazyLock<Profiles> = LazyLock::new(|| Profiles::builtin().only("istio"));
    let defaults = Defaults::default().with(choices);
    Rules { defaults, profiles: PROFILES.clone(), own_pod: None }
}

// === impl Agent ===

impl Agent {
    pub(super) fn new(setup: Setup, left: BTreeSet<CgroupId>, records: bool) -> Self {
        Self {
            machine: Machine::new(rules_of(setup)),
            history: History::new(Epoch::default()),
            told: Told::default(),
            left,
            probes: BTreeMap::new(),
            ready: BTreeSet::new(),
            waits: (0, 0),
            record: records.then(Vec::new),
            last: BTreeMap::new(),
        }
    }

    pub(super) fn phase(&self, uid: &PodUid) -> Option<GatePhase> {
        self.machine.pods.get(uid).map(|pod| pod.gate)
    }
}

impl World {
    pub(super) fn end_agent(&mut self) -> Result<()> {
        match self.agent.take().and_then(|agent| agent.record) {
            Some(record) => super::check::plays_the_same(self.setup, record),
            None => Ok(()),
        }
    }

    pub(super) fn start_agent(&mut self) {
        self.agent = Some(Agent::new(self.setup, self.kernel.left(), self.records));
        // What nobody is attached to is forgotten (`forget_stray`).
        self.kernel.gates.retain(|_, gate| !gate.is_dead);
        self.cluster.list_all();
        self.lost_news = false;
    }

    /// The agent takes in an event, and does what follows, as `reconcile.rs` does.
    pub(super) fn hear(&mut self, event: Event) -> Result<()> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(agent) = &mut self.agent else { return Ok(()) };
            agent.told.learn(&event);
            self.coverage.event(&event);
            let gone = match &event {
                Event::PodCgroupGone(uid) => Some(uid.clone()),
                _ => None,
            };
            // For whoever looks at a fault.
            let heard = self.records.then(|| event.clone());
            let before = self.coverage.phases(&agent.machine);
            let actions = agent.machine.apply(event, self.now);
            self.coverage.note(&before, &agent.machine);
            // What follows from an event must not wait for another one, unless a tick is due for it.
            let (settled, mut left) = (self.coverage.phases(&agent.machine), Vec::new());
            let due = |pod: &Pod| pod.next_wakeup().is_some_and(|at| at <= self.now);
            for uid in agent.machine.uids(|pod| !due(pod)) {
                agent.machine.evaluate(&uid, self.now, &mut left);
            }
            agent.machine.pods.settle();
            ensure!(
                left.is_empty() && settled == self.coverage.phases(&agent.machine),
                "left to a later event: {left:?}, and gates were {settled:?}"
            );
            if let (Some(record), Some(event)) = (&mut agent.record, &heard) {
                record.push((event.clone(), self.now, actions.clone()));
            }
            for action in actions {
                self.check_action(&action)?;
                events.extend(self.perform(action));
            }
            if let (Some(uid), Some(agent)) = (gone, &mut self.agent) {
                agent.history.forget(&uid, self.now);
            }
            if events.is_empty() {
                self.failed.clear();
                self.check_state().map_err(|error| match heard {
                    Some(event) => error.context(format!("after {event:?}")),
                    None => error,
                })?;
            }
        }
        Ok(())
    }

    fn count(&self, uid: PodUid, cgroup: CgroupId) -> Option<Event> {
        let reached = self.kernel.gates.get(&cgroup)?.reached;
        self.counts.then_some(Event::Counted { uid, reached, around: 0 })
    }

    /// Whether this gate is one of those that cannot be worked; if it is, whether that may pass.
    fn fails(&mut self) -> Option<bool> {
        let (count, may_pass) = &mut self.fails;
        *count = count.checked_sub(1)?;
        Some(*may_pass)
    }

    /// What the machine hears if the programs cannot be worked on this cgroup now: that it is not there
    /// any more, or what the node lacks.
    fn failure(&mut self, uid: &PodUid, cgroup: CgroupId) -> Option<Event> {
        if self.cluster.slot_of(cgroup).is_none() {
            return Some(Event::PodCgroupGone(uid.clone()));
        }
        let may_pass = self.fails()?;
        Some(Event::GateFailed { uid: uid.clone(), error: "no memory".to_owned(), may_pass })
    }

    /// As [`crate::bpf::Gates::set`], whose failure leaves a gate standing that has its deadline already.
    fn set(&mut self, set: &SetGate) -> Option<Event> {
        if let Some(agent) = self.agent.as_mut().filter(|_| !set.renews) {
            agent.told.closed(set.cgroup);
        }
        let Some(failure) = self.failure(&set.uid, set.cgroup) else {
            self.kernel.set(set);
            self.kernel.look_again(set.cgroup, self.now);
            return None;
        };
        let stands = self.kernel.gates.get(&set.cgroup).filter(|_| set.renews);
        if let Some(gate) = stands
            && let Event::GateFailed { uid, error, may_pass: true } = failure
        {
            let deadline = gate.is_closed().then(|| gate.deadline());
            self.failed.insert(set.cgroup);
            return Some(Event::GateNotRenewed { uid, error, deadline });
        }
        self.kernel.gates.remove(&set.cgroup);
        self.kernel.look_again(set.cgroup, self.now);
        self.failed.insert(set.cgroup);
        Some(failure)
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        let now = self.now;
        let agent = self.agent.as_mut()?;
        match action {
            Action::SetGate(set) => return self.set(&set),
            Action::OpenGate { uid, cgroup, replay } => {
                // A state is written, which does not need the cgroup.
                if let Some(may_pass) = self.fails() {
                    self.failed.insert(cgroup);
                    let error = "no memory".to_owned();
                    return Some(Event::GateFailed { uid, error, may_pass });
                }
                self.kernel.open(cgroup, &replay.unwrap_or_default(), now);
                self.kernel.look_again(cgroup, now);
                return self.count(uid, cgroup);
            }
            Action::ProveGate { uid, cgroup } => {
                let failure = self.failure(&uid, cgroup);
                self.coverage.word(if failure.is_some() { "not proven" } else { "proven" });
                return Some(failure.unwrap_or(Event::GateProven(uid)));
            }
            Action::DetachGate { uid: _, cgroup, containers } => {
                self.kernel.gates.remove(&cgroup);
                for container in containers {
                    self.kernel.verdicts.remove(&container);
                }
                self.kernel.look_again(cgroup, now);
            }
            Action::SetVerdict { container, verdict } => {
                self.kernel.verdicts.insert(container, verdict);
                let pods: Vec<CgroupId> = self.kernel.gates.keys().copied().collect();
                pods.into_iter().for_each(|pod| self.kernel.look_again(pod, now));
            }
            Action::ForgetVerdict { container } => drop(self.kernel.verdicts.remove(&container)),
            Action::CountGate { uid, cgroup } => return self.count(uid, cgroup),
            Action::Replay { held, .. } => self.kernel.replay(&held, now),
            Action::StartProbe { uid, .. } => {
                agent.ready.remove(&uid);
                agent.probes.insert(uid, None);
            }
            Action::StopProbe(uid) => drop(agent.probes.remove(&uid)),
            Action::SetPace { .. } | Action::LogNamespace(..) => {}
            Action::Log(pod, line) => {
                self.coverage.line(&line);
                match &line {
                    Line::Held(_) => agent.waits.0 += 1,
                    Line::GateInherited { held, .. } => agent.waits.0 += *held as u64,
                    Line::Released { .. } => agent.waits.1 += 1,
                    _ => {}
                }
                agent.history.record(&pod, &line, now);
            }
        }
        None
    }
}
