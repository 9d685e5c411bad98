//! What agents have made in the kernel, and whether it is gone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Agent, Node, faults::nothing_left};

/// Ids of what agents had open. The kernel gives no id twice until it has given them all.
#[derive(Debug, Default)]
pub(super) struct Objects(BTreeSet<(Kind, u64)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Program,
    Map,
    Link,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 3] = [Self::Program, Self::Map, Self::Link];

    /// Before the id in /proc/PID/fdinfo/FD (`bpf_prog_show_fdinfo` and its like in
    /// kernel/bpf/syscall.c).
    const fn field(self) -> &'static str {
        match self {
            Self::Program => "prog_id:",
            Self::Map => "map_id:",
            Self::Link => "link_id:",
        }
    }

    const fn bpftool(self) -> &'static str {
        match self {
            Self::Program => "prog",
            Self::Map => "map",
            Self::Link => "link",
        }
    }

    /// All of the machine, whoever has made them.
    fn ids(self) -> Result<BTreeSet<u64>> {
        let output = Command::new("bpftool")
            .args(["-j", self.bpftool(), "show"])
            .output()
            .context("run bpftool: run `cargo xtask setup` to install it")?;
        let listed: Vec<Value> = serde_json::from_slice(&output.stdout).with_context(|| {
            let error = String::from_utf8_lossy(&output.stderr);
            format!("read what bpftool {} show has printed; {error}", self.bpftool())
        })?;
        Ok(listed.iter().filter_map(|one| one["id"].as_u64()).collect())
    }
}

// === impl Objects ===

impl Objects {
    /// Adds what a process has open.
    pub(super) fn add(&mut self, pid: u32) -> Result<()> {
        let before = self.0.len();
        for fd in list(&PathBuf::from(format!("/proc/{pid}/fdinfo")))? {
            // One that was closed meanwhile is nobody's any more, or has a second descriptor.
            let text = fs::read_to_string(fd).unwrap_or_default();
            for (kind, line) in Kind::ALL.into_iter().flat_map(|kind| {
                text.lines().filter_map(move |line| Some((kind, line.strip_prefix(kind.field())?)))
            }) {
                self.0.insert((kind, line.trim().parse().context("an id in fdinfo")?));
            }
        }
        ensure!(self.0.len() > before, "process {pid} has no program and no map open");
        Ok(())
    }

    fn left(&self) -> Result<Vec<(Kind, u64)>> {
        let mut left = Vec::new();
        for kind in Kind::ALL {
            let ids = kind.ids()?;
            left.extend(self.0.iter().filter(|(of, id)| *of == kind && ids.contains(id)));
        }
        Ok(left)
    }
}

/// An agent looks into the namespaces of pods that start, and lets go of them.
pub(super) fn no_netns(agent: &Agent) -> Result<()> {
    let of = |path: PathBuf| {
        fs::read_link(path).ok().and_then(|to| to.into_os_string().into_string().ok())
    };
    let own = of(PathBuf::from(format!("/proc/{}/ns/net", agent.pid())));
    nothing_left("the agent keeps handles of pods' network namespaces", || {
        let mut handles = Vec::new();
        for fd in list(&PathBuf::from(format!("/proc/{}/fd", agent.pid())))? {
            handles.extend(of(fd));
        }
        for task in list(&PathBuf::from(format!("/proc/{}/task", agent.pid())))? {
            handles.extend(of(task.join("ns/net")));
        }
        handles.retain(|to| to.starts_with("net:[") && Some(to) != own.as_ref());
        Ok(handles)
    })
}

/// `holdfast cleanup`, after the last agent's end.
pub(super) fn clean_up(holdfast: &Path, node: &Node, objects: &Objects) -> Result<()> {
    let directory = node.bpffs().join("holdfast");
    ensure!(directory.is_dir(), "the last agent has left nothing: there is nothing to clean up");
    ensure!(!objects.left()?.is_empty(), "nothing is pinned that an agent had open");
    let output = Command::new(holdfast)
        .args(["cleanup", "--bpffs"])
        .arg(node.bpffs())
        .output()
        .context("run holdfast cleanup")?;
    ensure!(output.status.success(), "holdfast cleanup failed: {output:?}");
    let mut left = list(&node.bpffs())?;
    // The kernel's own: `bpf_preload` puts two iterators into each.
    left.retain(|path| path.extension().is_none_or(|extension| extension != "debug"));
    ensure!(left.is_empty(), "holdfast cleanup has left {left:?}");
    // The kernel frees them after a grace period.
    nothing_left("holdfast cleanup has left", || objects.left())
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
