//! One container of a pod: from its bundle to the removal of its cgroup.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
};

use anyhow::Result;

use super::Inner;
use crate::{
    cgroup::Cgroup,
    container::ContainerId,
    process::{Command, Network, Process},
};

/// A container of which bundle and cgroup exist, but no process yet.
#[derive(Debug)]
pub struct Container {
    pod: Arc<Inner>,
    name: String,
    id: ContainerId,
    cgroup: Cgroup,
    bundle: PathBuf,
}

impl Container {
    pub(super) fn create(pod: &Arc<Inner>, name: &str) -> Result<Self> {
        let id = ContainerId::random()?;
        let bundle = {
            let state = pod.lock();
            let sandbox = state.sandbox()?;
            pod.bundle(&id, &sandbox.id, Some(name), Some(sandbox.pause.pid()))
                .write(&pod.node.bundles())?
        };
        let cgroup = pod.container_cgroup(&id);
        Cgroup::create(cgroup.path())?;
        Ok(Self { pod: Arc::clone(pod), name: name.to_owned(), id, cgroup, bundle })
    }

    /// As [`Self::create`], but the runtime keeps its bundle elsewhere.
    pub(super) fn create_without_bundle(pod: &Arc<Inner>, name: &str) -> Result<Self> {
        let id = ContainerId::random()?;
        let bundle = pod.node.bundles().join(id.as_str());
        let cgroup = pod.container_cgroup(&id);
        Cgroup::create(cgroup.path())?;
        Ok(Self { pod: Arc::clone(pod), name: name.to_owned(), id, cgroup, bundle })
    }

    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Starts its process.
    pub fn start(self, command: impl Into<Command>) -> Result<Process> {
        self.spawn(&command.into(), false)
    }

    /// Starts its process without kubelet reporting it yet.
    pub fn start_silently(self, command: impl Into<Command>) -> Result<Process> {
        self.spawn(&command.into(), true)
    }

    fn spawn(self, command: &Command, hidden: bool) -> Result<Process> {
        let Self { pod, name, id, cgroup, bundle } = self;
        let owner = Arc::clone(&pod);
        let command = &pod.node.reachable(command)?;
        // Held until the start is on record, so that an early end cannot be recorded before it.
        let mut state = pod.lock();
        let netns = state.netns()?.try_clone()?;
        let process = {
            let (name, id, cgroup) = (name.clone(), id.clone(), cgroup.clone());
            Process::spawn(
                command,
                Some(&cgroup.clone()),
                &Network::Enter(&netns),
                Box::new(move |status| ended(&owner, &name, &id, &cgroup, &bundle, status)),
            )?
        };
        if let Some(status) = state.container(&name) {
            status.started(id, hidden);
        }
        pod.report(&state);
        Ok(process)
    }
}

/// containerd deletes a container's task, its cgroup and its bundle as soon as it has ended.
fn ended(
    pod: &Inner,
    name: &str,
    id: &ContainerId,
    cgroup: &Cgroup,
    bundle: &Path,
    status: ExitStatus,
) {
    if let Err(error) = cgroup.remove() {
        eprintln!("testbed: {error:#}");
    }
    // Only fails when the node's whole folder is being removed at the same time.
    let _ = fs::remove_dir_all(bundle);
    let mut state = pod.lock();
    if let Some(container) = state.container(name) {
        container.ended(id, status);
    }
    pod.report(&state);
}
