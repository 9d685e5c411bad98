//! Which proxy a pod has.

use agent_ebpf::gate::MAX_PORTS;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Chosen, ContainerView, Origin, PodView, Problem, Proxy, ReadyCheck, Settings,
        settings::{Key, shown},
    },
    Condition, Mark, Profile, Profiles, matches,
    source::Evidence,
    table::is_long_running,
};

/// What proxy a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detection {
    /// This one.
    Proxy(Proxy),
    /// None that is known.
    None,
    /// One that takes no connections of the application: the mesh's redirect is off in this pod.
    RedirectOff {
        /// The profile.
        profile: String,
        /// What says so.
        mark: String,
    },
    /// A container of that name that is no side-car here, such as a gateway's.
    NotThisKind {
        /// The profile.
        profile: String,
        /// What says so.
        mark: String,
    },
}

/// What tells that a container is a pod's proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clue {
    /// `holdfast.dev/proxy` names it, or its profile.
    Named(Origin),
    /// The profile knows a container by this name.
    Container(String),
    /// The pod carries what the profile's injector leaves.
    Mark(Mark),
}

/// A profile that a pod seems to have, and why nothing is held for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// The profile.
    pub profile: String,
    /// What says so.
    pub mark: String,
}

// === impl Profiles ===

impl Profiles {
    /// Which proxy a pod has, and what is wrong with what it says about it.
    ///
    /// If there are several, such as Istio's and Dapr's, the one that redirects everything counts.
    #[must_use]
    pub fn detect(&self, pod: &PodView, settings: &Settings) -> (Detection, Vec<Problem>) {
        let mut problems = Vec::new();
        let named = settings.proxy.as_ref();
        let detection = named
            .and_then(|name| self.named(pod, settings, name, &mut problems))
            .unwrap_or_else(|| self.search(pod, settings, &mut problems));
        if detection == Detection::None {
            tell_useless(settings, &mut problems);
        }
        (detection, problems)
    }

    /// The proxy that `holdfast.dev/proxy` names: a profile or a container.
    fn named(
        &self,
        pod: &PodView,
        settings: &Settings,
        named: &Chosen<String>,
        problems: &mut Vec<Problem>,
    ) -> Option<Detection> {
        let name = named.value.as_str();
        let mut problem = |reason: &str| {
            // What a namespace names may well be missing in some of its pods.
            if named.origin == Origin::Pod {
                let reason = format!("{reason}; the proxy is looked for by its marks");
                problems.push(Problem { key: Key::Proxy.to_string(), value: shown(name), reason });
            }
        };
        if let Some(profile) = self.get(name) {
            let Some(container) = profile.container_in(pod) else {
                problem("the pod has no container of this profile");
                return None;
            };
            let clues = vec![Clue::Named(named.origin), Clue::of(container)];
            return Some(profile.apply(pod, container, clues, settings, problems));
        }
        let Some(container) =
            pod.container(name).filter(|container| is_long_running(container.role))
        else {
            problem("there is no profile and no running container of this name");
            return None;
        };
        if let (Some(ready), Some(ports)) = (&settings.ready, &settings.ports) {
            let clue = Clue::Named(named.origin);
            return Some(Detection::Proxy(own_proxy(container, clue, &ready.value, &ports.value)));
        }
        let known = self.iter().find(|profile| {
            profile.containers.iter().any(|pattern| matches(pattern, &container.name))
        });
        let Some(profile) = known else {
            problem(
                "a container without a profile needs holdfast.dev/ready and holdfast.dev/ports",
            );
            return None;
        };
        let clues = vec![Clue::Named(named.origin), Clue::of(container)];
        Some(profile.apply(pod, container, clues, settings, problems))
    }

    /// The profile whose container's name a pod has without any of its marks.
    pub(in super::super) fn unmarked(&self, pod: &PodView) -> Option<Unused> {
        self.iter().find_map(|profile| {
            let container = profile.container_in(pod)?;
            let evidence = profile.evidence(pod, Some(container));
            let unmet =
                Condition { when: profile.marks.clone(), unless: Vec::new() }.check(evidence);
            Some(Unused { profile: profile.name.clone(), mark: unmet.err()?.to_string() })
        })
    }

    /// The proxy that the pod's containers and marks tell of.
    fn search(&self, pod: &PodView, settings: &Settings, problems: &mut Vec<Problem>) -> Detection {
        let mut best = Detection::None;
        let mut about_best = Vec::new();
        for profile in self.iter() {
            let container = profile.container_in(pod);
            let evidence = profile.evidence(pod, container);
            let marks = &profile.marks;
            let mark = marks.iter().find(|mark| mark.is_on(evidence));
            let is_marked = marks.is_empty() || mark.is_some();
            let not_this_kind = profile.not_this_kind.iter().find(|mark| mark.is_on(evidence));
            let mut about_found = Vec::new();
            let found = match (not_this_kind, container) {
                // Pods of a mesh without side-cars, such as Istio's ambient mode, have no container.
                (Some(mark), _) => {
                    Detection::NotThisKind { profile: profile.name.clone(), mark: mark.to_string() }
                }
                (None, Some(container)) if is_marked => {
                    let mark = mark.cloned().map(Clue::Mark);
                    let clues = [Clue::of(container)].into_iter().chain(mark).collect();
                    profile.apply(pod, container, clues, settings, &mut about_found)
                }
                (None, _) => continue,
            };
            if found.rank() > best.rank() || best == Detection::None {
                best = found;
                about_best = about_found;
            }
        }
        problems.append(&mut about_best);
        best
    }
}

/// Tells of ports and checks that no proxy uses.
fn tell_useless(settings: &Settings, problems: &mut Vec<Problem>) {
    let from_pod = |key: Key, origin: Origin, value: String| {
        let reason = "no proxy is known in this pod; holdfast.dev/proxy can name its container";
        (origin == Origin::Pod).then(|| Problem {
            key: key.to_string(),
            value,
            reason: reason.to_owned(),
        })
    };
    if let Some(ports) = &settings.ports {
        problems.extend(from_pod(Key::Ports, ports.origin, list(&ports.value)));
    }
    if let Some(ready) = &settings.ready {
        problems.extend(from_pod(Key::Ready, ready.origin, shown(&ready.value.to_string())));
    }
}

/// A proxy that the pod describes itself.
fn own_proxy(container: &ContainerView, clue: Clue, ready: &ReadyCheck, ports: &[u16]) -> Proxy {
    Proxy {
        profile: container.name.clone(),
        container: container.name.clone(),
        clues: vec![clue],
        setup_containers: Vec::new(),
        // The application may run as the same user; the container alone tells them apart.
        uid: None,
        ready: vec![ready.clone()],
        kube_ready: *ready == ReadyCheck::Kube,
        ports: ports.to_vec(),
        dns_port: None,
        guessed: false,
        redirects: false,
        exclusion_hint: None,
    }
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

// === impl Detection ===

impl Detection {
    /// The proxy, if there is one to hold for.
    #[must_use]
    pub const fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Proxy(proxy) => Some(proxy),
            Self::None | Self::RedirectOff { .. } | Self::NotThisKind { .. } => None,
        }
    }

    /// Of several the highest counts; of several with the same rank the first.
    const fn rank(&self) -> u8 {
        match self {
            Self::Proxy(Proxy { redirects: true, .. }) => 4,
            Self::Proxy(_) => 3,
            Self::RedirectOff { .. } => 2,
            Self::NotThisKind { .. } => 1,
            Self::None => 0,
        }
    }
}

// === impl Clue ===

impl Clue {
    fn of(container: &ContainerView) -> Self {
        Self::Container(container.name.clone())
    }
}

// === impl Profile ===

impl Profile {
    fn evidence<'a>(&'a self, pod: &'a PodView, proxy: Option<&'a ContainerView>) -> Evidence<'a> {
        Evidence { pod, proxy, setup_patterns: &self.setup_containers }
    }

    /// What it comes to in this pod, with this container as its proxy.
    fn apply(
        &self,
        pod: &PodView,
        container: &ContainerView,
        clues: Vec<Clue>,
        settings: &Settings,
        problems: &mut Vec<Problem>,
    ) -> Detection {
        let evidence = self.evidence(pod, Some(container));
        let inactive = self.active.check(evidence).err();
        if let (Some(unmet), None) = (&inactive, &settings.ports) {
            return Detection::RedirectOff { profile: self.name.clone(), mark: unmet.to_string() };
        }
        // With ports of its own an inactive one is a side-car that the application dials itself.
        let redirects = self.redirects && inactive.is_none();
        let mut ports = settings
            .ports
            .as_ref()
            .map_or_else(|| self.ports_in(evidence), |ports| ports.value.clone());
        if ports.is_empty() {
            problems.push(Problem {
                key: Key::Ports.to_string(),
                value: String::new(),
                reason: format!(
                    "the pod does not tell at which port {} listens; this annotation can",
                    self.name
                ),
            });
            return Detection::None;
        }
        if ports.len() > MAX_PORTS {
            problems.push(Problem {
                key: Key::Ports.to_string(),
                value: shown(&list(&ports)),
                reason: format!(
                    "{} listens at more ports than the {MAX_PORTS} that can be held; the first are",
                    self.name
                ),
            });
            ports.truncate(MAX_PORTS);
        }
        let (ready, kube_ready) = match &settings.ready {
            Some(check) => (vec![check.value.clone()], check.value == ReadyCheck::Kube),
            None => (self.checks_in(evidence, &ports), self.kube_ready && container.spec.is_probed),
        };
        Detection::Proxy(Proxy {
            profile: self.name.clone(),
            container: container.name.clone(),
            clues,
            setup_containers: evidence.setup().map(|setup| setup.name.clone()).collect(),
            uid: self.uid_in(evidence),
            ready,
            kube_ready,
            ports,
            dns_port: self.dns.as_ref().filter(|_| redirects).and_then(|dns| dns.port_in(evidence)),
            guessed: false,
            redirects,
            exclusion_hint: self.exclusion_hint.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
