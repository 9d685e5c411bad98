//! What a pod should be.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use crate::{
    cgroup::Qos,
    mesh::Mesh,
    redirect::{Inbound, Redirect, Tool},
};

/// The proxy's container, as Istio's injector names it.
pub const PROXY: &str = Mesh::Istio.proxy();

/// How a container takes part in its pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: a native sidecar.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added while the pod runs, for debugging.
    Ephemeral,
}

impl Role {
    /// Whether it stands among the init containers.
    pub(crate) fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }
}

/// When to start a container that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its end was.
    #[default]
    Always,
    /// Only after a failure.
    OnFailure,
    /// Not at all, as in most Jobs.
    Never,
}

impl RestartPolicy {
    pub(crate) fn as_api(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::OnFailure => "OnFailure",
            Self::Never => "Never",
        }
    }
}

/// A pod's description. Starts out as an Istio-injected pod with one container, `app`.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) containers: Vec<String>,
    /// The application's init containers in front of a native proxy, and those behind it.
    before: Vec<(String, Role)>,
    after: Vec<(String, Role)>,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) native_sidecar: bool,
    pub(crate) is_redirected: bool,
    pub(crate) is_ambient: bool,
    pub(crate) is_static: bool,
    pub(crate) host_network: bool,
    pub(crate) restart_policy: RestartPolicy,
    pub(crate) qos: Qos,
    pub(crate) redirect: Redirect,
    pub(crate) nameservers: Vec<IpAddr>,
    pub(crate) managed_fields: Option<Value>,
}

impl PodSpec {
    /// A meshed pod with one application container, `app`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            containers: vec!["app".into()],
            before: Vec::new(),
            after: Vec::new(),
            mesh: Some(Mesh::Istio),
            native_sidecar: false,
            is_redirected: true,
            is_ambient: false,
            is_static: false,
            host_network: false,
            restart_policy: RestartPolicy::default(),
            qos: Qos::default(),
            redirect: Redirect::default(),
            nameservers: Vec::new(),
            managed_fields: None,
        }
    }

    /// Sets `metadata.managedFields`, which the API server makes and nobody reads: a quarter and more of a
    /// pod's bytes.
    #[must_use]
    pub fn managed_fields(mut self, fields: Value) -> Self {
        self.managed_fields = Some(fields);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// The application's containers; the proxy is not named here.
    #[must_use]
    pub fn containers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.containers = names.into_iter().map(Into::into).collect();
        self
    }

    /// The application's init containers; the mesh's own and a native proxy come before them.
    #[must_use]
    pub fn init_containers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.after.extend(names.into_iter().map(|name| (name.into(), Role::Init)));
        self
    }

    /// An init container in front of a native proxy, where a later webhook puts its own.
    #[must_use]
    pub fn init_before_proxy(mut self, name: impl Into<String>) -> Self {
        self.before.push((name.into(), Role::Init));
        self
    }

    /// A further native sidecar in front of the proxy.
    #[must_use]
    pub fn sidecar_before_proxy(mut self, name: impl Into<String>) -> Self {
        self.before.push((name.into(), Role::Sidecar));
        self
    }

    /// A further native sidecar behind the proxy.
    #[must_use]
    pub fn sidecar_after_proxy(mut self, name: impl Into<String>) -> Self {
        self.after.push((name.into(), Role::Sidecar));
        self
    }

    /// The proxy is this mesh's. [`Mesh::Own`] brings the annotations that name it.
    #[must_use]
    pub fn mesh(mut self, mesh: Mesh) -> Self {
        self.mesh = Some(mesh);
        if mesh == Mesh::Own {
            let port = mesh.port();
            return self
                .annotation("holdfast.dev/proxy", mesh.proxy())
                .annotation("holdfast.dev/ready", format!("tcp://:{port}"))
                .annotation("holdfast.dev/ports", port.to_string());
        }
        self
    }

    /// No proxy, no redirect rules, no trace of a mesh.
    #[must_use]
    pub fn not_meshed(mut self) -> Self {
        self.mesh = None;
        self
    }

    /// The proxy is there, and nothing is redirected to it: the plugin that should have written the
    /// rules has lost its race.
    #[must_use]
    pub fn not_redirected(mut self) -> Self {
        self.is_redirected = false;
        self
    }

    /// Part of Istio's ambient mesh: enrolled, and without a proxy of its own.
    #[must_use]
    pub fn ambient(mut self) -> Self {
        self.is_ambient = true;
        self.not_meshed()
    }

    /// The proxy is an init container with `restartPolicy: Always`.
    #[must_use]
    pub fn native_sidecar(mut self) -> Self {
        self.native_sidecar = true;
        self
    }

    /// Made from a file on the node; the API has only its mirror, under a uid of its own.
    #[must_use]
    pub fn static_pod(mut self) -> Self {
        self.is_static = true;
        self
    }

    /// The pod shares the node's network; no mesh injects such a pod.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self.not_meshed()
    }

    /// `restartPolicy`.
    #[must_use]
    pub fn restart_policy(mut self, policy: RestartPolicy) -> Self {
        self.restart_policy = policy;
        self
    }

    /// The quality-of-service class: a level of the cgroup tree.
    #[must_use]
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// A destination range, of either family, that bypasses the proxy.
    #[must_use]
    pub fn exclude_cidr(mut self, cidr: impl Into<String>) -> Self {
        self.redirect.exclude_cidrs.push(cidr.into());
        self
    }

    /// A destination port that bypasses the proxy.
    #[must_use]
    pub fn exclude_port(mut self, port: u16) -> Self {
        self.redirect.exclude_ports.push(port);
        self
    }

    /// Its applications find this nameserver in their `/etc/resolv.conf`; without one they see the
    /// machine's own.
    #[must_use]
    pub fn nameserver(mut self, address: impl Into<IpAddr>) -> Self {
        self.nameservers.push(address.into());
        self
    }

    /// The mesh captures DNS queries.
    #[must_use]
    pub fn dns_capture(mut self) -> Self {
        self.redirect.dns = true;
        self
    }

    /// Connections into the pod reach the proxy by TPROXY.
    #[must_use]
    pub fn tproxy(mut self) -> Self {
        self.redirect.inbound = Inbound::Tproxy;
        self
    }

    /// The rules are written with nftables.
    #[must_use]
    pub fn nftables(mut self) -> Self {
        self.redirect.tool = Tool::Nftables;
        self
    }

    /// Every init container in the order in which kubelet runs them.
    pub(crate) fn all_init_containers(&self) -> Vec<(&str, Role)> {
        fn of(list: &[(String, Role)]) -> impl Iterator<Item = (&str, Role)> {
            list.iter().map(|(name, role)| (name.as_str(), *role))
        }
        let mut all = Vec::new();
        all.extend(self.mesh.and_then(Mesh::init).map(|name| (name, Role::Init)));
        all.extend(of(&self.before));
        if self.native_sidecar {
            all.extend(self.mesh.map(|mesh| (mesh.proxy(), Role::Sidecar)));
        }
        all.extend(of(&self.after));
        all
    }

    /// Every main container in the order of the spec; injectors append the proxy.
    pub(crate) fn all_containers(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.containers.iter().map(String::as_str).collect();
        if !self.native_sidecar {
            names.extend(self.mesh.map(Mesh::proxy));
        }
        names
    }
}
