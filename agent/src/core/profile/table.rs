//! The profiles of one agent: its own and those of its operator.

use std::collections::{BTreeMap, BTreeSet};

use agent_ebpf::gate::MAX_PORTS;

use super::{
    super::{
        ContainerRole, ContainerView, NamespaceView, PodView, Problem, Proxy, ReadyCheck,
        settings::name,
    },
    CheckKind, Mark, Profile, Reference, Wish, matches,
    source::as_port,
};

/// The profiles that come with holdfast.
const BUILTIN: &str = include_str!("builtin.yaml");

/// The profiles of one agent, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles(Vec<Profile>);

/// What is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profiles[{position}] ({name}): {key}: {reason}")]
pub struct ProfilesError {
    position: usize,
    name: String,
    key: &'static str,
    reason: String,
}

// === impl Profiles ===

impl Default for Profiles {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Profiles {
    /// Those that come with holdfast.
    #[must_use]
    pub fn builtin() -> Self {
        let profiles = serde_saphyr::from_str(BUILTIN).expect("a test reads the same text");
        Self(profiles)
    }

    /// Those of this name.
    #[cfg(test)]
    pub(in super::super) fn only(self, name: &str) -> Self {
        Self(self.0.into_iter().filter(|profile| profile.name == name).collect())
    }

    /// Those that come with holdfast and the operator's own. One of these with the name of one of
    /// those takes its place; the others are tried first.
    ///
    /// # Errors
    ///
    /// If one of them can never work.
    pub fn with(own: Vec<Profile>) -> Result<Self, ProfilesError> {
        let mut names = BTreeSet::new();
        for (position, profile) in own.iter().enumerate() {
            let error = |(key, reason): (&'static str, String)| ProfilesError {
                position,
                name: super::super::settings::shown(&profile.name),
                key,
                reason,
            };
            validate(profile).map_err(error)?;
            if !names.insert(&profile.name) {
                return Err(error(("name", "another profile has it".to_owned())));
            }
        }
        let Self(mut profiles) = Self::builtin();
        let mut added = Vec::new();
        for profile in own {
            match profiles.iter_mut().find(|builtin| builtin.name == profile.name) {
                Some(builtin) => *builtin = profile,
                None => added.push(profile),
            }
        }
        added.append(&mut profiles);
        Ok(Self(added))
    }

    /// All of them, in the order in which they are tried.
    pub fn iter(&self) -> std::slice::Iter<'_, Profile> {
        self.0.iter()
    }

    /// Everything in the profiles that can be the name of something in a pod: of an annotation, of a
    /// label, of a variable. Other words are among them.
    #[must_use]
    pub fn words(&self) -> BTreeSet<String> {
        fn collect(value: &serde_json::Value, into: &mut BTreeSet<String>) {
            match value {
                // A reference may go on with a path, and a mark with a value.
                serde_json::Value::String(text) => {
                    into.extend(text.split(['#', '=']).next().map(str::to_owned));
                }
                serde_json::Value::Array(all) => all.iter().for_each(|one| collect(one, into)),
                serde_json::Value::Object(all) => all.values().for_each(|one| collect(one, into)),
                _ => {}
            }
        }
        let profiles = serde_json::to_value(&self.0).expect("a profile's keys are names");
        let mut words = BTreeSet::new();
        collect(&profiles, &mut words);
        words
    }

    /// The one with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.iter().find(|profile| profile.name == name)
    }

    /// The ports on which proxies take the applications' connections, where nobody has chosen others;
    /// those of built-in profiles first, each once.
    #[must_use]
    pub fn default_ports(&self) -> Vec<u16> {
        let mut known = BTreeSet::new();
        let ports = self.iter().rev().flat_map(Profile::default_ports);
        ports.filter(|port| known.insert(*port)).collect()
    }

    /// Whether the pods of a namespace are part of a mesh's control plane.
    #[must_use]
    pub fn is_control_plane(&self, namespace: &str) -> bool {
        self.iter().any(|profile| profile.control_plane_namespaces.iter().any(|n| n == namespace))
    }

    /// What applies to a pod of which nothing is known but that it is there: everything that any
    /// mesh with a redirect could have in it.
    ///
    /// Its `container` is empty: a proxy never connects to its own ports, so there is no need to
    /// tell it apart, and an application's container may be called `envoy` as well. Of `ports` and
    /// `ready` any one can be the right one. Captured DNS is held at the one port that most meshes
    /// use; whoever uses another is held as soon as the API has told.
    #[must_use]
    pub fn unknown_pod(&self) -> Proxy {
        let mut proxy = Proxy {
            profile: "unknown".to_owned(),
            container: String::new(),
            clues: Vec::new(),
            setup_containers: Vec::new(),
            uid: None,
            ready: Vec::new(),
            kube_ready: false,
            ports: Vec::new(),
            dns_port: None,
            guessed: true,
            redirects: true,
            exclusion_hint: None,
        };
        let mut dns_ports: Vec<u16> = Vec::new();
        for profile in self.iter().filter(|profile| profile.redirects) {
            proxy.kube_ready |= profile.kube_ready;
            for pattern in &profile.setup_containers {
                push_new(&mut proxy.setup_containers, pattern.clone());
            }
            let ports: Vec<u16> = profile.default_ports().collect();
            // That somebody listens says nothing where it is not known which mesh it is.
            let checks = profile.ready.iter().filter_map(|check| match &check.check {
                CheckKind::Check(check @ ReadyCheck::Http { .. }) => Some(check.clone()),
                CheckKind::Check(ReadyCheck::Tcp { .. } | ReadyCheck::Kube)
                | CheckKind::Listening => None,
            });
            checks.for_each(|check| push_new(&mut proxy.ready, check));
            ports.into_iter().for_each(|port| push_new(&mut proxy.ports, port));
            dns_ports
                .extend(profile.dns.as_ref().and_then(|dns| dns.port.default).and_then(as_port));
        }
        proxy.ports.truncate(MAX_PORTS);
        // The first of the most frequent: `max_by_key` would return the last.
        let count = |port: &u16| dns_ports.iter().filter(|other| *other == port).count();
        proxy.dns_port = dns_ports.iter().rev().copied().max_by_key(count);
        proxy
    }

    /// What the annotations of the meshes on a pod ask for, as far as it has their proxies.
    pub(in super::super) fn wish_of_pod(
        &self,
        pod: &PodView,
        problems: &mut Vec<Problem>,
    ) -> Option<bool> {
        let mut wish = None;
        for read in self.wishes(pod).map(|wish| wish.read(&pod.annotations)) {
            match read {
                Ok(found) => wish = wish.or(found),
                Err(problem) => problems.push(problem),
            }
        }
        wish
    }

    /// The same of its namespace.
    pub(in super::super) fn wish_of_namespace(
        &self,
        pod: &PodView,
        namespace: &NamespaceView,
    ) -> Option<bool> {
        self.wishes(pod)
            .filter(|wish| wish.on_namespace)
            .find_map(|wish| wish.read(&namespace.annotations).ok().flatten())
    }

    /// The annotation of a mesh that says whether to hold the pod: the first among these, the pod's
    /// or, where the mesh reads them there, its namespace's.
    pub(in super::super) fn wish_source(
        &self,
        pod: &PodView,
        annotations: &BTreeMap<String, String>,
        on_namespace: bool,
    ) -> Option<&Reference> {
        self.wishes(pod)
            .filter(|wish| wish.on_namespace || !on_namespace)
            .find(|wish| matches!(wish.read(annotations), Ok(Some(_))))
            .map(|wish| &wish.annotation)
    }

    fn wishes<'a>(&'a self, pod: &PodView) -> impl Iterator<Item = &'a Wish> {
        self.iter()
            .filter(|profile| profile.container_in(pod).is_some())
            .flat_map(|profile| &profile.hold_wishes)
    }
}

fn push_new<T: PartialEq>(all: &mut Vec<T>, new: T) {
    if !all.contains(&new) {
        all.push(new);
    }
}

// === impl Profile ===

impl Profile {
    /// The container of its proxy in a pod, judged by its name alone.
    pub(super) fn container_in<'a>(&self, pod: &'a PodView) -> Option<&'a ContainerView> {
        pod.containers.iter().find(|container| {
            is_long_running(container.role)
                && self.containers.iter().any(|pattern| matches(pattern, &container.name))
        })
    }

    /// The ports of a pod that tells no others.
    pub fn default_ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().filter_map(|spec| spec.default).filter_map(as_port)
    }
}

/// Whether a container of this role can be a proxy.
pub(super) const fn is_long_running(role: ContainerRole) -> bool {
    matches!(role, ContainerRole::App | ContainerRole::Sidecar)
}

/// Refuses what can never work.
fn validate(profile: &Profile) -> Result<(), (&'static str, String)> {
    let Profile {
        name: own_name,
        containers,
        marks,
        not_this_kind,
        setup_containers,
        redirects: _,
        active,
        uid: _,
        ready,
        kube_ready,
        ports,
        dns,
        control_plane_namespaces,
        hold_wishes,
        exclusion_hint: _,
    } = profile;
    let rule = |key: &'static str, reason: &str| Err((key, reason.to_owned()));

    if let Err(error) = name(own_name) {
        return rule("name", &error.to_string());
    }
    for (key, patterns) in [("containers", containers), ("setup-containers", setup_containers)] {
        if patterns.iter().any(|pattern| !is_pattern(pattern)) {
            return rule(key, "it must be containers' names; one * may stand at their end");
        }
    }
    if containers.is_empty() {
        return rule("containers", "there must be one at least");
    }
    if ready.is_empty() {
        return rule("ready", "there must be one at least");
    }
    if !kube_ready && ready.iter().all(|spec| spec.check == CheckKind::Check(ReadyCheck::Kube)) {
        return rule("ready", "with kube-ready: false, kube alone would never open the gate");
    }
    for spec in ready {
        let has_port = matches!(
            spec.check,
            CheckKind::Check(ReadyCheck::Http { .. } | ReadyCheck::Tcp { .. })
        );
        if !has_port && !spec.port_from.is_empty() {
            return rule("ready", "port-from needs a check with a port");
        }
    }
    if ports.is_empty() {
        return rule("ports", "there must be one at least");
    }
    if ports.len() > MAX_PORTS {
        return rule("ports", &format!("only {MAX_PORTS} can be held"));
    }
    for spec in ports {
        if spec.default.is_none() && spec.from.is_empty() && spec.each.is_none() {
            return rule("ports", "there must be a default, or something to take it from");
        }
        if spec.default.is_some_and(|port| as_port(port).is_none()) {
            return rule("ports", "it must be a port from 1 to 65535");
        }
    }
    let mut conditions = vec![
        ("marks", marks),
        ("not-this-kind", not_this_kind),
        ("active", &active.when),
        ("active", &active.unless),
    ];
    if let Some(dns) = dns {
        if dns.port.default.is_some_and(|port| as_port(port).is_none()) {
            return rule("dns", "it must be a port from 1 to 65535");
        }
        if dns.port.default.is_none() && dns.port.from.is_empty() {
            return rule("dns", "there must be a default, or something to take it from");
        }
        conditions.extend([("dns", &dns.when), ("dns", &dns.unless)]);
    }
    conditions.extend(ready.iter().map(|spec| ("ready", &spec.when)));
    for (key, marks) in conditions {
        if marks.iter().any(Mark::is_nameless) {
            return rule(key, "a mark has no name");
        }
    }
    if control_plane_namespaces.iter().any(|namespace| name(namespace).is_err()) {
        return rule("control-plane-namespaces", "it must be namespaces' names");
    }
    for Wish { annotation, enabled, disabled, on_namespace: _ } in hold_wishes {
        let lower = |value: &String| *value == value.to_ascii_lowercase();
        if annotation.key.is_empty() || !enabled.iter().chain(disabled).all(lower) {
            return rule("hold-wishes", "it must have an annotation, and values in lower case");
        }
    }
    Ok(())
}

fn is_pattern(pattern: &str) -> bool {
    name(pattern.strip_suffix('*').unwrap_or(pattern)).is_ok()
}

#[cfg(test)]
mod tests;
