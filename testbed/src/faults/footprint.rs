//! What an agent takes of its node, to be compared with what it took before.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{Agent, Node, bpf::PinnedMap};

/// Descriptors that may be more than before: connections to the API server that are kept for a while.
const MORE_FILES: usize = 16;

/// Threads that may be more than before: those of tokio that block stay for ten seconds.
const MORE_THREADS: usize = 16;

/// How long what belongs to pods may outlast them.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footprint {
    pub(super) rss_kib: usize,
    pub(super) files: usize,
    pub(super) threads: usize,
    of_pods: OfPods,
}

/// What there is for pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OfPods {
    elements: BTreeMap<String, usize>,
    pins: usize,
    watches: usize,
}

// === impl Footprint ===

impl Footprint {
    /// Looks now.
    pub(super) fn of(node: &Node, agent: &Agent) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{}", agent.pid()));
        let usage = agent.process().usage()?;
        Ok(Self {
            rss_kib: usize::try_from(usage.rss_kib)?,
            files: entries(&proc.join("fd"))?.len(),
            threads: usize::try_from(usage.threads)?,
            of_pods: OfPods {
                elements: elements(node)?,
                pins: pins(&holdfast_dir(node)),
                watches: watches(&proc)?,
            },
        })
    }

    /// Waits until the agent has no more for pods than it had, and fails if that does not come, or if
    /// it takes more of anything else: of memory `more_kib` may be more; `None`: any.
    pub(super) fn compare(
        &self,
        node: &Node,
        agent: &Agent,
        more_kib: Option<usize>,
    ) -> Result<Self> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            let now = Self::of(node, agent)?;
            let is_back = now.of_pods == self.of_pods
                && now.files <= self.files + MORE_FILES
                && now.threads <= self.threads + MORE_THREADS
                && more_kib.is_none_or(|more| now.rss_kib <= self.rss_kib + more);
            if is_back {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "{self:?} became {now:?}");
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// A pinned map of the agent that works on this node.
pub(super) fn map(node: &Node, name: &str) -> Result<PinnedMap> {
    let directory = holdfast_dir(node);
    let versions = entries(&directory)?;
    let path = versions.into_iter().map(|version| version.join("maps").join(name));
    let path = path.into_iter().find(|path| path.exists());
    PinnedMap::open(&path.with_context(|| format!("{name} is not in {}", directory.display()))?)
}

fn holdfast_dir(node: &Node) -> PathBuf {
    node.bpffs().join("holdfast")
}

/// How many elements each map has whose elements belong to something, such as a pod or a socket, and
/// go with it: all hash tables, of which LRU ones forget by themselves. What is not pinned are arrays.
fn elements(node: &Node) -> Result<BTreeMap<String, usize>> {
    let mut elements = BTreeMap::new();
    for version in entries(&holdfast_dir(node))? {
        let maps = version.join("maps");
        for path in if maps.is_dir() { entries(&maps)? } else { Vec::new() } {
            let map = PinnedMap::open(&path)?;
            if map.is_hash() {
                let name = path.strip_prefix(holdfast_dir(node)).unwrap_or(&path);
                elements.insert(name.display().to_string(), map.count()?);
            }
        }
    }
    ensure!(!elements.is_empty(), "no map is in {}", holdfast_dir(node).display());
    Ok(elements)
}

/// Everything with a name below `directory`; what goes meanwhile does not count.
fn pins(directory: &Path) -> usize {
    let Ok(all) = entries(directory) else { return 0 };
    all.iter().map(|path| if path.is_dir() { pins(path) } else { 1 }).sum()
}

fn watches(proc: &Path) -> Result<usize> {
    let descriptors = entries(&proc.join("fdinfo"))?;
    let infos = descriptors.iter().filter_map(|path| fs::read_to_string(path).ok());
    Ok(infos.map(|info| info.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let of = || format!("list {}", directory.display());
    let all = fs::read_dir(directory).with_context(of)?;
    Ok(all.filter_map(|entry| Some(entry.ok()?.path())).collect())
}
