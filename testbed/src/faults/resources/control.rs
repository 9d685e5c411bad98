//! What a process may have of the node, by the kernel's controllers of cgroup version 1 or 2.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};
use procfs::process::Process;

/// Every cgroup that is made here begins with this; the id of the process that made it follows.
const PREFIX: &str = "holdfast-testbed-";

/// The period of a CPU quota, in microseconds: the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// A cgroup of one controller, which is removed at the end: whatever lives in it must have ended by
/// then.
#[derive(Debug)]
pub(super) struct Control {
    dir: PathBuf,
    /// Version 1, where files have other names.
    is_v1: bool,
}

// === impl Control ===

impl Control {
    /// A cgroup in which nothing is limited yet.
    pub(super) fn new(controller: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (mount, is_v1) = mounted(controller)?;
        remove_leftovers(&mount);
        if !is_v1 {
            let enable = mount.join("cgroup.subtree_control");
            fs::write(&enable, format!("+{controller}"))
                .with_context(|| format!("enable {controller} in {}", enable.display()))?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = mount.join(format!("{PREFIX}{}-{controller}-{number}", process::id()));
        fs::create_dir(&dir).with_context(|| format!("create cgroup {}", dir.display()))?;
        Ok(Self { dir, is_v1 })
    }

    /// Moves a process in, with all of its threads.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// In `memory`: so many bytes.
    pub(super) fn limit_memory(&self, bytes: u64) -> Result<()> {
        let file = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        self.write(file, &bytes.to_string())
    }

    /// In `memory`: the most that was taken, in bytes.
    pub(super) fn most_memory(&self) -> Result<u64> {
        let file = if self.is_v1 { "memory.max_usage_in_bytes" } else { "memory.peak" };
        let path = self.dir.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{}: {text:?}", path.display()))
    }

    /// In `pids`: so many threads; `None`: any number.
    pub(super) fn limit_threads(&self, threads: Option<usize>) -> Result<()> {
        let limit = threads.map_or_else(|| "max".to_owned(), |threads| threads.to_string());
        self.write("pids.max", &limit)
    }

    /// In `cpu`: so many hundredths of one CPU.
    pub(super) fn limit_cpu(&self, percent: u64) -> Result<()> {
        let quota = PERIOD_US * percent / 100;
        if self.is_v1 {
            self.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
            self.write("cpu.cfs_quota_us", &quota.to_string())
        } else {
            self.write("cpu.max", &format!("{quota} {PERIOD_US}"))
        }
    }

    /// In `cpu`: whether a process had to wait for the next period.
    pub(super) fn was_throttled(&self) -> Result<bool> {
        let path = self.dir.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let times = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(times.is_some_and(|times| times.trim() != "0"))
    }

    /// Where a shell that is to become the process writes its id.
    pub(super) fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, text).with_context(|| format!("write {text} to {}", path.display()))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("testbed: remove cgroup {}: {error}", self.dir.display());
        }
    }
}

/// Where a controller is, and whether it is one of version 1.
fn mounted(controller: &str) -> Result<(PathBuf, bool)> {
    let mounts =
        Process::myself().and_then(|me| me.mountinfo()).context("read /proc/self/mountinfo")?.0;
    let v1 = mounts
        .iter()
        .find(|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key(controller));
    if let Some(mount) = v1 {
        return Ok((mount.mount_point.clone(), true));
    }
    let has = |mount: &Path| {
        fs::read_to_string(mount.join("cgroup.controllers"))
            .is_ok_and(|all| all.split_whitespace().any(|one| one == controller))
    };
    match mounts.into_iter().find(|mount| mount.fs_type == "cgroup2" && has(&mount.mount_point)) {
        Some(mount) => Ok((mount.mount_point, false)),
        None => bail!("this machine has no cgroups that limit {controller}"),
    }
}

/// Removes what killed runs have left: nothing can live in it.
fn remove_leftovers(mount: &Path) {
    let entries = fs::read_dir(mount).into_iter().flatten().filter_map(Result::ok);
    for entry in entries {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        let pid = of.and_then(|(pid, _)| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| Process::new(pid).is_err()) {
            // On cgroup2 a node's own folder begins like this as well; it is not empty then.
            let _: std::io::Result<()> = fs::remove_dir(entry.path());
        }
    }
}
