//! The process that stands for a pod: the one that owns its network namespace.

use std::{
    fs,
    path::{Path, PathBuf},
};

use procfs::process::Process;

/// A container's cgroup, and one below it: crun puts the processes into `crio-<id>.scope/container`.
const MAX_DEPTH: usize = 2;

/// The oldest process of the pod whose cgroup directory is `pod`: its pause process, which was
/// started first and keeps the pod's namespaces. A later process may have left them.
///
/// `None`: the pod has no process (yet).
#[must_use]
pub fn oldest_process(pod: &Path, proc_root: &Path) -> Option<u32> {
    let mut oldest: Option<(u64, u32)> = None;
    for directory in below(pod, MAX_DEPTH) {
        let Ok(procs) = fs::read_to_string(directory.join("cgroup.procs")) else {
            continue;
        };
        for pid in procs.lines().filter_map(|line| line.parse::<u32>().ok()) {
            let stat = Process::new_with_root(proc_root.join(pid.to_string()))
                .and_then(|process| process.stat());
            // A process that has just ended is none any more.
            let Ok(stat) = stat else { continue };
            if oldest.is_none_or(|known| (stat.starttime, pid) < known) {
                oldest = Some((stat.starttime, pid));
            }
        }
    }
    oldest.map(|(_, pid)| pid)
}

fn below(directory: &Path, depth: usize) -> Vec<PathBuf> {
    let mut all = vec![directory.to_owned()];
    if depth > 0 {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            all.extend(below(&entry.path(), depth - 1));
        }
    }
    all
}
