//! The process that stands for a pod: the one that owns its network namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use procfs::{ProcError, process::Process};

use crate::core::{CgroupKind, kind_of};

/// Levels below a container's cgroup: crun puts the processes into `crio-<id>.scope/container`.
const NESTED: usize = 1;

/// The oldest process of the pod whose cgroup directory is `pod`: its pause process, which was
/// started first and keeps the pod's namespaces. A later process may have left them.
///
/// Only the pod's own processes and its containers' count. CRI-O with `conmon_cgroup = "pod"` puts
/// the pause process's monitor next to it, in `crio-conmon-<id>.scope`: older than the pause process
/// itself, and in the host's namespaces.
///
/// `None`: the pod has no process (yet).
///
/// # Errors
///
/// If the agent lacks descriptors or memory to look: there may be one.
pub fn oldest_process(pod: &Path, proc_root: &Path) -> io::Result<Option<u32>> {
    let mut oldest: Option<(u64, u32)> = None;
    let mut directories = vec![pod.to_owned()];
    for container in children(pod)?.into_iter().filter(|path| is_container(path)) {
        tree(container, NESTED, &mut directories)?;
    }
    for directory in directories {
        let procs = fs::read_to_string(directory.join("cgroup.procs"));
        let Some(procs) = unless_gone(procs)? else { continue };
        for pid in procs.lines().filter_map(|line| line.parse::<u32>().ok()) {
            let stat = Process::new_with_root(proc_root.join(pid.to_string()))
                .and_then(|process| process.stat());
            let stat = match stat {
                Ok(stat) => stat,
                Err(ProcError::Io(error, _)) if is_shortage(&error) => return Err(error),
                // A process that has just ended is none any more.
                Err(_) => continue,
            };
            if oldest.is_none_or(|known| (stat.starttime, pid) < known) {
                oldest = Some((stat.starttime, pid));
            }
        }
    }
    Ok(oldest.map(|(_, pid)| pid))
}

/// Nothing, of what cannot be read because it is not there.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_shortage(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether the reason is the reader's own: what it looked for may well be there.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

fn is_container(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| matches!(kind_of(name), CgroupKind::Container(_)))
}

/// A directory and those below it.
fn tree(directory: PathBuf, depth: usize, into: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth > 0 {
        for child in children(&directory)? {
            tree(child, depth - 1, into)?;
        }
    }
    into.push(directory);
    Ok(())
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = unless_gone(fs::read_dir(directory))? else { return Ok(Vec::new()) };
    let mut directories = Vec::new();
    for entry in entries {
        let Some(entry) = unless_gone(entry)? else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    const SANDBOX: &str = "3f0a9c7b5d1e2f4a6b8c0d9e7f5a3b1c2d4e6f8a0b9c7d5e3f1a2b4c6d8e0f91";
    const APP: &str = "5d1e2f4a6b8c0d9e7f5a3b1c2d4e6f8a0b9c7d5e3f1a2b4c6d8e0f913f0a9c7b";

    /// Processes, each younger than the one before: the order in which the kernel tells their ages
    /// apart is that of their start in ticks, then that of their ids.
    struct Processes(Vec<Child>);

    impl Processes {
        fn start(count: usize) -> Self {
            // Each ends with its input, so with this test at the latest.
            let start = |_| Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
            let mut all: Vec<_> = (0..count).map(start).collect();
            // Ids may wrap around.
            all.sort_by_key(|process| {
                let stat = Process::new(process.id().cast_signed()).unwrap().stat().unwrap();
                (stat.starttime, process.id())
            });
            Self(all)
        }

        fn id(&self, position: usize) -> u32 {
            self.0[position].id()
        }
    }

    impl Drop for Processes {
        fn drop(&mut self) {
            for process in &mut self.0 {
                process.kill().unwrap();
                process.wait().unwrap();
            }
        }
    }

    /// Puts a process into a cgroup, as far as reading tells.
    fn put(pod: &Path, cgroup: &str, pid: u32) {
        let directory = pod.join(cgroup);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cgroup.procs"), format!("{pid}\n")).unwrap();
    }

    fn oldest(pod: &Path) -> Option<u32> {
        oldest_process(pod, "/proc".as_ref()).unwrap()
    }

    #[test]
    fn the_pause_process_is_older_than_the_applications() {
        let processes = Processes::start(2);
        for layout in ["cri-containerd-ID.scope", "ID", "crio-ID.scope/container"] {
            let pod = tempfile::tempdir().unwrap();
            put(pod.path(), &layout.replace("ID", APP), processes.id(1));
            assert_eq!(oldest(pod.path()), Some(processes.id(1)), "{layout}");
            put(pod.path(), &layout.replace("ID", SANDBOX), processes.id(0));
            assert_eq!(oldest(pod.path()), Some(processes.id(0)), "{layout}");
        }
    }

    #[test]
    fn a_process_in_the_pods_own_cgroup_counts() {
        let processes = Processes::start(2);
        let pod = tempfile::tempdir().unwrap();
        put(pod.path(), SANDBOX, processes.id(1));
        put(pod.path(), "", processes.id(0));
        assert_eq!(oldest(pod.path()), Some(processes.id(0)));
    }

    #[test]
    fn the_runtimes_monitor_is_no_process_of_the_pod() {
        let processes = Processes::start(2);
        for (monitor, sandbox) in [
            ("crio-conmon-ID.scope", "crio-ID.scope"),
            ("crio-conmon-ID.scope", "crio-ID.scope/container"),
            ("crio-conmon-ID", "crio-ID"),
        ] {
            let pod = tempfile::tempdir().unwrap();
            put(pod.path(), &monitor.replace("ID", SANDBOX), processes.id(0));
            assert_eq!(oldest(pod.path()), None, "{monitor} alone");
            put(pod.path(), &sandbox.replace("ID", SANDBOX), processes.id(1));
            assert_eq!(oldest(pod.path()), Some(processes.id(1)), "{monitor} {sandbox}");
        }
    }

    #[test]
    fn a_process_that_has_ended_is_none() {
        let mut processes = Processes::start(2);
        let pod = tempfile::tempdir().unwrap();
        put(pod.path(), SANDBOX, processes.id(0));
        put(pod.path(), APP, processes.id(1));
        let mut ended = processes.0.remove(0);
        ended.kill().unwrap();
        ended.wait().unwrap();
        assert_eq!(oldest(pod.path()), Some(processes.id(0)));
    }
}
