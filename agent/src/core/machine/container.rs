//! A pod's containers: what is known of each, and what they tell of its proxy.

use std::collections::BTreeMap;

use super::pod::Pod;
use crate::core::{
    Action, CgroupId, ContainerId, ContainerIdentity, ContainerKind, ContainerRole, Line,
    Monotonic, Plan, PodView, Verdict,
};

/// Ended containers that are remembered: of one pod, more do not end within the milliseconds that a
/// report takes.
const MAX_ENDED: usize = 16;

/// One container of a pod, by its cgroup.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) cgroup: CgroupId,
    pub(super) identity: Option<ContainerIdentity>,
    /// It has a process; `None`: not yet told.
    pub(super) populated: Option<bool>,
    /// When it was first seen to have one.
    started: Option<Monotonic>,
    /// The log has told that it runs.
    told_running: bool,
    /// The verdict that the kernel was told.
    pub(super) told: Option<Verdict>,
}

/// The containers of a pod, by id, and in its order: the same facts come to the same actions.
pub(super) type Containers = BTreeMap<ContainerId, Container>;

// === impl Container ===

impl Container {
    /// Its name in the pod's spec, if it is known and has one: as long as the proxy's is not known the
    /// sandbox must not be taken for it.
    pub(super) fn name(&self) -> Option<&str> {
        match self.identity.as_ref()? {
            ContainerIdentity { kind: ContainerKind::Sandbox, name: _ } => None,
            ContainerIdentity { kind: ContainerKind::Container, name } => Some(name),
        }
    }
}

// === impl Pod ===

impl Pod {
    pub(super) fn container_found(
        &mut self,
        id: ContainerId,
        cgroup: CgroupId,
        identity: Option<ContainerIdentity>,
    ) {
        let container = self.containers.entry(id).or_insert(Container {
            cgroup,
            identity: None,
            populated: None,
            started: None,
            told_running: false,
            told: None,
        });
        container.identity = identity.or(container.identity.take());
    }

    /// Takes back what an agent before this one has told the kernel of a container that is found only
    /// now, after the gate has gone: nobody would when it ends.
    pub(super) fn forget_inherited(&self, id: &ContainerId, actions: &mut Vec<Action>) {
        if self.inherits_verdicts
            && !self.gate.is_attached()
            && let Some(container) = self.containers.get(id)
        {
            actions.push(Action::ForgetVerdict { container: container.cgroup });
        }
    }

    pub(super) fn container_populated(
        &mut self,
        id: &ContainerId,
        populated: bool,
        now: Monotonic,
    ) {
        if let Some(container) = self.containers.get_mut(id) {
            container.populated = Some(populated);
            if populated {
                container.started.get_or_insert(now);
            }
        }
    }

    /// Tells which containers have come to run, or have ended, of a pod that is not left alone.
    pub(super) fn tell_containers(&mut self, plan: &Plan, actions: &mut Vec<Action>) {
        let mut lines = Vec::new();
        for container in self.containers.values_mut() {
            let Some(ContainerIdentity { kind: ContainerKind::Container, name }) =
                &container.identity
            else {
                continue;
            };
            let runs = container.populated == Some(true);
            if std::mem::replace(&mut container.told_running, runs) == runs {
                continue;
            }
            let container_name = name.clone();
            lines.push(match container.started {
                Some(at) if runs => Line::ContainerStarted {
                    role: role_in(self.view.as_ref(), name),
                    is_proxy: *name == plan.proxy.container,
                    container: container_name,
                    at,
                },
                _ => {
                    container.started = None;
                    Line::ContainerEnded { container: container_name }
                }
            });
        }
        for line in lines {
            self.log(line, actions);
        }
    }

    pub(super) fn container_gone(&mut self, id: &ContainerId, actions: &mut Vec<Action>) {
        let Some(container) = self.containers.remove(id) else { return };
        let Container { cgroup, identity, populated: _, started: _, told_running, told } =
            container;
        if told.is_some() || self.inherits_verdicts {
            actions.push(Action::ForgetVerdict { container: cgroup });
        }
        // Its last connects end with it, and their ends are read after its own: they keep its name.
        if let Some(ContainerIdentity { kind: _, name }) = identity {
            if told_running {
                self.log(Line::ContainerEnded { container: name.clone() }, actions);
            }
            self.ended.push_back((cgroup, name));
            if self.ended.len() > MAX_ENDED {
                self.ended.pop_front();
            }
        }
    }

    /// Names the containers that only the API can name: the second source of their identity.
    pub(super) fn name_containers(&mut self) {
        let Some(view) = &self.view else { return };
        for (id, container) in &mut self.containers {
            if container.identity.is_none() {
                container.identity =
                    view.containers.iter().find(|named| named.id.as_ref() == Some(id)).map(
                        |named| ContainerIdentity {
                            kind: ContainerKind::Container,
                            name: named.name.clone(),
                        },
                    );
            }
        }
    }

    /// Notes that the proxy has run, which is what makes its end one; and that another container of
    /// it has become ready without anybody having waited.
    pub(super) fn note_proxy(&mut self, plan: &Plan) {
        self.proxy_ran |= self.running_proxy(plan).is_some();
        if self.ready_proxy.is_some() && self.kube_ready(plan) {
            self.ready_proxy = self.running_proxy(plan).or(self.ready_proxy.take());
        }
    }

    /// Notes that the proxy is ready.
    pub(super) fn note_ready(&mut self, plan: &Plan) {
        self.ready_proxy = self.running_proxy(plan);
    }

    /// The proxy's container that has a process.
    fn running_proxy(&self, plan: &Plan) -> Option<ContainerId> {
        let runs = |container: &Container| {
            container.populated == Some(true)
                && container.name() == Some(plan.proxy.container.as_str())
        };
        self.containers.iter().find(|(_, container)| runs(container)).map(|(id, _)| id.clone())
    }

    /// The proxy has run, and nothing runs that is, or may be, one.
    pub(super) fn proxy_is_gone(&self, plan: &Plan) -> bool {
        let is_unnamed = |one: &Container| one.identity.is_none() && one.populated != Some(false);
        self.proxy_ran
            && self.running_proxy(plan).is_none()
            && !self.containers.values().any(is_unnamed)
    }

    /// The proxy that was ready has ended, none is known to be ready in its place, and an
    /// application is there that needs one.
    pub(super) fn proxy_died(&self, plan: &Plan) -> bool {
        let ended = match &self.ready_proxy {
            Some(id) => self.containers.get(id).is_none_or(|proxy| proxy.populated == Some(false)),
            None => self.proxy_ran && self.running_proxy(plan).is_none(),
        };
        ended && !self.kube_ready(plan) && self.application_runs(plan)
    }

    /// Whether a container other than the proxy and the sandbox may still connect. One of which
    /// nothing is known counts: being wrong costs a delay.
    fn application_runs(&self, plan: &Plan) -> bool {
        let ended = |container: &Container| container.populated == Some(false);
        self.containers.values().filter(|container| !ended(container)).any(|container| {
            match &container.identity {
                None => true,
                Some(ContainerIdentity { kind: ContainerKind::Sandbox, name: _ }) => false,
                Some(ContainerIdentity { kind: ContainerKind::Container, name }) => {
                    *name != plan.proxy.container && self.role(name) != Some(ContainerRole::Init)
                }
            }
        })
    }

    pub(super) fn role(&self, container: &str) -> Option<ContainerRole> {
        role_in(self.view.as_ref(), container)
    }

    /// Kubelet's word counts if it is about a container that runs: after a reboot of the node, and
    /// after the proxy's death, the API tells for a while what was before.
    pub(super) fn kube_ready(&self, plan: &Plan) -> bool {
        let runs = |id: &ContainerId| match self.containers.get(id) {
            Some(found) => found.populated != Some(false),
            // A runtime whose cgroups have unknown names. Of a pod that was there before there is
            // no telling whether its containers are still those.
            None => !self.late && self.containers.is_empty() && !self.former.contains(id),
        };
        let there = !self.proxy_ran || self.running_proxy(plan).is_some();
        plan.proxy.kube_ready
            && there
            && self
                .view
                .as_ref()
                .and_then(|view| view.container(&plan.proxy.container))
                .is_some_and(|proxy| proxy.ready && proxy.id.as_ref().map_or(!self.late, runs))
    }
}

fn role_in(view: Option<&PodView>, container: &str) -> Option<ContainerRole> {
    view?.container(container).map(|container| container.role)
}
