//! A pod, and the steps by which scheduler, kubelet and container runtime bring it about.

mod container;
mod facts;
mod manifest;
mod sandbox;
mod spec;
mod status;

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

pub use self::container::Container;
pub use self::spec::{PROXY, PodSpec, RestartPolicy};
pub(crate) use self::status::{IMAGE, now};
use self::{container::Dead, sandbox::Sandbox, spec::Role};
use crate::{
    api::Resource,
    cgroup::Cgroup,
    clock::monotonic_ns,
    container::{Bundle, ContainerId, random_hash, random_uid},
    dns,
    lane::Lane,
    netns::Netns,
    node,
    outside::PodAddresses,
    process::{Command, Network, Process, User},
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
    /// What kubelet calls it: names its cgroup and stands in its bundles.
    uid: String,
    /// `metadata.uid`: another one for the mirror of a static pod.
    api_uid: String,
    resolv_conf: Option<PathBuf>,
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
    addresses: PodAddresses,
    networked: bool,
    containers: Vec<status::ContainerStatus>,
    /// The runtime takes its time: containers that end stay until they are removed.
    keeps_dead: bool,
    dead: Vec<Dead>,
}

/// Between the making of a pod's cgroup and its first process kubelet sets up volumes and asks the
/// runtime for a sandbox: hundreds of milliseconds on a real node. An agent that the machine keeps
/// waiting for a moment is not late by that.
const CGROUP_TO_SANDBOX: Duration = Duration::from_millis(250);

// === impl Pod: its steps, in the order in which they happen; sandbox.rs has some more ===

impl Pod {
    pub(crate) fn plan(node: Arc<node::Inner>, spec: PodSpec) -> Result<Self> {
        let api_uid = random_uid()?;
        let uid = if spec.is_static { random_hash()? } else { api_uid.clone() };
        let resolv_conf = write_resolv_conf(&node, &spec)?;
        let dir = node.options.driver.pod_dir(spec.qos, &uid);
        let cgroup = Cgroup::at(node.cgroup_root().join(&dir));
        let state = State {
            published: false,
            removed: false,
            start_time: now(),
            sandbox: None,
            addresses: node.next_addresses(),
            networked: false,
            containers: status::initial(&spec),
            keeps_dead: false,
            dead: Vec::new(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                node,
                spec,
                uid,
                api_uid,
                resolv_conf,
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
        let hash = inner.spec.is_static.then_some(inner.uid.as_str());
        let mut object = manifest::unscheduled(&inner.spec, &inner.api_uid, hash);
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
        thread::sleep(CGROUP_TO_SANDBOX);
        self.start_sandbox()?;
        self.connect_network()?;
        self.redirect()
    }

    /// The same, with a network that is there already.
    pub fn set_up_in(&self, lane: &Lane) -> Result<()> {
        self.create_cgroup()?;
        thread::sleep(CGROUP_TO_SANDBOX);
        self.start_sandbox_in(lane)
    }

    /// kubelet: the pod's cgroup.
    pub fn create_cgroup(&self) -> Result<()> {
        Cgroup::create(self.inner.cgroup.path()).map(drop)
    }

    /// kubelet: the pod's cgroup goes, with whatever lives in it.
    pub fn remove_cgroup(&self) -> Result<()> {
        self.inner.cgroup.remove()
    }

    /// The runtime: a container's bundle and cgroup. Every call makes a new container, so a second
    /// one for the same name is a restart.
    pub fn create_container(&self, name: &str) -> Result<Container> {
        let inner = &self.inner;
        self.must_have(name)?;
        Container::create(inner, name)
    }

    /// As [`Self::create_container`], but with no OCI bundle where one is looked for: a runtime
    /// whose layout nobody knows.
    pub fn create_container_without_bundle(&self, name: &str) -> Result<Container> {
        let inner = &self.inner;
        self.must_have(name)?;
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
        let command = self.inner.prepare(command.into())?;
        Process::spawn(&command, Some(&cgroup), &Network::Enter(&netns), Box::new(|_| {}))
    }

    /// Starts Envoy in the proxy's container. It is ready some time after, see
    /// [`Proxy::wait_ready`] and [`Self::observe_ready`]. A second call is a restart: another
    /// container.
    pub fn start_proxy(&self) -> Result<Proxy> {
        let mesh = self.mesh()?;
        let command = Proxy::command(&self.inner.node, &self.inner.spec, mesh)?;
        let process = self.start_container(mesh.proxy(), command)?;
        Ok(Proxy::new(process, self.observe_ready()?))
    }

    /// Starts the proxy's container now, and Envoy in it only after `delay`. From then on its readiness
    /// is watched as closely as is possible at the price of a part of a core.
    pub fn start_proxy_after(&self, delay: Duration) -> Result<Proxy> {
        self.start_proxy_watched(delay, None)
    }

    /// As [`Self::start_proxy_after`]; at the first answer that says ready a byte is written to `bell`.
    pub(crate) fn start_proxy_watched(&self, delay: Duration, bell: Option<File>) -> Result<Proxy> {
        let mesh = self.mesh()?;
        let envoy = Proxy::command(&self.inner.node, &self.inner.spec, mesh)?;
        let User { uid, gid } = envoy.user;
        let command = Command::new("sh")
            .args(["-c", "sleep \"$0\"; exec \"$@\"", &delay.as_secs_f64().to_string()])
            .arg(&envoy.program)
            .args(&envoy.args)
            .user(uid, gid);
        let starts_ns = monotonic_ns() + u64::try_from(delay.as_nanos())?;
        let process = self.start_container(mesh.proxy(), command)?;
        let netns = self.netns()?;
        let ready = ReadyObserver::watch_from(netns, mesh.endpoint(), starts_ns, bell);
        Ok(Proxy::new(process, ready))
    }

    /// Watches the proxy's readiness from inside the pod's namespace, apart from any agent.
    pub fn observe_ready(&self) -> Result<ReadyObserver> {
        Ok(ReadyObserver::start(self.netns()?, self.mesh()?.endpoint()))
    }

    /// From now on the runtime takes its time: a container that ends has no process any more, but
    /// keeps its cgroup and its bundle until [`Self::remove_dead`].
    pub fn keep_dead_containers(&self) {
        self.inner.lock().keeps_dead = true;
    }

    /// The runtime removes what [`Self::keep_dead_containers`] has left behind.
    pub fn remove_dead(&self) -> Result<()> {
        let dead = std::mem::take(&mut self.inner.lock().dead);
        dead.iter().try_for_each(Dead::remove)
    }

    /// `kubectl debug`: one more container in the running pod, yet to be started.
    pub fn add_ephemeral_container(&self, name: &str) {
        let inner = &self.inner;
        let mut state = inner.lock();
        let container = manifest::container(&inner.spec, name, Role::Ephemeral);
        state.containers.push(status::ContainerStatus::new(&inner.spec, name, Role::Ephemeral));
        let key = (self.namespace(), self.name());
        if let Some(object) = inner.node.api.get(Resource::Pods, Some(key.0), key.1) {
            // Lists are replaced by a merge patch as a whole.
            let mut all =
                object["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
            all.push(container);
            self.patch(&json!({"spec": {"ephemeralContainers": all}}));
        }
        inner.report(&state);
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

    /// `command` as a container of this pod runs it.
    fn prepare(&self, mut command: Command) -> Result<Command> {
        command.resolv_conf.clone_from(&self.resolv_conf);
        self.node.reachable(&command)
    }

    /// kubelet's status update. The caller holds the state's lock, which keeps updates in order.
    fn report(&self, state: &State) {
        if !state.published || state.removed {
            return;
        }
        let ips = match (state.networked, self.spec.host_network) {
            (false, _) => Vec::new(),
            (true, true) => vec![status::HOST_IP.to_owned()],
            (true, false) => {
                vec![state.addresses.v4.to_string(), state.addresses.v6.to_string()]
            }
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
        if let Some(sandbox) = sandbox {
            sandbox.wait_gone(&self.node);
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
        Ok(self.sandbox()?.netns())
    }

    fn container(&mut self, name: &str) -> Option<&mut status::ContainerStatus> {
        self.containers.iter_mut().find(|one| one.name == name)
    }
}

/// What the pod's containers see as /etc/resolv.conf, if it names nameservers.
fn write_resolv_conf(node: &node::Inner, spec: &PodSpec) -> Result<Option<PathBuf>> {
    if spec.nameservers.is_empty() {
        return Ok(None);
    }
    let path = node.file(&format!("resolv-{}-{}.conf", spec.namespace, spec.name));
    let nameservers: String =
        spec.nameservers.iter().map(|address| format!("nameserver {address}\n")).collect();
    fs::write(&path, nameservers + dns::SEARCH)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(Some(path))
}
