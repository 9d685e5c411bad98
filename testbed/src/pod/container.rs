//! One container of a pod: from its bundle to the removal of its cgroup.

use std::{fs, path::PathBuf, process::ExitStatus, sync::Arc};

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
            pod.bundle(&id, sandbox.id(), Some(name), Some(sandbox.pid()))
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
        self.spawn(command.into(), false)
    }

    /// Starts its process without kubelet reporting it yet.
    pub fn start_silently(self, command: impl Into<Command>) -> Result<Process> {
        self.spawn(command.into(), true)
    }

    fn spawn(self, command: Command, hidden: bool) -> Result<Process> {
        let Self { pod, name, id, cgroup, bundle } = self;
        let owner = Arc::clone(&pod);
        let command = &pod.prepare(command)?;
        // Held until the start is on record, so that an early end cannot be recorded before it.
        let mut state = pod.lock();
        let netns = state.netns()?.try_clone()?;
        let process = {
            let (name, id) = (name.clone(), id.clone());
            let rest = Dead { cgroup: cgroup.clone(), bundle };
            Process::spawn(
                command,
                Some(&cgroup),
                &Network::Enter(&netns),
                Box::new(move |status| ended(&owner, &name, &id, rest, status)),
            )?
        };
        if let Some(status) = state.container(&name) {
            status.started(id, hidden);
        }
        pod.report(&state);
        Ok(process)
    }
}

/// What is left of a container whose process has ended.
#[derive(Debug)]
pub(super) struct Dead {
    cgroup: Cgroup,
    bundle: PathBuf,
}

impl Dead {
    pub(super) fn remove(&self) -> Result<()> {
        let removed = self.cgroup.remove();
        // Only fails when the node's whole folder is being removed at the same time.
        let _ = fs::remove_dir_all(&self.bundle);
        removed
    }
}

/// With its first process a container's pid namespace ends; containerd then deletes the task, its
/// cgroup and its bundle, at once unless told otherwise.
fn ended(pod: &Inner, name: &str, id: &ContainerId, rest: Dead, status: ExitStatus) {
    let keep = pod.lock().keeps_dead;
    if keep {
        rest.cgroup.kill();
        pod.lock().dead.push(rest);
    } else if let Err(error) = rest.remove() {
        eprintln!("testbed: {error:#}");
    }
    let mut state = pod.lock();
    if let Some(container) = state.container(name) {
        container.ended(id, status);
    }
    pod.report(&state);
}
