//! Whom a closed gate holds.

use serde::{Deserialize, Serialize};

use super::{ContainerRole, ContainerView, PodView, Proxy};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Held.
    Hold,
    /// Let through.
    Pass,
    /// Let through; its first connect to the proxy's port is reported.
    PassAndTell,
}

/// Why a closed gate does with a container's connects what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// It is the pod's sandbox, which runs nothing.
    Sandbox,
    /// It is the proxy.
    Proxy,
    /// It sets the redirect up or checks it.
    Setup,
    /// Kubelet starts the proxy only after it: a hold would wait for a proxy that waits for its end.
    BeforeProxy,
    /// It is served by the proxy, or nothing else is known of it.
    Served,
}

// === impl Ground ===

impl Ground {
    /// What follows from it.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Sandbox | Self::Proxy | Self::Setup => Verdict::Pass,
            Self::BeforeProxy => Verdict::PassAndTell,
            Self::Served => Verdict::Hold,
        }
    }
}

/// What decides about one container.
///
/// Holding is the safe answer to everything unknown: it costs a delay, and the verdict is given
/// anew when more is known. Passed are the proxy itself, and whoever runs before a proxy can
/// exist: a hold there would wait for a proxy that waits for its end.
#[must_use]
pub(super) fn ground(identity: &ContainerIdentity, pod: Option<&PodView>, proxy: &Proxy) -> Ground {
    let name = identity.name.as_str();
    if identity.kind == ContainerKind::Sandbox {
        return Ground::Sandbox;
    }
    if name == proxy.container {
        return Ground::Proxy;
    }
    let unknown = if proxy.is_setup(name) { Ground::Setup } else { Ground::Served };
    let Some(pod) = pod else { return unknown };
    let position = |name: &str| pod.containers.iter().position(|container| container.name == name);
    let Some(own) = position(name) else {
        return Ground::Served;
    };
    let ContainerView { role, spec, .. } = &pod.containers[own];
    let proxy_comes_later = || {
        position(&proxy.container)
            .is_none_or(|proxy| own < proxy || pod.containers[proxy].role != ContainerRole::Sidecar)
    };
    if *role == ContainerRole::Init && proxy.is_setup(name) {
        return Ground::Setup;
    }
    let waited_for = match role {
        ContainerRole::App | ContainerRole::Ephemeral => false,
        ContainerRole::Init => true,
        // Kubelet goes on to the next container at once, unless it has a reason to wait.
        ContainerRole::Sidecar => spec.blocks_next,
    };
    if waited_for && proxy_comes_later() { Ground::BeforeProxy } else { Ground::Served }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::*, *};

    /// A container whose name begins with `slow` has a startup probe.
    fn pod(containers: &[(&str, ContainerRole)]) -> PodView {
        PodView {
            uid: PodUid::new("u"),
            name: PodName::new("shop", "cart"),
            workload: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            host_network: false,
            terminating: false,
            finished: false,
            containers: containers
                .iter()
                .map(|(name, role)| ContainerView {
                    name: (*name).to_owned(),
                    role: *role,
                    spec: ContainerSpec {
                        blocks_next: name.starts_with("slow"),
                        ..ContainerSpec::default()
                    },
                    id: None,
                    ready: false,
                })
                .collect(),
        }
    }

    fn proxy() -> Proxy {
        Proxy {
            profile: "istio".to_owned(),
            container: "istio-proxy".to_owned(),
            clues: Vec::new(),
            setup_containers: vec!["istio-init".to_owned(), "istio-validation".to_owned()],
            uid: Some(1337),
            ready: vec![ReadyCheck::Kube],
            kube_ready: true,
            ports: vec![15001],
            dns_port: None,
            guessed: false,
            redirects: true,
            exclusion_hint: None,
        }
    }

    fn container(name: &str) -> ContainerIdentity {
        ContainerIdentity { kind: ContainerKind::Container, name: name.to_owned() }
    }

    #[test]
    fn only_those_who_can_have_a_proxy_are_held() {
        use ContainerRole::{App, Ephemeral, Init, Sidecar};
        use Verdict::{Hold, Pass, PassAndTell};
        let classic = pod(&[
            ("istio-init", Init),
            ("migrate", Init),
            ("app", App),
            ("istio-proxy", App),
            ("debugger", Ephemeral),
            ("istio-validation", App),
        ]);
        let native = pod(&[
            ("istio-init", Init),
            ("vault", Sidecar),
            ("slow-vault", Sidecar),
            ("istio-proxy", Sidecar),
            ("migrate", Init),
            ("shipper", Sidecar),
            ("app", App),
        ]);
        for (pod, name, expected) in [
            (&classic, "istio-init", Pass),
            (&classic, "migrate", PassAndTell),
            (&classic, "app", Hold),
            (&classic, "istio-proxy", Pass),
            (&classic, "debugger", Hold),
            (&classic, "unheard-of", Hold),
            // Only an init container sets anything up.
            (&classic, "istio-validation", Hold),
            (&native, "istio-init", Pass),
            (&native, "vault", Hold),
            (&native, "slow-vault", PassAndTell),
            (&native, "istio-proxy", Pass),
            (&native, "migrate", Hold),
            (&native, "shipper", Hold),
            (&native, "app", Hold),
        ] {
            assert_eq!(ground(&container(name), Some(pod), &proxy()).verdict(), expected, "{name}");
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
            assert_eq!(ground(&container(name), None, &proxy()).verdict(), expected, "{name}");
        }
        let pause = ContainerIdentity { kind: ContainerKind::Sandbox, name: String::new() };
        assert_eq!(ground(&pause, None, &proxy()).verdict(), Verdict::Pass);
    }
}
