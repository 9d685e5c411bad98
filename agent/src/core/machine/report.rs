//! What is known of the pods, for whoever asks.

use super::{
    Machine,
    container::Container,
    gate::GatePhase,
    pod::{Pod, Standing},
};
use crate::core::{
    CloseReason, ConnectReport, ContainerIdentity, ContainerKind, ContainerReport, Epoch,
    Exemption, KubeletWord, OpenedReport, OrderReport, PodName, PodRef, PodReport, PodState,
    PodUid, ProbeReport, Proxy, ProxyReport, SettingReport, TreatmentReport, classify,
};

impl Machine {
    /// All pods, by name; those without one last.
    #[must_use]
    pub fn report(&self, epoch: Epoch) -> Vec<PodReport> {
        let mut pods: Vec<PodReport> =
            self.pods.values().map(|pod| pod.report(&self.unknown.proxy, epoch)).collect();
        pods.sort_by(|a, b| {
            let key = |report: &PodReport| (report.pod.name.is_none(), report.pod.name.clone());
            key(a).cmp(&key(b)).then_with(|| a.pod.uid.cmp(&b.pod.uid))
        });
        pods
    }

    /// One pod.
    #[must_use]
    pub fn report_of(&self, uid: &PodUid, epoch: Epoch) -> Option<PodReport> {
        self.pods.get(uid).map(|pod| pod.report(&self.unknown.proxy, epoch))
    }

    /// All pods, in no order.
    pub fn references(&self) -> impl Iterator<Item = PodRef> {
        self.pods.values().map(Pod::reference)
    }

    /// Whether pods that nobody enabled are observed.
    #[must_use]
    pub const fn observes(&self) -> bool {
        self.rules.defaults.observe.value
    }

    /// Whether kubelet calls the container of a pod's proxy ready.
    #[must_use]
    pub fn kubelet_says_ready(&self, uid: &PodUid, proxy: &str) -> bool {
        let view = self.pods.get(uid).and_then(|pod| pod.view.as_ref());
        view.and_then(|view| view.container(proxy)).is_some_and(|container| container.ready)
    }

    /// The pod with this name: of several, as while a StatefulSet's is made anew, the one that is
    /// not being deleted.
    #[must_use]
    pub fn find(&self, name: &PodName) -> Option<PodUid> {
        let named = self.pods.values().filter(|pod| pod.reference().name.as_ref() == Some(name));
        let ending = |pod: &&Pod| {
            matches!(
                pod.standing(),
                Standing::Exempt(Exemption::Deleted | Exemption::Terminating | Exemption::Finished)
            )
        };
        named.min_by_key(ending).map(|pod| pod.uid.clone())
    }
}

impl Pod {
    fn report(&self, unknown: &Proxy, epoch: Epoch) -> PodReport {
        let standing = self.standing();
        let proxy = match (&self.judged, &self.would_be) {
            (Some(Ok(plan)), _) => Some(&plan.proxy),
            (Some(Err(_)), would_be) => would_be.as_ref(),
            (None, _) => Some(unknown),
        };
        let mut waiting: Vec<_> = self.held.iter().collect();
        waiting.sort_by_key(|held| (held.caller.connect_at, held.cookie));
        waiting.truncate(PodReport::MAX_WAITING);
        let waiting = waiting.into_iter().map(|held| self.named(held.clone()));
        let reference = self.reference();
        let namespace = reference.name.as_ref().map_or("", |name| &*name.namespace);
        let grounds = &self.grounds;
        let settings = self.settings.as_ref();
        let problems = self.problems().iter().chain(&grounds.namespace_problems);
        let report = PodReport {
            state: self.state(standing),
            why: String::new(),
            since: epoch.stamp(self.since()),
            closed_for: self.closed_for(),
            exemption: match standing {
                Standing::Exempt(exemption) => Some(exemption),
                // Observed or not, it is not held.
                Standing::Observe => Some(Exemption::NotEnabled),
                Standing::Hold | Standing::Unknown => None,
            },
            unused: grounds.unused.clone(),
            error: self.error.clone(),
            deadline: self.closed_deadline().map(|deadline| epoch.stamp(deadline)),
            observed: standing == Standing::Observe,
            watched_until: self.watched_until.map(|until| epoch.stamp(until)),
            wanted: self.wanted(),
            settings: settings
                .map(|settings| SettingReport::all(settings, namespace, grounds.wish.as_deref())),
            problems: problems.map(ToString::to_string).collect(),
            proxy: proxy.map(|proxy| ProxyReport::new(proxy, self.kubelet_word(proxy))),
            probe: self
                .finding
                .clone()
                .map(|(since, finding)| ProbeReport { finding, since: epoch.stamp(since) }),
            opened: self.opened.map(|(at, reason)| OpenedReport { at: epoch.stamp(at), reason }),
            treatments: proxy.map_or_else(Vec::new, |proxy| self.treatments(proxy)),
            not_redirected: self.told_not_redirected,
            containers: self.container_reports(proxy),
            held: self.held.len(),
            waiting: waiting.map(|held| ConnectReport::new(held, epoch)).collect(),
            order: self.order.map(|order| OrderReport::new(order, epoch)),
            reasons: Vec::new(),
            pod: reference,
        };
        report.explained()
    }

    /// What kubelet's word is worth for this proxy.
    fn kubelet_word(&self, proxy: &Proxy) -> KubeletWord {
        let spec = self.view.as_ref().and_then(|view| view.container(&proxy.container));
        let named = self.settings.as_ref().is_some_and(|settings| settings.ready.is_some());
        match spec {
            _ if proxy.kube_ready => KubeletWord::Counts,
            _ if named => KubeletWord::CheckNamed,
            Some(container) if !container.spec.is_probed => KubeletWord::NotProbed,
            Some(_) => KubeletWord::OtherMeaning,
            None => KubeletWord::Unknown,
        }
    }

    /// What a closed gate does with the containers of the spec, or else with those that run.
    fn treatments(&self, proxy: &Proxy) -> Vec<TreatmentReport> {
        let identified = self.containers.values().filter_map(Container::name);
        let mut names: Vec<&str> = match &self.view {
            Some(view) => view.containers.iter().map(|container| container.name.as_str()).collect(),
            None => identified.filter(|name| !name.is_empty()).collect(),
        };
        if self.view.is_none() {
            names.sort_unstable();
            names.dedup();
        }
        let treatment = |name: &str| {
            let (kind, name) = (ContainerKind::Container, name.to_owned());
            let identity = ContainerIdentity { kind, name };
            let ground = classify::ground(&identity, self.view.as_ref(), proxy);
            let reached = self.told_init.contains(&identity.name);
            let container = identity.name;
            TreatmentReport { container, verdict: ground.verdict(), ground, reached }
        };
        names.into_iter().map(treatment).collect()
    }

    const fn state(&self, standing: Standing) -> PodState {
        match (self.gate, standing) {
            // It has been observed, or cannot be yet.
            (
                GatePhase::Absent
                | GatePhase::Guarded { .. }
                | GatePhase::Open
                | GatePhase::GivenUp { .. },
                Standing::Observe,
            )
            | (GatePhase::Absent, Standing::Exempt(_)) => PodState::Exempt,
            (
                GatePhase::Checking
                | GatePhase::Closed { .. }
                | GatePhase::Refusing { .. }
                | GatePhase::Opening { .. },
                Standing::Observe,
            ) => PodState::Observed,
            (GatePhase::Absent, Standing::Hold | Standing::Unknown) => PodState::Pending,
            (GatePhase::Checking, _) => PodState::Checking,
            (GatePhase::Closed { .. }, _) => PodState::Closed,
            (GatePhase::Refusing { .. }, _) => PodState::Refusing,
            (GatePhase::Opening { .. }, _) => PodState::Opening,
            (GatePhase::Guarded { .. }, _) => PodState::Guarded,
            (GatePhase::Open, _) => PodState::Open,
            (GatePhase::GivenUp { .. }, _) => PodState::GivenUp,
            (GatePhase::Failed { .. }, _) => PodState::Failed,
        }
    }

    const fn closed_for(&self) -> Option<CloseReason> {
        match self.gate {
            GatePhase::Closed { reason, .. }
            | GatePhase::Refusing { reason, .. }
            | GatePhase::GivenUp { reason } => Some(reason),
            _ => None,
        }
    }

    fn container_reports(&self, proxy: Option<&Proxy>) -> Vec<ContainerReport> {
        let mut containers: Vec<_> = self
            .containers
            .iter()
            .map(|(id, container)| {
                let name = container.name();
                let is_sandbox = matches!(
                    container.identity,
                    Some(ContainerIdentity { kind: ContainerKind::Sandbox, .. })
                );
                ContainerReport {
                    id: id.to_string(),
                    name: name.map(str::to_owned),
                    role: name.and_then(|name| self.role(name)),
                    is_proxy: !is_sandbox && name.is_some_and(|name| is_of(proxy, name)),
                    running: container.populated,
                    verdict: container.told,
                    cgroup: container.cgroup.0,
                }
            })
            .collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
        containers
    }
}

fn is_of(proxy: Option<&Proxy>, container: &str) -> bool {
    proxy.is_some_and(|proxy| proxy.container == container)
}
