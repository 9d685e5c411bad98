//! What must not be, after each event and with each action.

use agent_ebpf::Treatment;
use anyhow::{Context as _, Result, bail, ensure};

use super::{
    super::{super::gate::GatePhase, *},
    agent::rules_of,
    step::{Setup, Shape, Who},
    world::World,
};
use crate::core::{Mode, SetGate};

/// As `steps.rs` has it: for so long the kernel refuses without an agent.
const REFUSES_AHEAD: Duration = Duration::from_secs(10);

/// As `deadline.rs` has it: for so long a gate goes on after an order.
pub(super) const HAND_OVER: Duration = Duration::from_secs(1);

impl World {
    /// Before the action is done.
    pub(super) fn check_action(&self, action: &Action) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let gate = |cgroup: &CgroupId| {
            let found = self.kernel.gates.get(cgroup);
            found.filter(|_| !agent.left.contains(cgroup))
        };
        // What has failed is undone once the machine hears of it.
        let failed = |cgroup: &CgroupId| self.failed.contains(cgroup);
        match action {
            Action::SetGate(set) if !failed(&set.cgroup) => {
                let standing = gate(&set.cgroup);
                ensure!(
                    standing.is_none_or(|gate| gate.uid == set.uid),
                    "{} takes the gate of another pod: {action:?}",
                    set.uid
                );
                let is_so = standing.is_some_and(|gate| match set.state {
                    // One that refuses is closed still, and is closed anew when it is to hold again.
                    GateSetting::Closed { .. } => {
                        let refuses = gate.is_refusing() || gate.deadline() <= self.now;
                        gate.is_closed() && (set.renews || !refuses)
                    }
                    GateSetting::Guarded { .. } => gate.is_guarded(),
                });
                ensure!(!set.renews || is_so, "renews what is not there: {action:?}");
                ensure!(set.renews || !is_so, "attaches twice: {action:?}");
                self.check_set(set)?;
            }
            Action::OpenGate { uid, cgroup, replay } if !failed(cgroup) => {
                let Some(gate) = gate(cgroup) else { bail!("opens what is not there: {action:?}") };
                ensure!(gate.uid == *uid, "opens another pod's gate: {action:?}");
                ensure!(
                    replay.is_some() != (self.setup.mode == Mode::Retry)
                        || agent.told.may_hold(uid) != Some(true),
                    "replays what is to go on by itself, or the reverse: {action:?}"
                );
            }
            Action::DetachGate { uid, cgroup, .. } if !failed(cgroup) => {
                let Some(gate) = gate(cgroup) else { bail!("detaches nothing: {action:?}") };
                ensure!(gate.uid == *uid, "detaches another pod's gate: {action:?}");
            }
            Action::CountGate { cgroup, .. } if !failed(cgroup) => {
                ensure!(gate(cgroup).is_some(), "counts what is not there: {action:?}");
            }
            // Sent through a gate that could not be told to let them pass, they are dropped once more.
            Action::Replay { cgroup, held, .. } if !failed(cgroup) => {
                let ours = self.kernel.sockets.iter().filter(|one| held.contains(&one.cookie));
                let mut dropped = ours.filter(|socket| self.kernel.drops(socket, self.now));
                ensure!(dropped.next().is_none(), "replays through a closed gate: {action:?}");
            }
            Action::StartProbe { uid, checks, .. } => {
                let pod = agent.machine.pods.get(uid);
                let has_cgroup = pod.is_some_and(|pod| pod.cgroup.is_some());
                ensure!(has_cgroup, "asks a pod that is not there: {action:?}");
                ensure!(!checks.is_empty(), "asks nothing: {action:?}");
            }
            Action::SetPace { uid, .. } | Action::StopProbe(uid) => {
                ensure!(agent.probes.contains_key(uid), "nobody asks: {action:?}");
            }
            Action::Log(pod, Line::GateOpened { reason, .. }) => {
                self.check_opening(&pod.uid, *reason)?;
            }
            Action::SetGate(_)
            | Action::OpenGate { .. }
            | Action::ProveGate { .. }
            | Action::Replay { .. }
            | Action::DetachGate { .. }
            | Action::CountGate { .. }
            | Action::SetVerdict { .. }
            | Action::ForgetVerdict { .. }
            | Action::Log(..)
            | Action::LogNamespace(..) => {}
        }
        Ok(())
    }

    /// A deadline counts from the first that waits, whoever knows of it, and from nothing later.
    fn check_set(&self, set: &SetGate) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let timeout = agent.told.timeout(&set.uid, Duration::from_millis(self.setup.timeout_ms));
        let (deadline, refuse_until) = match set.state {
            GateSetting::Closed { deadline, refuse_until, .. } => (deadline, refuse_until),
            GateSetting::Guarded { budget } => {
                ensure!(self.setup.guard && self.holds(), "guards unasked: {set:?}");
                ensure!(budget <= timeout, "guards for too long: {set:?}");
                return Ok(());
            }
        };
        let pod = agent.machine.pods.get(&set.uid);
        let known = |cookie| pod.is_some_and(|pod| pod.held.contains(cookie, None));
        // Those that are known to wait; and, where none is, those that this closing made wait and nobody
        // has told of, of whom the count tells.
        // Each one's wait is the kernel's to limit (`World::check_waits`). Of the gate's own deadline two
        // bounds are not of one socket: of one whose report is lost it counts from the first that is known
        // of, who may come up to a timeout later; and of one that nobody has told of when a gate closes that
        // has guarded, or refused, until then it counts from the closing.
        let held = || {
            self.kernel
                .sockets
                .iter()
                .filter(|socket| socket.pod == set.cgroup && self.kernel.holds(socket.container))
        };
        let first = held().filter(|socket| known(socket.cookie)).map(|one| one.connect_at).min();
        let untold = held().filter(|one| set.renews && self.kernel.waits_since_closing(one));
        let untold = untold.map(|socket| socket.connect_at).min();
        let untold =
            untold.map(|untold| untold.max(agent.told.first_wait(set.cgroup).unwrap_or(untold)));
        let mut latest = first.or(untold).unwrap_or(self.now) + timeout;
        if let Some(until) = agent.told.ordered(&set.uid) {
            latest = latest.max(until + HAND_OVER);
        }
        let standing = self.kernel.gates.get(&set.cgroup).filter(|gate| gate.is_closed());
        if let Some(standing) = standing {
            latest = latest.max(standing.deadline());
        }
        ensure!(
            refuses(set) || set.mode == Mode::Observe || deadline <= latest,
            "deadline {deadline} is later than {latest}, somebody waits since {first:?}: {set:?}"
        );
        if let Some(until) = refuse_until {
            ensure!(self.setup.on_timeout == OnTimeout::Refuse, "refuses unasked: {set:?}");
            ensure!(until <= deadline + REFUSES_AHEAD, "refuses for too long: {set:?}");
        }
        Ok(())
    }

    /// No gate opens without a reason that is true.
    fn check_opening(&self, uid: &PodUid, reason: OpenReason) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let pod = &agent.machine.pods[uid];
        match reason {
            OpenReason::ProbeReady => {
                ensure!(agent.ready.contains(uid), "{uid}: nobody said ready");
            }
            OpenReason::KubeReady => {
                let view = agent.told.view(uid);
                let proxy = view.and_then(|view| view.container(Who::Proxy.name()));
                ensure!(
                    proxy.is_some_and(|proxy| proxy.ready),
                    "{uid}: kubelet has not said ready"
                );
            }
            // A gate that refuses, and is to no more, is past its time.
            OpenReason::Deadline => {}
            OpenReason::Exempt(Exemption::Operator) => {
                ensure!(matches!(pod.order, Some(Order::Open { .. })), "{uid}: nobody ordered it");
            }
            OpenReason::Exempt(exemption) => ensure!(
                agent.told.may_hold(uid) != Some(true)
                    || (exemption == Exemption::NotEnabled && pod.observes),
                "{uid}: it is to be held, and is let go as {exemption:?}"
            ),
        }
        Ok(())
    }

    /// Once an event has been dealt with.
    pub(super) fn check_state(&self) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        for (cgroup, gate) in &self.kernel.gates {
            if agent.left.contains(cgroup) || gate.is_dead {
                continue;
            }
            self.check_gate(*cgroup, &gate.uid)?;
        }
        let ours = self.kernel.gates.keys().filter(|cgroup| !agent.left.contains(cgroup));
        let (ours, attached) = (ours.count(), agent.machine.attached());
        ensure!(ours == attached, "{ours} gates have programs, and {attached} are thought to");
        for pod in agent.machine.pods.values() {
            let uid = &pod.uid;
            let asks = agent.probes.contains_key(uid);
            ensure!(
                asks == pod.gate.is_probing(),
                "{uid} is {:?}, and is it asked? {asks}",
                pod.gate
            );
            self.check_pod(uid, pod.gate)?;
        }
        ensure!(
            agent.probes.keys().all(|uid| agent.machine.pods.get(uid).is_some()),
            "a pod is asked that is gone"
        );
        for (cgroup, uid) in &agent.machine.by_cgroup {
            let owner = agent.machine.pods.get(uid).and_then(|pod| pod.cgroup);
            ensure!(owner == Some(*cgroup), "{cgroup} is not {uid}'s, which has {owner:?}");
        }
        Ok(())
    }

    /// Nobody is held who must not be.
    fn check_gate(&self, cgroup: CgroupId, uid: &PodUid) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let treatment = self.kernel.treatment(cgroup, self.now);
        let is_harmless = matches!(treatment, Treatment::Pass | Treatment::Observe);
        let may_hold = agent.told.may_hold(uid);
        ensure!(
            may_hold != Some(false) || is_harmless,
            "{uid} is not one to hold, and its gate is to {treatment:?}"
        );
        if may_hold != Some(true) || is_harmless {
            return Ok(());
        }
        for (container, is_held) in agent.told.held_containers(uid) {
            ensure!(
                self.kernel.holds(container) == is_held,
                "{uid}: container {container} is to be held: {is_held}, and its verdict is {:?}",
                self.kernel.verdicts.get(&container)
            );
        }
        Ok(())
    }

    fn check_pod(&self, uid: &PodUid, gate: GatePhase) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let ends = matches!(
            gate,
            GatePhase::Closed { .. } | GatePhase::Refusing { .. } | GatePhase::Opening { .. }
        );
        ensure!(!ends || agent.machine.next_wakeup().is_some(), "{uid} is {gate:?} for ever");
        let running = agent.history.running(uid);
        match gate {
            GatePhase::Closed { reason, .. } => {
                let episode = running.with_context(|| format!("{uid}: no episode of {gate:?}"))?;
                ensure!(
                    episode.reason == Some(reason) && episode.opened_at.is_none(),
                    "{uid} is {gate:?}, and its episode {episode:?}"
                );
            }
            GatePhase::Refusing { .. } | GatePhase::Opening { .. } => {}
            GatePhase::Absent
            | GatePhase::Checking
            | GatePhase::Open
            | GatePhase::GivenUp { .. }
            | GatePhase::Failed { retry_at: _ } => {
                let over = running.is_none_or(|episode| episode.reason.is_none());
                ensure!(over, "{uid} is {gate:?}, and its episode goes on: {running:?}");
            }
            GatePhase::Guarded { .. } => {
                let over = running.is_none_or(|episode| episode.reason.is_none());
                ensure!(over, "{uid} guards, and its episode goes on: {running:?}");
            }
        }
        Ok(())
    }

    /// Whether the gate of this pod is what the truth asks for, once the agent knows it all and has had
    /// its time.
    pub(super) fn check_settled(&self, slot: usize, is_ready: bool) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let (uid, pod) = (self.cluster.uid(slot), &self.cluster.pods[slot]);
        if pod.cgroup.is_none() {
            return Ok(());
        }
        let phase = agent.phase(&uid).with_context(|| format!("{uid} is not known"))?;
        let Some(object) = &pod.object else {
            return Ok(());
        };
        let meshed = matches!(object.shape, Shape::Classic | Shape::Native);
        let never = !meshed || object.terminating || object.finished;
        let enabled = match object.hold {
            super::step::Hold::Unset => self.cluster.namespace == Some(super::step::Hold::Enabled),
            own => own == super::step::Hold::Enabled,
        };
        if never || !enabled {
            let observes = self.setup.observe || agent.machine.pods[&uid].watched_until.is_some();
            ensure!(phase == GatePhase::Absent || observes, "{uid} is left alone, and {phase:?}");
            return Ok(());
        }
        let guards = self.setup.guard && self.holds();
        let is_right = match phase {
            GatePhase::Open => is_ready && !guards,
            GatePhase::Guarded { .. } => is_ready && guards,
            GatePhase::Closed { .. } | GatePhase::Refusing { .. } | GatePhase::GivenUp { .. } => {
                !is_ready
            }
            GatePhase::Absent
            | GatePhase::Checking
            | GatePhase::Opening { .. }
            | GatePhase::Failed { retry_at: _ } => false,
        };
        ensure!(is_right, "{uid} is {phase:?}; is its proxy ready? {is_ready}");
        Ok(())
    }
}

/// Its time is up and connects are to fail: closed with a deadline that has passed.
fn refuses(set: &SetGate) -> bool {
    matches!(set.state, GateSetting::Closed { since, deadline, .. } if deadline <= since)
}

/// The same events at the same instants come to the same actions, in the same order.
pub(super) fn plays_the_same(
    setup: Setup,
    record: Vec<(Event, Monotonic, Vec<Action>)>,
) -> Result<()> {
    let mut machine = Machine::new(rules_of(setup));
    for (event, now, actions) in record {
        let again = machine.apply(event.clone(), now);
        ensure!(again == actions, "{event:?} comes to {actions:?}, or to {again:?}");
    }
    Ok(())
}
