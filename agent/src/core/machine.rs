//! The state of the node's pods: facts come in, actions go out.
//!
//! Each event changes facts first; then the pods it concerns are evaluated from their facts alone,
//! so that the order of events does not matter for where they end. The states of a gate are in
//! `machine/gate.rs`, its transitions in `machine/evaluate.rs`; docs/architecture.md draws them.

use std::{collections::HashMap, sync::Arc};

use super::{
    Action, CgroupId, Event, KernelEvent, KernelEventKind, Monotonic, NamespaceView, Plan, PodName,
    PodUid, PodView, Rules, namespace_problems,
};

mod container;
mod deadline;
mod evaluate;
mod failure;
mod gate;
mod held;
mod inherit;
mod order;
mod pod;
mod pods;
mod report;
mod steps;
mod waiting;
mod watch;

use pod::Pod;
use pods::Pods;
use watch::Watches;

/// The state of all pods of the node.
#[derive(Debug)]
pub struct Machine {
    rules: Rules,
    /// What applies to pods of which the API has not told yet.
    unknown: Arc<Plan>,
    /// `None` until the first list: a pod's namespace is then not yet known, not unlabelled.
    namespaces: Option<HashMap<String, NamespaceView>>,
    pods: Pods,
    by_cgroup: HashMap<CgroupId, PodUid>,
    watches: Watches,
}

// === impl Machine ===

impl Machine {
    /// A node without pods.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        let unknown = Arc::new(rules.unknown());
        let (pods, by_cgroup) = (Pods::default(), HashMap::new());
        let watches = Watches::default();
        Self { rules, unknown, namespaces: None, pods, by_cgroup, watches }
    }

    /// Takes in one event that became known at `now`; returns what is to be done, in order.
    pub fn apply(&mut self, event: Event, now: Monotonic) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::PodsListed(views) => self.pods_listed(views, now, &mut actions),
            Event::PodApplied(view) => self.pod_applied(view, now, &mut actions),
            Event::PodDeleted(uid) => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.deleted = true;
                }
                self.evaluate(&uid, now, &mut actions);
            }
            Event::NamespacesListed(views) => self.namespaces_listed(views, now, &mut actions),
            Event::NamespaceApplied(view) => self.namespace_applied(view, now, &mut actions),
            Event::NamespaceDeleted(name) => {
                // Its pods are deleted one by one; until then what applied to them does.
                if let Some(namespaces) = &mut self.namespaces {
                    namespaces.remove(&name);
                }
            }
            Event::PodCgroupFound { uid, cgroup, at_start, inherited } => {
                // Made anew, and the news of its end was lost.
                let former = self.pods.get(&uid).and_then(|pod| pod.cgroup);
                if former.is_some_and(|former| former != cgroup) {
                    self.pod_cgroup_gone(&uid, now, &mut actions);
                }
                // So was that of the one whose number this was.
                let owner = self.by_cgroup.get(&cgroup).filter(|owner| **owner != uid).cloned();
                if let Some(owner) = owner {
                    self.pod_cgroup_gone(&owner, now, &mut actions);
                }
                self.by_cgroup.insert(cgroup, uid.clone());
                self.pod(&uid, now).found(cgroup, at_start, inherited);
                self.evaluate(&uid, now, &mut actions);
            }
            Event::PodCgroupGone(uid) => self.pod_cgroup_gone(&uid, now, &mut actions),
            Event::ContainerFound { uid, cgroup, id, identity, pod: name } => {
                let pod = self.pod(&uid, now);
                pod.bundle_name = name.or(pod.bundle_name.take());
                pod.container_found(id.clone(), cgroup, identity);
                pod.forget_inherited(&id, &mut actions);
                self.evaluate(&uid, now, &mut actions);
            }
            Event::ContainerPopulated { uid, id, populated } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.container_populated(&id, populated, now);
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::ContainerGone { uid, id } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.container_gone(&id, &mut actions);
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::HostNetworkSeen(uid) => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.host_network_seen = true;
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::ProbeFound { uid, finding } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.finding = Some((now, finding));
                }
            }
            Event::ProxyReady(uid) => self.probed(&uid, true, now, &mut actions),
            Event::ProxyNotReady(uid) => self.probed(&uid, false, now, &mut actions),
            Event::Kernel(event) => self.kernel(event, now, &mut actions),
            Event::Counted { uid, reached, around } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.counted(reached, around, now, &mut actions);
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::Ordered { uid, order } => self.ordered(&uid, order, now, &mut actions),
            Event::Watched { pod, until } => self.watched(&pod, until, now, &mut actions),
            Event::GateFailed { uid, error, may_pass } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.failed(error, may_pass, now, &mut actions);
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::GateNotRenewed { uid, error, deadline } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.not_renewed(error, deadline, now, &mut actions);
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::GateProven(uid) => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.begin_anew();
                    self.evaluate(&uid, now, &mut actions);
                }
            }
            Event::VerdictFailed { uid, container } => {
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.verdict_failed(container, now);
                }
            }
            Event::Tick => {
                for uid in self.pods.due_by(now) {
                    self.evaluate(&uid, now, &mut actions);
                }
            }
        }
        self.pods.settle();
        actions
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Monotonic> {
        self.pods.next_due()
    }

    /// The pod and the container's cgroup of a held connect whose container has not been reported
    /// yet: a process can be faster than the news of its own cgroup.
    #[must_use]
    pub fn unreported_container(&self, event: &KernelEvent) -> Option<(PodUid, CgroupId)> {
        let (KernelEventKind::Held(caller)
        | KernelEventKind::Refused(caller)
        | KernelEventKind::Observed { caller, .. }
        | KernelEventKind::InitPassed(caller)) = &event.kind
        else {
            return None;
        };
        let cgroup = caller.container?;
        let pod = self.pods.get(self.by_cgroup.get(&event.pod)?)?;
        let known = pod.containers.values().any(|container| container.cgroup == cgroup);
        (!known).then(|| (pod.uid.clone(), cgroup))
    }

    /// The cgroups of all pods' containers.
    pub fn containers(&self) -> impl Iterator<Item = CgroupId> {
        let containers = self.pods.values().flat_map(|pod| pod.containers.values());
        containers.map(|container| container.cgroup)
    }

    /// The pods whose programs are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.pods.values().filter(|pod| pod.gate.is_attached()).count()
    }

    /// The cgroups of the pods of which it is still open whether a gate is to be on them.
    pub fn undecided(&self) -> impl Iterator<Item = CgroupId> {
        self.pods.values().filter(|pod| pod.is_undecided()).filter_map(|pod| pod.cgroup)
    }

    fn pod(&mut self, uid: &PodUid, now: Monotonic) -> &mut Pod {
        self.pods.get_or_new(uid, now)
    }

    fn pods_listed(&mut self, views: Vec<PodView>, now: Monotonic, actions: &mut Vec<Action>) {
        for uid in self.uids(|_| true) {
            if let Some(pod) = self.pods.get_mut(&uid) {
                // Pods of which only a cgroup is known may be too new for the list.
                pod.deleted = pod.view.is_some();
            }
        }
        for view in views {
            self.remember_view(view, now, actions);
        }
        self.evaluate_all(now, actions);
    }

    fn pod_applied(&mut self, view: PodView, now: Monotonic, actions: &mut Vec<Action>) {
        let uid = view.uid.clone();
        self.remember_view(view, now, actions);
        self.evaluate(&uid, now, actions);
    }

    fn remember_view(&mut self, view: PodView, now: Monotonic, actions: &mut Vec<Action>) {
        let uid = view.uid.clone();
        let pod = self.pod(&uid, now);
        pod.deleted = false;
        pod.view = Some(view);
        self.judge(&uid, actions);
    }

    fn namespaces_listed(
        &mut self,
        views: Vec<NamespaceView>,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        let before = self.namespaces.take().unwrap_or_default();
        for view in &views {
            tell_problems(before.get(&view.name), view, actions);
        }
        self.namespaces = Some(views.into_iter().map(|view| (view.name.clone(), view)).collect());
        for uid in self.uids(|_| true) {
            self.judge(&uid, actions);
        }
        self.evaluate_all(now, actions);
    }

    fn namespace_applied(
        &mut self,
        view: NamespaceView,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        let name = view.name.clone();
        let namespaces = self.namespaces.get_or_insert_default();
        tell_problems(namespaces.get(&name), &view, actions);
        namespaces.insert(name.clone(), view);
        let ours = |pod: &Pod| pod.view.as_ref().is_some_and(|view| *view.name.namespace == *name);
        for uid in self.uids(ours) {
            self.judge(&uid, actions);
            self.evaluate(&uid, now, actions);
        }
    }

    /// Draws what follows from the API's objects alone.
    fn judge(&mut self, uid: &PodUid, actions: &mut Vec<Action>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let namespaces = self.namespaces.as_ref();
        let judgement = pod.view.as_ref().and_then(|view| {
            let namespace = namespaces.and_then(|all| all.get(&*view.name.namespace));
            self.rules.judge(view, namespace)
        });
        let observes = self.rules.defaults.observe.value;
        pod.judge(judgement, observes, actions);
        pod.watched_until = pod.view.as_ref().and_then(|view| self.watches.until(view));
    }

    fn watched(
        &mut self,
        name: &PodName,
        until: Monotonic,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        let named = self.find(name).and_then(|uid| self.pods.get(&uid));
        let workload = named.and_then(|pod| pod.reference().workload);
        self.watches.add(name.clone(), workload, until, now);
        for uid in self.uids(|pod| pod.view.is_some()) {
            if let Some(pod) = self.pods.get_mut(&uid) {
                pod.watched_until = pod.view.as_ref().and_then(|view| self.watches.until(view));
            }
            self.evaluate(&uid, now, actions);
        }
    }

    /// In a stable order, which makes runs comparable.
    fn uids(&self, which: impl Fn(&Pod) -> bool) -> Vec<PodUid> {
        let which = self.pods.values().filter(|pod| which(pod));
        let mut uids: Vec<PodUid> = which.map(|pod| pod.uid.clone()).collect();
        uids.sort();
        uids
    }

    fn pod_cgroup_gone(&mut self, uid: &PodUid, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        if let Some(cgroup) = pod.cgroup {
            self.by_cgroup.remove(&cgroup);
        }
        pod.cgroup_gone(now, actions);
        if pod.view.is_none() || pod.deleted {
            self.pods.remove(uid);
        }
    }

    fn probed(&mut self, uid: &PodUid, ready: bool, now: Monotonic, actions: &mut Vec<Action>) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.probed = Some(ready);
            self.evaluate(uid, now, actions);
        }
    }

    fn kernel(&mut self, event: KernelEvent, now: Monotonic, actions: &mut Vec<Action>) {
        // A pod that is gone by now: its sockets are, too.
        let Some(uid) = self.by_cgroup.get(&event.pod).cloned() else {
            return;
        };
        if let Some(pod) = self.pods.get_mut(&uid) {
            let first = actions.len();
            pod.kernel(event, actions);
            self.evaluate(&uid, now, actions);
            // Whoever reads that a connect waits may rely on its deadline, though the agent dies then.
            actions[first..].sort_by_key(|action| matches!(action, Action::Log(..)));
        }
    }

    fn evaluate_all(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        for uid in self.uids(|_| true) {
            self.evaluate(&uid, now, actions);
        }
    }

    fn evaluate(&mut self, uid: &PodUid, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.evaluate(&self.unknown, now, actions);
        if pod.deleted && pod.cgroup.is_none() {
            self.pods.remove(uid);
        }
    }
}

/// Tells what is wrong with a namespace's settings, once for each change of them.
fn tell_problems(before: Option<&NamespaceView>, now: &NamespaceView, actions: &mut Vec<Action>) {
    let known = before.map(namespace_problems).unwrap_or_default();
    let problems = namespace_problems(now).into_iter();
    let new = problems.filter(|problem| !known.contains(problem));
    actions.extend(new.map(|problem| Action::LogNamespace(now.name.clone(), problem)));
}

#[cfg(test)]
mod tests;
