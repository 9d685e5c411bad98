//! What can be asked of a pod.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};

use super::Pod;
use crate::{cgroup::Cgroup, mesh::Mesh, netns::Netns};

impl Pod {
    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        &self.inner.spec.namespace
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// The uid that kubelet knows it by: `metadata.uid`, but for a static pod.
    pub fn uid(&self) -> &str {
        &self.inner.uid
    }

    pub(super) fn mesh(&self) -> Result<Mesh> {
        self.inner.spec.mesh.context("the pod has no proxy")
    }

    pub(super) fn must_have(&self, container: &str) -> Result<()> {
        let known = self.inner.lock().container(container).is_some();
        ensure!(known, "pod {} has no container {container}", self.name());
        Ok(())
    }

    /// The pod's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.inner.cgroup
    }

    /// The cgroup of a container that runs or was the last to run under this name.
    pub fn container_cgroup(&self, name: &str) -> Result<Cgroup> {
        let mut state = self.inner.lock();
        let id = state
            .container(name)
            .and_then(|container| container.id().cloned())
            .with_context(|| format!("container {name} was never started"))?;
        Ok(self.inner.container_cgroup(&id))
    }

    /// The pod's network namespace; the caller's own for a host-network pod.
    pub fn netns(&self) -> Result<Netns> {
        self.inner.lock().netns()?.try_clone()
    }

    /// The pod's IPv4 address.
    pub fn ip_v4(&self) -> Ipv4Addr {
        self.inner.lock().addresses.v4
    }

    /// The pod's IPv6 address.
    pub fn ip_v6(&self) -> Ipv6Addr {
        self.inner.lock().addresses.v6
    }
}
