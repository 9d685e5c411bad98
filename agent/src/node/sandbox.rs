//! The process that stands for a pod: the one that owns its network namespace.

use std::{fs, path::Path};

use procfs::process::Process;

/// The oldest process of the pod whose cgroup directory is `pod`: its pause process, which was
/// started first and keeps the pod's namespaces. A later process may have left them.
///
/// `None`: the pod has no process (yet).
#[must_use]
pub fn oldest_process(pod: &Path, proc_root: &Path) -> Option<u32> {
    let mut oldest: Option<(u64, u32)> = None;
    let directories = fs::read_dir(pod).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    for directory in std::iter::once(pod.to_owned()).chain(directories) {
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
