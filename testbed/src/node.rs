//! The node: a cgroup tree, a runtime folder, an API and a world outside.

mod owner;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    agent::{self, Agent, AgentOptions},
    api::Api,
    cgroup::{Cgroup, CgroupDriver, cgroup2_mount},
    lane::Lane,
    netns::Netns,
    outside::{Outside, PodAddresses},
    pod::{Pod, PodSpec},
    process::{Command, Process, User},
    proxy,
};

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The node's name: `spec.nodeName` of its pods. The recorded streams were made on `node1`.
    pub name: String,
    /// kubelet's cgroup driver.
    pub driver: CgroupDriver,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { name: "node1".into(), driver: CgroupDriver::default() }
    }
}

/// A Kubernetes node in a box. Dropping it removes everything that it and its pods have made.
#[derive(Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What a node's pods need of it.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: NodeOptions,
    pub(crate) api: Api,
    outside: Outside,
    envoy: OnceLock<PathBuf>,
    /// Held while a program is copied, so that nobody runs half of one.
    copying: Mutex<()>,
    next_pod: AtomicU16,
    next_socket: AtomicU16,
    // Dropped last: it kills whatever the others have left running.
    claim: owner::Claim,
}

impl Node {
    /// A node with the defaults: systemd's cgroup layout, called `node1`.
    pub fn new() -> Result<Self> {
        Self::with(NodeOptions::default())
    }

    /// A node as `options` say. First removes what killed runs have left.
    pub fn with(options: NodeOptions) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the testbed makes cgroups and network namespaces: run it as root"
        );
        let mount = cgroup2_mount()?;
        owner::remove_leftovers(&mount);
        let claim = owner::Claim::new(&mount)?;
        // The proxy runs as a user of its own and reads its configuration from here.
        fs::set_permissions(&claim.dir, fs::Permissions::from_mode(0o755))
            .context("open the node's folder to other users")?;
        for level in options.driver.top_levels() {
            Cgroup::create(claim.cgroup.path().join(level))?;
        }
        let outside = Outside::new(Cgroup::create(claim.cgroup.path().join("outside"))?)?;
        let api = Api::start()?;
        fs::write(claim.dir.join("kubeconfig"), api.kubeconfig())
            .context("write the kubeconfig")?;
        let inner = Inner {
            options,
            api,
            outside,
            envoy: OnceLock::new(),
            copying: Mutex::default(),
            next_pod: AtomicU16::new(0),
            next_socket: AtomicU16::new(0),
            claim,
        };
        fs::create_dir_all(inner.bundles()).context("create the runtime folder")?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// The Kubernetes API that serves this node.
    pub fn api(&self) -> &Api {
        &self.inner.api
    }

    /// A kubeconfig that points at [`Self::api`].
    pub fn kubeconfig(&self) -> PathBuf {
        self.inner.claim.dir.join("kubeconfig")
    }

    /// The agent's `--cgroup-root`: the folder that holds kubelet's tree.
    pub fn cgroup_root(&self) -> &Path {
        self.inner.claim.cgroup.path()
    }

    /// The agent's `--runtime-root`: the container runtime's state folder.
    pub fn runtime_root(&self) -> PathBuf {
        self.inner.runtime_root()
    }

    /// The agent's `--bpffs`: a BPF file system of the node's own.
    pub fn bpffs(&self) -> PathBuf {
        self.inner.claim.bpffs()
    }

    /// The backend's network namespace.
    pub fn outside(&self) -> &Netns {
        self.inner.outside.netns()
    }

    /// The process that serves the backend.
    pub(crate) fn backend(&self) -> &Process {
        self.inner.outside.server()
    }

    /// Starts a process outside all pods, in the backend's namespace.
    pub fn start_outside(&self, command: impl Into<Command>) -> Result<Process> {
        self.inner.outside.start(&command.into())
    }

    /// The queries that the cluster's DNS server has had, as it printed them: `name`, `type`,
    /// `from` and `ns`.
    pub fn dns_queries(&self) -> Vec<serde_json::Value> {
        self.inner.outside.dns_queries()
    }

    /// A pod of which nothing exists yet: its steps are called one by one.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        Pod::plan(Arc::clone(&self.inner), spec)
    }

    /// A pod with API object, sandbox, network and redirect rules; its containers not yet started.
    pub fn create_pod(&self, spec: PodSpec) -> Result<Pod> {
        let pod = self.pod(spec)?;
        pod.publish()?;
        pod.set_up()?;
        Ok(pod)
    }

    /// A network for one pod after another ([`Pod::start_sandbox_in`]).
    pub fn lane(&self) -> Result<Lane> {
        Lane::new(&self.inner, &Cgroup::create(self.cgroup_root().join("lanes"))?)
    }

    /// Starts the agent on this node.
    pub fn start_agent(&self, options: &AgentOptions) -> Result<Agent> {
        Agent::start(self, options)
    }

    /// Starts `holdfast sentry` beside the agent that has these options. Their arguments are the agent's
    /// alone: what is meant for both is in the environment. Dropping it kills it.
    pub fn start_sentry(&self, options: &AgentOptions) -> Result<Process> {
        agent::start_sentry(self, options)
    }

    /// The top of kubelet's tree.
    pub fn kubepods(&self) -> Cgroup {
        let [top, ..] = self.inner.options.driver.top_levels();
        Cgroup::at(self.cgroup_root().join(top))
    }

    /// Where the next agent answers commands.
    pub(crate) fn next_socket(&self) -> PathBuf {
        let number = self.inner.next_socket.fetch_add(1, Ordering::Relaxed);
        self.inner.file(&format!("admin-{number}.sock"))
    }

    /// The agent's own cgroup: on the node, outside kubelet's tree, and gone with the node.
    pub(crate) fn agent_cgroup(&self) -> Result<Cgroup> {
        Cgroup::create(self.cgroup_root().join("agent"))
    }

    /// The same for the sentry's process.
    pub(crate) fn sentry_cgroup(&self) -> Result<Cgroup> {
        Cgroup::create(self.cgroup_root().join("sentry"))
    }
}

/// Removes every node of this process, for a program that a signal is about to end: no guard is
/// dropped then.
pub fn remove_own_nodes() -> Result<()> {
    owner::remove_own(&cgroup2_mount()?);
    Ok(())
}

impl Drop for Node {
    fn drop(&mut self) {
        // Pods hold on to the inner part and may outlive the node; what it has made does not.
        self.inner.claim.release();
        self.inner.api.stop();
    }
}

impl Inner {
    pub(crate) fn cgroup_root(&self) -> &Path {
        self.claim.cgroup.path()
    }

    fn runtime_root(&self) -> PathBuf {
        self.claim.dir.join("run")
    }

    /// Where containerd keeps the bundles of Kubernetes' containers.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.runtime_root().join("io.containerd.runtime.v2.task/k8s.io")
    }

    pub(crate) fn join(&self, netns: &Netns, addresses: &PodAddresses) -> Result<()> {
        self.outside.attach(netns, addresses)
    }

    pub(crate) fn next_addresses(&self) -> PodAddresses {
        PodAddresses::new(self.next_pod.fetch_add(1, Ordering::Relaxed))
    }

    /// The proxy's binary, at a path that the proxy's user can reach.
    pub(crate) fn envoy(&self) -> Result<&Path> {
        if let Some(path) = self.envoy.get() {
            return Ok(path);
        }
        let path = proxy::reachable_envoy(&self.claim.dir)?;
        Ok(self.envoy.get_or_init(|| path))
    }

    /// `command` with a program that its user can reach: a checkout below `/root` is closed to all
    /// but root, then a copy in the node's folder is used.
    pub(crate) fn reachable(&self, command: &Command) -> Result<Command> {
        let program = &command.program;
        let mut command = command.clone();
        if command.user != User::default()
            && program.is_absolute()
            && !proxy::is_reachable(program)
            && let Some(name) = program.file_name()
        {
            let copy = self.claim.dir.join(name);
            let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
            if !copy.exists() {
                proxy::copy_for_all(program, &copy)?;
            }
            command.program = copy;
        }
        Ok(command)
    }

    /// A file in the node's folder, gone with the node.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.claim.dir.join(name)
    }
}
