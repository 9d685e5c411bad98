//! What a pod should be.

use std::collections::BTreeMap;

use crate::{cgroup::Qos, redirect::Redirect};

/// The proxy's container, as Istio's injector names it.
pub const PROXY: &str = "istio-proxy";
/// The init container that writes the redirect rules.
pub const REDIRECT_INIT: &str = "istio-init";

/// A pod's description. Starts out as an Istio-injected pod with one container, `app`.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) containers: Vec<String>,
    pub(crate) init_containers: Vec<String>,
    pub(crate) meshed: bool,
    pub(crate) native_sidecar: bool,
    pub(crate) host_network: bool,
    pub(crate) qos: Qos,
    pub(crate) redirect: Redirect,
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
            init_containers: Vec::new(),
            meshed: true,
            native_sidecar: false,
            host_network: false,
            qos: Qos::default(),
            redirect: Redirect::default(),
        }
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

    /// The application's init containers; `istio-init` and a native proxy are not named here.
    #[must_use]
    pub fn init_containers<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.init_containers = names.into_iter().map(Into::into).collect();
        self
    }

    /// No proxy, no redirect rules, no trace of a mesh.
    #[must_use]
    pub fn not_meshed(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// The proxy is an init container with `restartPolicy: Always`.
    #[must_use]
    pub fn native_sidecar(mut self) -> Self {
        self.native_sidecar = true;
        self
    }

    /// The pod shares the node's network; no mesh injects such a pod.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self.not_meshed()
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

    /// Every init container in the order in which kubelet runs them.
    pub(crate) fn all_init_containers(&self) -> Vec<&str> {
        let mut names = Vec::new();
        if self.meshed {
            names.push(REDIRECT_INIT);
            if self.native_sidecar {
                names.push(PROXY);
            }
        }
        names.extend(self.init_containers.iter().map(String::as_str));
        names
    }

    /// Every main container in the order of the spec; Istio's injector appends the proxy.
    pub(crate) fn all_containers(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.containers.iter().map(String::as_str).collect();
        if self.meshed && !self.native_sidecar {
            names.push(PROXY);
        }
        names
    }

    pub(crate) fn has(&self, container: &str) -> bool {
        self.all_containers().contains(&container)
            || self.all_init_containers().contains(&container)
    }
}
