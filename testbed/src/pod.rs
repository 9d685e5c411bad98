//! A pod, and the steps by which scheduler, kubelet and container runtime bring it about.

mod container;
mod manifest;
mod spec;
mod status;

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

pub use self::container::Container;
pub use self::spec::{PROXY, PodSpec, REDIRECT_INIT};
pub(crate) use self::status::{IMAGE, now};
use crate::{
    api::Resource,
    apps,
    cgroup::Cgroup,
    container::{Bundle, ContainerId, random_uid},
    netns::Netns,
    node,
    outside::PodAddresses,
    process::{Command, Network, Process},
    proxy::{Proxy, ReadyObserver},
};

/// A pod on a node. Dropping it takes it off the node and out of the API.
#[derive(Debug)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: Arc<node::Inner>,
    spec: PodSpec,
    uid: String,
    addresses: PodAddresses,
    /// Relative to the node's root.
    dir: PathBuf,
    cgroup: Cgroup,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    published: bool,
    removed: bool,
    start_time: String,
    sandbox: Option<Sandbox>,
    networked: bool,
    containers: Vec<status::ContainerStatus>,
}

#[derive(Debug)]
struct Sandbox {
    id: ContainerId,
    netns: Netns,
    pause: Process,
}

// === impl Pod: its steps, in the order in which they happen ===

impl Pod {
    pub(crate) fn plan(node: Arc<node::Inner>, spec: PodSpec) -> Result<Self> {
        let uid = random_uid()?;
        let dir = node.options.driver.pod_dir(spec.qos, &uid);
        let cgroup = Cgroup::at(node.cgroup_root().join(&dir));
        let state = State {
            published: false,
            removed: false,
            start_time: now(),
            sandbox: None,
            networked: false,
            containers: status::initial(&spec),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                addresses: node.next_addresses(),
                node,
                spec,
                uid,
                dir,
                cgroup,
                state: Mutex::new(state),
            }),
        })
    }

    /// API server, scheduler and kubelet's first report: the object appears, is bound to the node
    /// and gets the status of what runs already.
    pub fn publish(&self) -> Result<()> {
        let inner = &self.inner;
        let api = &inner.node.api;
        let mut state = inner.lock();
        let mut object = manifest::unscheduled(&inner.spec, &inner.uid);
        api.put(Resource::Pods, object.clone());
        object["spec"]["nodeName"] = json!(inner.node.options.name);
        object["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": null,
            "lastTransitionTime": state.start_time,
        }]);
        api.put(Resource::Pods, object);
        state.published = true;
        inner.report(&state);
        Ok(())
    }

    /// Everything below, up to the redirect rules: the pod's containers can start afterwards.
    pub fn set_up(&self) -> Result<()> {
        self.create_cgroup()?;
        self.start_sandbox()?;
        self.connect_network()?;
        self.redirect()
    }

    /// kubelet: the pod's cgroup.
    pub fn create_cgroup(&self) -> Result<()> {
        Cgroup::create(self.inner.cgroup.path()).map(drop)
    }

    /// The runtime: the sandbox's bundle, cgroup and pause process, and with it the namespace.
    pub fn start_sandbox(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        ensure!(state.sandbox.is_none(), "the sandbox already runs");
        let id = ContainerId::random()?;
        inner.bundle(&id, &id, None, None).write(&inner.node.bundles())?;
        let cgroup = inner.container_cgroup(&id);
        Cgroup::create(cgroup.path())?;
        let network = if inner.spec.host_network { Network::Inherit } else { Network::New };
        let pause = Process::spawn(
            &apps::testbed_app()?.arg("pause"),
            Some(&cgroup),
            &network,
            Box::new(|_| {}),
        )?;
        let netns = Netns::of_process(pause.pid())?;
        state.sandbox = Some(Sandbox { id, netns, pause });
        inner.report(&state);
        Ok(())
    }

    /// The CNI plugin: loopback up, a veth pair to the outside, addresses and routes.
    pub fn connect_network(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        if !inner.spec.host_network {
            let netns = state.netns()?;
            netns.ip("link set lo up\n")?;
            inner.node.join(netns, &inner.addresses)?;
        }
        state.networked = true;
        inner.report(&state);
        Ok(())
    }

    /// `istio-init`: the nat rules. Nothing happens in a pod without a mesh.
    pub fn redirect(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        if inner.spec.meshed {
            inner.spec.redirect.apply(state.netns()?)?;
            if let Some(init) = state.container(REDIRECT_INIT) {
                init.completed();
            }
            inner.report(&state);
        }
        Ok(())
    }

    /// The runtime: a container's bundle and cgroup. Every call makes a new container, so a second
    /// one for the same name is a restart.
    pub fn create_container(&self, name: &str) -> Result<Container> {
        let inner = &self.inner;
        ensure!(inner.spec.has(name), "pod {} has no container {name}", inner.spec.name);
        Container::create(inner, name)
    }

    /// As [`Self::create_container`], but with no OCI bundle where one is looked for: a runtime
    /// whose layout nobody knows.
    pub fn create_container_without_bundle(&self, name: &str) -> Result<Container> {
        let inner = &self.inner;
        ensure!(inner.spec.has(name), "pod {} has no container {name}", inner.spec.name);
        Container::create_without_bundle(inner, name)
    }

    /// Creates a container and starts `command` in it, in the pod's cgroup and namespace.
    pub fn start_container(&self, name: &str, command: impl Into<Command>) -> Result<Process> {
        self.create_container(name)?.start(command)
    }

    /// As [`Self::start_container`], but kubelet does not report it until
    /// [`Self::report_hidden`] or a later start of the same container.
    pub fn start_container_silently(
        &self,
        name: &str,
        command: impl Into<Command>,
    ) -> Result<Process> {
        self.create_container(name)?.start_silently(command)
    }

    /// kubelet reports what was started silently.
    pub fn report_hidden(&self) {
        let mut state = self.inner.lock();
        for container in &mut state.containers {
            container.hidden = false;
        }
        self.inner.report(&state);
    }

    /// `kubectl exec`: one more process in a running container.
    pub fn exec(&self, container: &str, command: impl Into<Command>) -> Result<Process> {
        let cgroup = self.container_cgroup(container)?;
        let netns = self.netns()?;
        let command = self.inner.node.reachable(&command.into())?;
        Process::spawn(&command, Some(&cgroup), &Network::Enter(&netns), Box::new(|_| {}))
    }

    /// Starts Envoy in the proxy's container. It is ready some time after, see
    /// [`Proxy::wait_ready`] and [`Self::observe_ready`].
    pub fn start_proxy(&self) -> Result<Proxy> {
        let command = Proxy::command(&self.inner.node)?;
        let process = self.start_container(PROXY, command)?;
        Ok(Proxy::new(process, self.observe_ready()?))
    }

    /// Watches the proxy's readiness from inside the pod's namespace, apart from any agent.
    pub fn observe_ready(&self) -> Result<ReadyObserver> {
        Ok(ReadyObserver::start(self.netns()?))
    }

    /// kubelet's readiness of a container, which is later than the truth.
    pub fn set_kube_ready(&self, container: &str, ready: bool) -> Result<()> {
        let mut state = self.inner.lock();
        let Some(status) = state.container(container) else {
            bail!("pod {} has no container {container}", self.name());
        };
        status.ready = ready;
        self.inner.report(&state);
        Ok(())
    }

    /// The API server marks the pod for deletion; its processes go on until [`Self::delete`].
    pub fn mark_terminating(&self) {
        let now = now();
        self.patch(&json!({
            "metadata": {"deletionTimestamp": now, "deletionGracePeriodSeconds": 30},
        }));
    }

    /// Changes the API object by a JSON merge patch, as `kubectl label` and the like do.
    pub fn patch(&self, patch: &Value) {
        let (namespace, name) = (self.namespace(), self.name());
        self.inner.node.api.patch(Resource::Pods, Some(namespace), name, patch);
    }

    /// Ends every process, takes the pod off the node and deletes the API object.
    pub fn delete(self) -> Result<()> {
        self.inner.remove()
    }
}

// === impl Pod: what can be asked ===

impl Pod {
    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        &self.inner.spec.namespace
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.inner.uid
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
        self.inner.addresses.v4
    }

    /// The pod's IPv6 address.
    pub fn ip_v6(&self) -> Ipv6Addr {
        self.inner.addresses.v6
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = self.inner.remove() {
            eprintln!("testbed: remove pod {}: {error:#}", self.name());
        }
    }
}

// === impl Inner ===

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Cleaning up after a panic needs the state as it is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container_cgroup(&self, id: &ContainerId) -> Cgroup {
        let name = self.node.options.driver.container_dir(id.as_str());
        Cgroup::at(self.cgroup.path().join(name))
    }

    fn bundle<'a>(
        &'a self,
        id: &'a ContainerId,
        sandbox: &'a ContainerId,
        container: Option<&'a str>,
        sandbox_pid: Option<u32>,
    ) -> Bundle<'a> {
        Bundle {
            id,
            sandbox,
            container,
            pod_namespace: &self.spec.namespace,
            pod_name: &self.spec.name,
            pod_uid: &self.uid,
            cgroups_path: self.node.options.driver.cgroups_path(&self.dir, id.as_str()),
            sandbox_pid,
        }
    }

    /// kubelet's status update. The caller holds the state's lock, which keeps updates in order.
    fn report(&self, state: &State) {
        if !state.published || state.removed {
            return;
        }
        let ips = match (state.networked, self.spec.host_network) {
            (false, _) => Vec::new(),
            (true, true) => vec![status::HOST_IP.to_owned()],
            (true, false) => vec![self.addresses.v4.to_string(), self.addresses.v6.to_string()],
        };
        let status = status::Facts {
            spec: &self.spec,
            start_time: &state.start_time,
            ips,
            has_sandbox: state.sandbox.is_some(),
        }
        .to_json(&state.containers);
        self.node.api.set_status(&self.spec.namespace, &self.spec.name, status);
    }

    fn remove(&self) -> Result<()> {
        let sandbox = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.removed, true) {
                return Ok(());
            }
            state.sandbox.take()
        };
        let removed = if self.cgroup.path().exists() { self.cgroup.remove() } else { Ok(()) };
        if let Some(Sandbox { id, netns: _, pause }) = sandbox {
            // Its death is certain by now; waiting keeps zombies out of the test's process list.
            let _ = pause.wait(Duration::from_secs(5));
            let _ = fs::remove_dir_all(self.node.bundles().join(id.as_str()));
        }
        self.node.api.delete(Resource::Pods, Some(&self.spec.namespace), &self.spec.name);
        removed
    }
}

// === impl State ===

impl State {
    fn sandbox(&self) -> Result<&Sandbox> {
        self.sandbox.as_ref().context("the pod has no sandbox: start_sandbox() comes first")
    }

    fn netns(&self) -> Result<&Netns> {
        Ok(&self.sandbox()?.netns)
    }

    fn container(&mut self, name: &str) -> Option<&mut status::ContainerStatus> {
        self.containers.iter_mut().find(|one| one.name == name)
    }
}
