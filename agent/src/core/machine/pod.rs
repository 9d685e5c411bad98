//! One pod: its facts.

use std::{
    collections::{HashSet, VecDeque},
    mem::{Discriminant, discriminant},
    sync::Arc,
};

use super::{
    container::Containers,
    failure::{Failures, Untold},
    gate::GatePhase,
    waiting::Waiting,
};
use crate::core::{
    Action, CgroupId, ContainerId, Exemption, Finding, InheritedGate, Judgement, Line, Monotonic,
    OpenReason, Order, Plan, PodName, PodRef, PodUid, PodView, Problem, Proxy, Settings, Unused,
};

/// A pod's facts and the state of its gate.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) uid: PodUid,
    pub(super) view: Option<PodView>,
    /// What a bundle calls it, before the API does.
    pub(super) bundle_name: Option<PodName>,
    /// The API had it and has it no more.
    pub(super) deleted: bool,
    /// What follows from the API's objects; `None` until both the pod and its namespace are known.
    pub(super) judged: Option<Result<Arc<Plan>, Exemption>>,
    /// Its settings, whether or not they come to anything.
    pub(super) settings: Option<Settings>,
    /// What would be its proxy, if it were to be held.
    pub(super) would_be: Option<Proxy>,
    /// What applies while it is only observed; `None`: it is not one to observe.
    observation: Option<Arc<Plan>>,
    /// Pods like it are observed on this node.
    observed_by_default: bool,
    /// The operator wants it observed, until then.
    pub(super) watched_until: Option<Monotonic>,
    /// Somebody has chosen to hold it.
    wanted: bool,
    /// What else its report explains.
    pub(super) grounds: Grounds,
    /// What was wrong with its settings at the last look.
    problems: Vec<Problem>,
    /// The exemption that the log has told.
    told_exemption: Option<Exemption>,
    pub(super) order: Option<Order>,
    pub(super) cgroup: Option<CgroupId>,
    pub(super) containers: Containers,
    /// The names of the last containers that ended: the kernel's reports of them are read later.
    pub(super) ended: VecDeque<(CgroupId, String)>,
    /// A container of the proxy has had a process.
    pub(super) proxy_ran: bool,
    pub(super) host_network_seen: bool,
    /// The last answer of the probe since it was started.
    pub(super) probed: Option<bool>,
    /// What it came to last, and since when: for the log, nothing follows from it.
    pub(super) finding: Option<(Monotonic, Finding)>,
    /// Its containers may have run without a gate, so its proxy may be ready.
    pub(super) late: bool,
    /// The containers that the API told of before the pod's cgroup was made: none of them is in it.
    pub(super) former: HashSet<ContainerId>,
    pub(super) gate: GatePhase,
    /// The phase that the gate was last seen in, and since when it is in it.
    noted: (Discriminant<GatePhase>, Monotonic),
    /// Since when the gate is closed, or was when it was closed last.
    pub(super) closed_since: Option<Monotonic>,
    /// When the gate was closed, if that was told without the API's word on the pod.
    pub(super) closed_unknown: Option<Monotonic>,
    /// The gate was closed, or left to go on, in order to observe.
    pub(super) observes: bool,
    /// The gate that an agent before this one has left, until it has been looked at.
    pub(super) inherited: Option<InheritedGate>,
    /// Its settings are still those of that agent, which may have known more than the API has told
    /// this one yet.
    pub(super) keeps_settings: bool,
    /// What the kernel was told of its containers by an agent before this one is not known; as long as the cgroup is
    /// there, since a container may be found after the gate has gone.
    pub(super) inherits_verdicts: bool,
    /// The plan that the kernel and the probe were told of.
    pub(super) applied: Option<Arc<Plan>>,
    /// When the first connect that this closing of the gate holds was called.
    pub(super) first_wait: Option<Monotonic>,
    /// Of what the kernel has counted for this closing: how many had reached the proxy's port, and
    /// when it was known that there were no more. `None`: not told yet.
    pub(super) counted: Option<(u64, Monotonic)>,
    /// How many it had counted when the gate was opened last. `None`: not told yet.
    pub(super) reached: Option<u64>,
    /// How many the kernel has reported since the programs were attached, and when they were. `None`: by
    /// an agent before this one, which may have read some.
    pub(super) heard: Option<(u64, Monotonic)>,
    pub(super) held: Waiting,
    /// The container that was the proxy when it was last known to be ready.
    pub(super) ready_proxy: Option<ContainerId>,
    /// Init containers whose passing the log has told.
    pub(super) told_init: HashSet<String>,
    /// The log has told that nothing redirects it.
    pub(super) told_not_redirected: bool,
    /// Why its gate opened last, and when; `None`: it has not, since it was closed last.
    pub(super) opened: Option<(Monotonic, OpenReason)>,
    /// Why its programs could not be worked.
    pub(super) error: Option<String>,
    /// How it has failed until now.
    pub(super) failures: Option<Failures>,
    /// When the kernel is told again what it could not be told.
    pub(super) renew_again_at: Option<Monotonic>,
    /// It is time for that.
    pub(super) tells_again: bool,
    /// Verdicts that could not be written.
    pub(super) untold: Option<Untold>,
}

/// What its verdict rests on, for whoever asks why. Nothing follows from it.
#[derive(Debug, Default)]
pub(super) struct Grounds {
    /// See [`Judgement::unused`].
    pub(super) unused: Option<Unused>,
    /// See [`Judgement::wish`].
    pub(super) wish: Option<String>,
    /// See [`Judgement::namespace_problems`].
    pub(super) namespace_problems: Vec<Problem>,
}

/// Whether a pod is one to hold, as far as its facts tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Hold,
    /// Nobody enabled it; what would be held is noted.
    Observe,
    Exempt(Exemption),
    /// The API has not told enough yet.
    Unknown,
}

// === impl Pod ===

impl Pod {
    pub(super) fn new(uid: PodUid, now: Monotonic) -> Self {
        Self {
            uid,
            view: None,
            bundle_name: None,
            deleted: false,
            judged: None,
            settings: None,
            would_be: None,
            observation: None,
            observed_by_default: false,
            watched_until: None,
            wanted: false,
            grounds: Grounds::default(),
            problems: Vec::new(),
            told_exemption: None,
            order: None,
            cgroup: None,
            containers: Containers::new(),
            ended: VecDeque::new(),
            proxy_ran: false,
            host_network_seen: false,
            probed: None,
            finding: None,
            late: false,
            former: HashSet::new(),
            gate: GatePhase::Absent,
            noted: (discriminant(&GatePhase::Absent), now),
            closed_since: None,
            closed_unknown: None,
            observes: false,
            inherited: None,
            keeps_settings: false,
            inherits_verdicts: false,
            applied: None,
            first_wait: None,
            counted: None,
            reached: None,
            heard: None,
            held: Waiting::default(),
            ready_proxy: None,
            told_init: HashSet::new(),
            told_not_redirected: false,
            opened: None,
            error: None,
            failures: None,
            renew_again_at: None,
            tells_again: false,
            untold: None,
        }
    }

    pub(super) fn reference(&self) -> PodRef {
        let name =
            self.view.as_ref().map(|view| view.name.clone()).or_else(|| self.bundle_name.clone());
        let workload = self.view.as_ref().and_then(|view| view.workload.clone());
        PodRef { uid: self.uid.clone(), name, workload }
    }

    pub(super) fn log(&self, line: Line, actions: &mut Vec<Action>) {
        actions.push(Action::Log(self.reference(), line));
    }

    pub(super) fn standing(&self) -> Standing {
        match (self.standing_by_facts(), self.order) {
            (Standing::Hold | Standing::Observe | Standing::Unknown, Some(Order::Open { .. })) => {
                Standing::Exempt(Exemption::Operator)
            }
            (standing, _) => standing,
        }
    }

    /// Whatever the operator has ordered.
    pub(super) fn standing_by_facts(&self) -> Standing {
        if self.deleted {
            return Standing::Exempt(Exemption::Deleted);
        }
        match &self.judged {
            Some(Err(_)) if self.is_observed() => Standing::Observe,
            Some(Err(exemption)) => Standing::Exempt(*exemption),
            Some(Ok(_)) => Standing::Hold,
            // What was seen counts only until the API tells: a runtime that is slow to start a
            // sandbox looks the same.
            None if self.view.is_none() && self.host_network_seen => {
                Standing::Exempt(Exemption::HostNetwork)
            }
            None => Standing::Unknown,
        }
    }

    /// Whether it has no gate, and may still get one: its proxy is being asked, the API has not told
    /// of a pod that may have run before, or its gate has failed and is tried again.
    pub(super) fn is_undecided(&self) -> bool {
        match self.gate {
            GatePhase::Checking | GatePhase::Failed { retry_at: Some(_) } => true,
            GatePhase::Absent => self.late && self.standing() == Standing::Unknown,
            _ => false,
        }
    }

    /// Whether it is one to observe.
    pub(super) const fn can_be_observed(&self) -> bool {
        self.observation.is_some()
    }

    /// The same, and somebody wants that.
    const fn is_observed(&self) -> bool {
        self.can_be_observed() && (self.observed_by_default || self.watched_until.is_some())
    }

    /// Takes in what follows from the API's objects, and tells what is wrong with them.
    /// `observes`: pods that nobody enabled are observed.
    pub(super) fn judge(
        &mut self,
        judgement: Option<Judgement>,
        observes: bool,
        actions: &mut Vec<Action>,
    ) {
        self.observed_by_default = observes;
        let Some(judgement) = judgement else {
            self.judged = None;
            self.observation = None;
            return;
        };
        let Judgement {
            plan,
            wanted,
            problems,
            settings,
            would_be,
            unused,
            wish,
            namespace_problems,
            observation,
        } = judgement;
        self.grounds = Grounds { unused, wish, namespace_problems };
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            self.log(Line::InvalidSetting(problem.clone()), actions);
        }
        self.problems = problems;
        self.wanted = wanted;
        self.settings = settings;
        self.would_be = would_be;
        // The same plan stays the same object, by which a change is told.
        let plan = plan.map(|plan| match &self.judged {
            Some(Ok(known)) if **known == plan => Arc::clone(known),
            _ => Arc::new(plan),
        });
        self.judged = Some(plan);
        self.observation = observation.map(|plan| match &self.observation {
            Some(known) if **known == plan => Arc::clone(known),
            _ => Arc::new(plan),
        });
    }

    /// What applies to it now.
    pub(super) fn plan(&self, standing: Standing, unknown: &Arc<Plan>) -> Arc<Plan> {
        let plan = match (standing, &self.judged) {
            (Standing::Observe, _) => self.observation.as_ref(),
            // What has been let pass is not held because less is known again.
            (Standing::Unknown, _) if self.observes && self.gate.is_closed() => {
                self.applied.as_ref()
            }
            (_, Some(Ok(plan))) => Some(plan),
            (_, Some(Err(_)) | None) => None,
        };
        Arc::clone(plan.unwrap_or(unknown))
    }

    /// Tells once that the pod is not held, if its gate has nothing to tell about that.
    pub(super) fn tell_exemption(&mut self, standing: Standing, actions: &mut Vec<Action>) {
        let exemption = match standing {
            Standing::Exempt(exemption) => Some(exemption),
            Standing::Hold | Standing::Observe | Standing::Unknown => None,
        };
        if let Some(exemption) = exemption
            && self.told_exemption != Some(exemption)
            && !self.gate.is_attached()
        {
            self.log(Line::NotHeld { exemption, wanted: self.wanted }, actions);
        }
        self.told_exemption = exemption;
    }

    pub(super) fn found(
        &mut self,
        cgroup: CgroupId,
        at_start: bool,
        inherited: Option<InheritedGate>,
    ) {
        if self.cgroup == Some(cgroup) {
            return;
        }
        self.inherited = inherited;
        self.cgroup = Some(cgroup);
        self.late |= at_start;
        // Of a container that was there before, an agent may have told the kernel something.
        self.inherits_verdicts = at_start;
        let told = self.view.iter().flat_map(|view| &view.containers);
        self.former = if at_start {
            HashSet::new()
        } else {
            told.filter_map(|container| container.id.clone()).collect()
        };
    }

    /// Notes since when the gate is in the phase that it is in.
    pub(super) fn note_phase(&mut self, now: Monotonic) {
        let phase = discriminant(&self.gate);
        if self.noted.0 != phase {
            self.noted = (phase, now);
        }
    }

    /// Since when the gate is in the phase that it is in.
    pub(super) const fn since(&self) -> Monotonic {
        self.noted.1
    }

    pub(super) const fn wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The directory is gone, and with it whatever was attached to it.
    pub(super) fn cgroup_gone(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        self.let_go(now, actions);
        self.gate = GatePhase::Absent;
        self.note_phase(now);
        self.cgroup = None;
        self.containers.clear();
        self.proxy_ran = false;
        self.ready_proxy = None;
        self.late = false;
        self.inherited = None;
        self.keeps_settings = false;
        self.inherits_verdicts = false;
        self.probed = None;
        self.finding = None;
        self.opened = None;
        self.error = None;
        self.failures = None;
    }

    /// What the probe has found out last.
    pub(super) fn last_finding(&self) -> Option<Finding> {
        self.finding.as_ref().map(|(_, finding)| finding.clone())
    }

    /// When [`crate::core::Event::Tick`] is due for this pod at the latest.
    pub(super) fn next_wakeup(&self) -> Option<Monotonic> {
        let order = self.order.and_then(Order::until);
        let gate = self.gate.ends(self.may_wait());
        let renewal = self.renew_again_at.filter(|_| self.gate.is_attached());
        let verdicts = self.untold.and_then(|untold| untold.again_at);
        let verdicts = verdicts.filter(|_| self.gate.is_attached());
        let all = [gate, renewal, verdicts, self.queries_expire(), order, self.watched_until];
        all.into_iter().flatten().min()
    }
}
