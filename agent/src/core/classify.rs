//! Whom a closed gate holds.

use super::{ContainerRole, PodView, Profile};

/// What a container is to its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// The pause container that owns the pod's namespaces.
    Sandbox,
    /// A container of the pod's spec.
    Container,
}

/// Which container of the pod a cgroup belongs to, from its OCI bundle or from the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerIdentity {
    /// Sandbox or container.
    pub kind: ContainerKind,
    /// Its name in the pod's spec; empty for a sandbox.
    pub name: String,
}

/// What a closed gate does with a container's connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Held.
    Hold,
    /// Let through.
    Pass,
}

/// The verdict on one container.
///
/// Holding is the safe answer to everything unknown: it costs a delay, and the verdict is given
/// anew when more is known. Passed are the proxy itself, and whoever runs before a proxy can
/// exist: a hold there would wait for a proxy that waits for its end.
#[must_use]
pub(super) fn verdict(
    identity: &ContainerIdentity,
    pod: Option<&PodView>,
    profile: &Profile,
) -> Verdict {
    let name = identity.name.as_str();
    if identity.kind == ContainerKind::Sandbox
        || name == profile.proxy_container
        || profile.setup_containers.contains(&name)
    {
        return Verdict::Pass;
    }
    let Some(pod) = pod else { return Verdict::Hold };
    let position = |name: &str| pod.containers.iter().position(|container| container.name == name);
    let Some(own) = position(name) else {
        return Verdict::Hold;
    };
    match pod.containers[own].role {
        ContainerRole::App | ContainerRole::Ephemeral => Verdict::Hold,
        ContainerRole::Init | ContainerRole::Sidecar => {
            let behind_native_proxy = position(profile.proxy_container).is_some_and(|proxy| {
                proxy < own && pod.containers[proxy].role == ContainerRole::Sidecar
            });
            if behind_native_proxy { Verdict::Hold } else { Verdict::Pass }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::*, *};

    fn pod(containers: &[(&str, ContainerRole)]) -> PodView {
        PodView {
            uid: PodUid::new("u"),
            name: PodName::new("shop", "cart"),
            labels: BTreeMap::new(),
            host_network: false,
            terminating: false,
            finished: false,
            containers: containers
                .iter()
                .map(|(name, role)| ContainerView {
                    name: (*name).to_owned(),
                    role: *role,
                    id: None,
                    ready: false,
                })
                .collect(),
        }
    }

    fn container(name: &str) -> ContainerIdentity {
        ContainerIdentity { kind: ContainerKind::Container, name: name.to_owned() }
    }

    #[test]
    fn only_those_who_can_have_a_proxy_are_held() {
        use ContainerRole::{App, Ephemeral, Init, Sidecar};
        use Verdict::{Hold, Pass};
        let classic = pod(&[
            ("istio-init", Init),
            ("migrate", Init),
            ("app", App),
            ("istio-proxy", App),
            ("debugger", Ephemeral),
        ]);
        let native = pod(&[
            ("istio-init", Init),
            ("vault", Sidecar),
            ("istio-proxy", Sidecar),
            ("migrate", Init),
            ("shipper", Sidecar),
            ("app", App),
        ]);
        for (pod, name, expected) in [
            (&classic, "istio-init", Pass),
            (&classic, "migrate", Pass),
            (&classic, "app", Hold),
            (&classic, "istio-proxy", Pass),
            (&classic, "debugger", Hold),
            (&classic, "unheard-of", Hold),
            (&native, "istio-init", Pass),
            (&native, "vault", Pass),
            (&native, "istio-proxy", Pass),
            (&native, "migrate", Hold),
            (&native, "shipper", Hold),
            (&native, "app", Hold),
        ] {
            assert_eq!(verdict(&container(name), Some(pod), &ISTIO), expected, "{name}");
        }
    }

    #[test]
    fn without_the_api_the_proxy_and_its_setup_pass_and_others_are_held() {
        for (name, expected) in [
            ("istio-proxy", Verdict::Pass),
            ("istio-init", Verdict::Pass),
            ("istio-validation", Verdict::Pass),
            ("app", Verdict::Hold),
        ] {
            assert_eq!(verdict(&container(name), None, &ISTIO), expected, "{name}");
        }
        let pause = ContainerIdentity { kind: ContainerKind::Sandbox, name: String::new() };
        assert_eq!(verdict(&pause, None, &ISTIO), Verdict::Pass);
    }
}
