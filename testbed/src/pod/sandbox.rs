//! The pod's sandbox: a pause process that holds its namespaces, its network, the mesh's rules.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};

use super::{Inner, Pod};
use crate::{
    apps,
    cgroup::Cgroup,
    container::ContainerId,
    lane::Lane,
    netns::Netns,
    node,
    process::{Network, Process},
};

/// A killed process takes milliseconds to be reaped; this long only on a machine in trouble.
const REAP_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Sandbox {
    id: ContainerId,
    netns: Netns,
    pause: Process,
}

impl Sandbox {
    fn start(pod: &Inner, network: &Network<'_>) -> Result<Self> {
        let id = ContainerId::random()?;
        pod.bundle(&id, &id, None, None).write(&pod.node.bundles())?;
        let cgroup = pod.container_cgroup(&id);
        Cgroup::create(cgroup.path())?;
        let pause = Process::spawn(
            &apps::testbed_app()?.arg("pause"),
            Some(&cgroup),
            network,
            Box::new(|_| {}),
        )?;
        let netns = Netns::of_process(pause.pid())?;
        Ok(Self { id, netns, pause })
    }

    pub(super) fn id(&self) -> &ContainerId {
        &self.id
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(super) fn pid(&self) -> u32 {
        self.pause.pid()
    }

    /// After its cgroup has been killed: removes what is left of it.
    pub(super) fn wait_gone(self, node: &node::Inner) {
        // Its death is certain by now; waiting keeps zombies out of the test's process list.
        let _ = self.pause.wait(REAP_WITHIN);
        let _ = fs::remove_dir_all(node.bundles().join(self.id.as_str()));
    }
}

impl Pod {
    /// The runtime: the sandbox's bundle, cgroup and pause process, and with it the namespace.
    pub fn start_sandbox(&self) -> Result<()> {
        let on_host = self.inner.spec.host_network;
        self.start_sandbox_with(&if on_host { Network::Inherit } else { Network::New })
    }

    /// As [`Self::start_sandbox`], with a network that is there already, rules and all: the pod's
    /// containers can start afterwards.
    pub fn start_sandbox_in(&self, lane: &Lane) -> Result<()> {
        self.start_sandbox_with(&Network::Enter(lane.netns()))
    }

    fn start_sandbox_with(&self, network: &Network<'_>) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        ensure!(state.sandbox.is_none(), "the sandbox already runs");
        state.sandbox = Some(Sandbox::start(inner, network)?);
        inner.report(&state);
        Ok(())
    }

    /// The CNI plugin: loopback up, a veth pair to the outside, addresses and routes.
    pub fn connect_network(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        if !inner.spec.host_network {
            let netns = state.netns()?;
            // ::6 is Istio's and Kuma's source of connections to the application; 127.0.0.6 needs
            // no address of its own.
            netns.ip("link set lo up\naddr add ::6/128 dev lo nodad\n")?;
            inner.node.join(netns, &state.addresses)?;
        }
        state.networked = true;
        inner.report(&state);
        Ok(())
    }

    /// The mesh's init container: the redirect rules. Nothing happens in a pod without a mesh.
    pub fn redirect(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        let Some(mesh) = inner.spec.mesh else {
            return Ok(());
        };
        if inner.spec.is_redirected {
            inner.spec.redirect.apply(mesh, &inner.spec.nameservers, state.netns()?)?;
        }
        if let Some(init) = mesh.init().and_then(|name| state.container(name)) {
            init.completed();
        }
        inner.report(&state);
        Ok(())
    }

    /// The sandbox dies and takes every container along; kubelet makes another one for the same
    /// pod: the same cgroup, another namespace, another address. Its containers are yet to be
    /// started again.
    pub fn recreate_sandbox(&self) -> Result<()> {
        let inner = &self.inner;
        let lost = {
            let mut state = inner.lock();
            state.networked = false;
            state.addresses = inner.node.next_addresses();
            state.sandbox.take()
        };
        for dir in inner.cgroup.tree() {
            if dir != inner.cgroup.path() {
                Cgroup::at(dir).remove()?;
            }
        }
        if let Some(lost) = lost {
            lost.wait_gone(&inner.node);
        }
        inner.report(&inner.lock());
        self.start_sandbox()?;
        self.connect_network()?;
        self.redirect()
    }
}
