//! One pod: its facts, and what follows from them.

use std::collections::HashMap;

use super::{Container, Containers, MachineOptions, Standing, gate::GatePhase};
use crate::core::{
    Action, CgroupId, CloseGate, ContainerId, ContainerIdentity, ContainerKind, HeldConnect, Line,
    Monotonic, OpenReason, Pace, PodName, PodUid, PodView, SocketCookie, Verdict, classify,
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
    pub(super) cgroup: Option<CgroupId>,
    pub(super) containers: Containers,
    pub(super) host_network_seen: bool,
    /// The last answer of the probe since it was started.
    pub(super) probed: Option<bool>,
    /// Its containers may have run without a gate, so its proxy may be ready.
    pub(super) late: bool,
    pub(super) gate: GatePhase,
    /// When the first connect that this closing of the gate holds was called.
    pub(super) first_wait: Option<Monotonic>,
    pub(super) held: HashMap<SocketCookie, HeldConnect>,
}

// === impl Pod ===

impl Pod {
    pub(super) fn new(uid: PodUid) -> Self {
        Self {
            uid,
            view: None,
            bundle_name: None,
            deleted: false,
            cgroup: None,
            containers: HashMap::new(),
            host_network_seen: false,
            probed: None,
            late: false,
            gate: GatePhase::Absent,
            first_wait: None,
            held: HashMap::new(),
        }
    }

    pub(super) fn name(&self) -> Option<PodName> {
        self.view.as_ref().map(|view| view.name.clone()).or_else(|| self.bundle_name.clone())
    }

    pub(super) fn found(&mut self, cgroup: CgroupId, at_start: bool) {
        if self.cgroup != Some(cgroup) {
            self.cgroup = Some(cgroup);
            self.late |= at_start;
        }
    }

    pub(super) fn container_found(
        &mut self,
        id: ContainerId,
        cgroup: CgroupId,
        identity: Option<ContainerIdentity>,
    ) {
        let container =
            self.containers.entry(id).or_insert(Container { cgroup, identity: None, told: None });
        container.identity = identity.or(container.identity.take());
    }

    /// The directory is gone, and with it whatever was attached to it.
    pub(super) fn cgroup_gone(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        if self.gate.is_attached() {
            self.detach(now, actions);
        }
        if self.gate != GatePhase::Open {
            actions.push(Action::StopProbe(self.uid.clone()));
        }
        self.gate = GatePhase::Absent;
        self.cgroup = None;
        self.containers.clear();
        self.late = false;
        self.probed = None;
    }

    pub(super) fn container_gone(&mut self, id: &ContainerId, actions: &mut Vec<Action>) {
        let Some(Container { cgroup, identity, told }) = self.containers.remove(id) else { return };
        if told.is_some() {
            actions.push(Action::ForgetVerdict { container: cgroup });
        }
        // Its last connects end with it, and their ends are read after its own: they keep its name.
        if let Some(ContainerIdentity { kind: _, name }) = identity {
            for held in self.held.values_mut().filter(|held| held.container_cgroup == Some(cgroup))
            {
                held.container = Some(name.clone());
            }
        }
    }

    /// The gate could not be worked: its programs come off, for good.
    pub(super) fn failed(&mut self, error: String, now: Monotonic, actions: &mut Vec<Action>) {
        actions.push(Action::StopProbe(self.uid.clone()));
        let (uid, name) = (self.uid.clone(), self.name());
        actions.push(Action::Log(Line::GateFailed { uid, name, error }));
        if self.gate.is_attached() {
            self.detach(now, actions);
        }
        self.gate = GatePhase::Open;
    }

    pub(super) fn next_wakeup(&self) -> Option<Monotonic> {
        self.gate.ends(!self.held.is_empty())
    }

    /// Draws the consequences of the facts; called after every change.
    pub(super) fn evaluate(
        &mut self,
        standing: Standing,
        options: &MachineOptions,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        let Some(cgroup) = self.cgroup else { return };
        match self.gate {
            GatePhase::Absent => self.leave_absent(cgroup, standing, options, now, actions),
            GatePhase::Checking => match (standing, self.ready(options)) {
                (Standing::Exempt(_), _) => {
                    actions.push(Action::StopProbe(self.uid.clone()));
                    self.gate = GatePhase::Absent;
                }
                (_, Some(_)) => {
                    actions.push(Action::StopProbe(self.uid.clone()));
                    self.gate = GatePhase::Open;
                }
                (_, None) if self.probed == Some(false) => {
                    self.close(cgroup, options, now, actions);
                }
                (_, None) => {}
            },
            GatePhase::Closed { .. } => {
                let deadline = self.set_deadline(cgroup, options, now, actions);
                let reason = match (standing, self.ready(options)) {
                    (Standing::Exempt(exemption), _) => Some(OpenReason::Exempt(exemption)),
                    (_, Some(reason)) => Some(reason),
                    (_, None) => (now >= deadline).then_some(OpenReason::Deadline),
                };
                match reason {
                    Some(reason) => self.open(cgroup, reason, now, actions),
                    None => self.tell_verdicts(cgroup, options, actions),
                }
            }
            GatePhase::Opening { since: _, exempt } => {
                if self.next_wakeup().is_some_and(|end| now >= end) {
                    self.detach(now, actions);
                    self.late |= exempt;
                    self.gate = if exempt { GatePhase::Absent } else { GatePhase::Open };
                    self.evaluate(standing, options, now, actions);
                }
            }
            GatePhase::Open => {
                if let Standing::Exempt(_) = standing {
                    self.gate = GatePhase::Absent;
                    self.late = true;
                }
            }
        }
    }

    fn leave_absent(
        &mut self,
        cgroup: CgroupId,
        standing: Standing,
        options: &MachineOptions,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        match standing {
            Standing::Exempt(_) => self.late = true,
            Standing::Unknown if self.late => {}
            Standing::Enabled if self.late && self.kube_ready(options) => {
                self.gate = GatePhase::Open;
            }
            Standing::Enabled if self.late => {
                self.probed = None;
                self.gate = GatePhase::Checking;
                self.start_probe(options, Pace::Idle, actions);
            }
            Standing::Enabled | Standing::Unknown => {
                self.probed = None;
                self.close(cgroup, options, now, actions);
                self.start_probe(options, Pace::Idle, actions);
            }
        }
    }

    fn start_probe(&self, options: &MachineOptions, pace: Pace, actions: &mut Vec<Action>) {
        let profile = options.profile;
        actions.push(Action::StartProbe {
            uid: self.uid.clone(),
            endpoint: profile.ready,
            ports: profile.outbound_ports.to_vec(),
            pace,
        });
    }

    /// Whichever says ready first opens the gate.
    fn ready(&self, options: &MachineOptions) -> Option<OpenReason> {
        if self.probed == Some(true) {
            Some(OpenReason::ProbeReady)
        } else if self.kube_ready(options) {
            Some(OpenReason::KubeReady)
        } else {
            None
        }
    }

    /// Kubelet's word counts if it is about a container that is there: after a reboot of the node
    /// the API tells for a while what was before.
    fn kube_ready(&self, options: &MachineOptions) -> bool {
        let present =
            |id: &ContainerId| self.containers.is_empty() || self.containers.contains_key(id);
        self.view
            .as_ref()
            .and_then(|view| view.container(options.profile.proxy_container))
            .is_some_and(|proxy| proxy.ready && proxy.id.as_ref().is_none_or(present))
    }

    fn close(
        &mut self,
        cgroup: CgroupId,
        options: &MachineOptions,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        self.first_wait = None;
        self.close_until(now + options.timeout, cgroup, options, actions);
        self.gate = GatePhase::Closed {
            deadline: now + options.timeout,
            renew_at: Some(now + options.timeout / 2),
        };
        let (uid, name) = (self.uid.clone(), self.name());
        actions.push(Action::Log(Line::GateClosed { uid, name, deadline: options.timeout }));
        self.tell_verdicts(cgroup, options, actions);
    }

    fn close_until(
        &self,
        deadline: Monotonic,
        cgroup: CgroupId,
        options: &MachineOptions,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::CloseGate(CloseGate {
            uid: self.uid.clone(),
            cgroup,
            deadline,
            ports: options.profile.outbound_ports.to_vec(),
        }));
    }

    /// The deadline counts from the first connect that waits. Until there is one it is moved on,
    /// always well before it passes, so that the kernel has one at any time.
    fn set_deadline(
        &mut self,
        cgroup: CgroupId,
        options: &MachineOptions,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) -> Monotonic {
        let GatePhase::Closed { deadline, renew_at } = self.gate else { return now };
        let (deadline, renew_at) = match (renew_at, self.first_wait) {
            (Some(_), Some(first)) => (first + options.timeout, None),
            (Some(at), None) if now >= at => {
                (now + options.timeout, Some(now + options.timeout / 2))
            }
            _ => return deadline,
        };
        self.close_until(deadline, cgroup, options, actions);
        self.gate = GatePhase::Closed { deadline, renew_at };
        deadline
    }

    fn open(
        &mut self,
        cgroup: CgroupId,
        reason: OpenReason,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        let held = self.held.keys().copied().collect();
        actions.push(Action::OpenGate { uid: self.uid.clone(), cgroup, held });
        actions.push(Action::StopProbe(self.uid.clone()));
        let (uid, name) = (self.uid.clone(), self.name());
        let held = self.held.len();
        actions.push(Action::Log(Line::GateOpened { uid, name, at: now, reason, held }));
        let exempt = matches!(reason, OpenReason::Exempt(_));
        self.gate = GatePhase::Opening { since: now, exempt };
    }

    fn detach(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(cgroup) = self.cgroup else { return };
        let containers = self.containers.values().map(|container| container.cgroup).collect();
        actions.push(Action::DetachGate { uid: self.uid.clone(), cgroup, containers });
        self.forget_verdicts();
        let (uid, name) = (self.uid.clone(), self.name());
        for connect in std::mem::take(&mut self.held).into_values() {
            actions.push(Action::Log(self.still_connecting(connect, now)));
        }
        actions.push(Action::Log(Line::GateDetached { uid, name }));
    }

    fn forget_verdicts(&mut self) {
        for container in self.containers.values_mut() {
            container.told = None;
        }
    }

    /// Brings the kernel's verdicts up to date with what is known of the containers.
    fn tell_verdicts(
        &mut self,
        pod_cgroup: CgroupId,
        options: &MachineOptions,
        actions: &mut Vec<Action>,
    ) {
        let view = self.view.as_ref();
        for (id, container) in &mut self.containers {
            if container.identity.is_none() {
                container.identity = named_by_api(view, id);
            }
            let Some(identity) = &container.identity else {
                continue;
            };
            let verdict = classify::verdict(identity, view, options.profile);
            // No entry means hold.
            if container.told.unwrap_or(Verdict::Hold) == verdict {
                continue;
            }
            container.told = Some(verdict);
            let cgroup = container.cgroup;
            actions.push(Action::SetVerdict { container: cgroup, verdict });
            let held: Vec<SocketCookie> = self
                .held
                .values()
                .filter(|held| held.container_cgroup == Some(cgroup))
                .map(|held| held.cookie)
                .collect();
            if verdict == Verdict::Pass && !held.is_empty() {
                let (uid, container) = (self.uid.clone(), cgroup);
                actions.push(Action::ReplayContainer { uid, cgroup: pod_cgroup, container, held });
            }
        }
    }
}

/// The second source of a container's identity: the API, once its status names the id.
fn named_by_api(view: Option<&PodView>, id: &ContainerId) -> Option<ContainerIdentity> {
    let container = view?.containers.iter().find(|container| container.id.as_ref() == Some(id))?;
    Some(ContainerIdentity { kind: ContainerKind::Container, name: container.name.clone() })
}
