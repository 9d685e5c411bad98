//! Kubelet's pods, as the node shows them: their cgroups, their processes, their runtimes' bundles.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::report::Check;
use crate::{
    cli::CheckArgs,
    core::{CgroupKind, ContainerId, kind_of},
    netns::Netns,
    node::{self, Bundles, CgroupWatch, oldest_process},
    preflight,
};

pub(super) const CGROUPS: &str = "cgroups";
pub(super) const PROCESSES: &str = "processes";
pub(super) const RUNTIMES: &str = "runtimes";

/// Kubelet's tree has at most five levels above a pod, also in nested clusters.
const MAX_DEPTH: usize = 8;

/// `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the machine's first pid namespace.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Kubelet's part of the cgroup tree.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tree {
    /// The topmost directories that hold pods.
    roots: Vec<PathBuf>,
    pods: Vec<PathBuf>,
    /// The containers that have a process.
    running: Vec<ContainerId>,
}

// === impl Tree ===

impl Tree {
    fn of(cgroup_root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.collect(cgroup_root, 0)?;
        Ok(tree)
    }

    fn collect(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        for child in fs::read_dir(directory)? {
            // What has gone in the meantime is nothing to look at.
            let Ok(child) = child else { continue };
            let (path, name) = (child.path(), child.file_name());
            let is_directory = child.file_type().is_ok_and(|kind| kind.is_dir());
            match kind_of(&name.to_string_lossy()) {
                _ if !is_directory => {}
                CgroupKind::Branch if depth < MAX_DEPTH => {
                    if depth == 0 {
                        self.roots.push(path.clone());
                    }
                    self.collect_if_there(&path, depth + 1);
                }
                CgroupKind::Pod(_) => {
                    self.pods.push(path.clone());
                    self.collect_if_there(&path, depth + 1);
                }
                CgroupKind::Container(id) => {
                    let events = fs::read_to_string(path.join("cgroup.events"));
                    if events.is_ok_and(|text| text.lines().any(|line| line == "populated 1")) {
                        self.running.push(id);
                    }
                }
                CgroupKind::Branch | CgroupKind::Other => {}
            }
        }
        Ok(())
    }

    fn collect_if_there(&mut self, directory: &Path, depth: usize) {
        if let Err(error) = self.collect(directory, depth) {
            tracing::debug!(directory = %directory.display(), %error, "cgroup cannot be listed");
        }
    }

    /// Kubelet's cgroup driver, by the spelling of its directories.
    fn driver(&self) -> &'static str {
        let is_slice = |path: &PathBuf| path.extension().is_some_and(|end| end == "slice");
        if self.roots.iter().any(is_slice) { "systemd" } else { "cgroupfs" }
    }
}

/// The tree, or what is to be told instead.
fn tree(args: &CheckArgs, check: &str) -> Result<Tree, Check> {
    let node = &args.node;
    let skipped =
        |found: String| Check::skipped(check, found, format_args!("mend {CGROUPS} first"));
    let root = node::cgroup_root(node.cgroup_root.clone(), &node.proc_root);
    let root = root.map_err(|_| skipped("no cgroups to find pods by".to_owned()))?;
    Tree::of(&root)
        .map_err(|error| skipped(format!("{} cannot be listed: {error}", root.display())))
}

pub(super) fn cgroups(args: &CheckArgs) -> Vec<Check> {
    const MEND: &str = "mount the host's cgroup2 tree into the agent's container";
    let node = &args.node;
    let root = match node::cgroup_root(node.cgroup_root.clone(), &node.proc_root) {
        Ok(root) => root,
        Err(error) => return vec![Check::error(CGROUPS, error, MEND)],
    };
    if let Err(error) = CgroupWatch::start(&root) {
        return vec![Check::error(CGROUPS, error, MEND)];
    }
    let path = root.display();
    vec![match Tree::of(&root) {
        Err(error) => {
            Check::failed(CGROUPS, format_args!("{path} cannot be listed: {error}"), MEND)
        }
        Ok(tree) if tree.roots.is_empty() => Check::failed(
            CGROUPS,
            format_args!("cgroup2 at {path}, and nothing of kubelet's below it"),
            "start kubelet, name its tree with --cgroup-root, or, if its pods are in cgroup v1, boot \
             with systemd.unified_cgroup_hierarchy=1",
        ),
        Ok(tree) => {
            let (driver, pods, running) = (tree.driver(), tree.pods.len(), tree.running.len());
            let found = format!(
                "cgroup2 at {path}, kubelet's driver {driver}; pods: {pods}, running containers: \
                 {running}"
            );
            if pods > 0 && running == 0 {
                let mend = "if pods run here their processes are in cgroup v1 only: boot with \
                            systemd.unified_cgroup_hierarchy=1";
                Check::warning(CGROUPS, found, mend)
            } else {
                Check::ok(CGROUPS, found)
            }
        }
    }]
}

/// The agent must see the processes of pods, and be allowed to look at their namespaces.
pub(super) fn processes(args: &CheckArgs) -> Vec<Check> {
    const SEE: &str =
        "set hostPID: true on the agent's pod, or name the host's /proc with --proc-root";
    const GRANT: &str = "grant CAP_SYS_PTRACE, as is said above";
    const UNCONFINE: &str =
        "set the container's AppArmor profile to unconfined and its SELinux type to spc_t";
    // Who has it is kept from looking by something else.
    let look = if preflight::may_trace() { UNCONFINE } else { GRANT };
    let proc_root = &args.node.proc_root;
    let first = proc_root.join("1");
    let name = match fs::read_to_string(first.join("comm")) {
        Ok(name) => name.trim_end().to_owned(),
        Err(error) => {
            let found = format!("{} cannot be read: {error}", first.join("comm").display());
            return vec![Check::failed(PROCESSES, found, SEE)];
        }
    };
    // Where pods run, seeing their processes is all that counts: in a nested cluster a node's process
    // 1 is not the machine's.
    let pods = tree(args, PROCESSES).map(|tree| tree.pods).unwrap_or_default();
    let populated = |pod: &&PathBuf| {
        fs::read_to_string(pod.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
    };
    let running: Vec<_> = pods.iter().filter(populated).collect();
    let seen: Vec<u32> =
        running.iter().filter_map(|pod| oldest_process(pod, proc_root).ok()?).collect();
    let of_pods = match running.len() {
        0 => "no pod runs".to_owned(),
        all => format!("those of {} of {all} running pods are seen", seen.len()),
    };
    let found = format!("process 1 is {name}; {of_pods}");
    if !running.is_empty() && seen.is_empty() {
        return vec![Check::failed(PROCESSES, found, SEE)];
    }
    let refused = seen.iter().find_map(|pid| {
        let error = Netns::open(&proc_root.join(pid.to_string()).join("ns/net")).err()?;
        // It may have ended in the meantime.
        (error.kind() == io::ErrorKind::PermissionDenied).then_some((pid, error))
    });
    if let Some((pid, error)) = refused {
        let found = format_args!("{found}; the network of {pid} cannot be looked at: {error}");
        return vec![Check::failed(PROCESSES, found, look)];
    }
    if let Err(error) = Netns::open(&first.join("ns/net")) {
        let found = format_args!(
            "{found}; process 1 itself cannot be looked at ({error}): which pods use the host's \
             network the API alone tells"
        );
        return vec![Check::warning(PROCESSES, found, look)];
    }
    let is_first = Netns::open(&first.join("ns/pid"))
        .map_or(true, |namespace| namespace.inode() == FIRST_PID_NAMESPACE);
    vec![if running.is_empty() && !is_first {
        Check::warning(
            PROCESSES,
            format_args!("{found}; it is not the machine's first process"),
            format_args!("in a nested cluster that is right; else {SEE}"),
        )
    } else {
        Check::ok(PROCESSES, found)
    }]
}

pub(super) fn runtimes(args: &CheckArgs) -> Vec<Check> {
    const MEND: &str = "name the runtime's state directory with --runtime-root and mount it into the \
                        agent's container; without it the API tells which container is which, later";
    let roots = &args.node.runtime_root;
    let there: Vec<&PathBuf> = roots.iter().filter(|root| root.is_dir()).collect();
    if there.is_empty() {
        let names: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
        let found = format_args!("none of {} is there", names.join(", "));
        return vec![Check::warning(RUNTIMES, found, MEND)];
    }
    let running = match tree(args, RUNTIMES) {
        Ok(tree) => tree.running,
        Err(skipped) => return vec![skipped],
    };
    if running.is_empty() {
        let names: Vec<String> = there.iter().map(|root| root.display().to_string()).collect();
        return vec![Check::ok(RUNTIMES, format_args!("{}; no container runs", names.join(", ")))];
    }
    let mut unreadable = None;
    let counts: Vec<(String, usize)> = there
        .iter()
        .map(|root| {
            let bundles = Bundles::new(vec![root.to_path_buf()]);
            let of_root = running.iter().filter(|id| match bundles.find(id) {
                Ok(bundle) => bundle.is_some(),
                Err(error) => {
                    unreadable = Some(error);
                    false
                }
            });
            (root.display().to_string(), of_root.count())
        })
        .collect();
    let known: usize = counts.iter().map(|(_, count)| count).sum();
    let of_roots: Vec<String> =
        counts.iter().map(|(root, count)| format!("{count} in {root}")).collect();
    let found = format!("bundles of {} running containers: {}", running.len(), of_roots.join(", "));
    vec![match unreadable {
        Some(error) => {
            Check::warning(RUNTIMES, format_args!("{found}; one cannot be read: {error}"), MEND)
        }
        None if known == 0 => Check::warning(RUNTIMES, found, MEND),
        None => Check::ok(RUNTIMES, found),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f0a9c7b5d1e2f4a6b8c0d9e7f5a3b1c2d4e6f8a0b9c7d5e3f1a2b4c6d8e0f91";
    const UID: &str = "0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11";

    fn tree(paths: &[String], populated: &str) -> Tree {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.events"), format!("populated {populated}\nfrozen 0\n"))
                .unwrap();
        }
        Tree::of(root.path()).unwrap()
    }

    #[test]
    fn both_drivers_are_known_by_their_directories() {
        let unit = UID.replace('-', "_");
        let systemd = format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{unit}.slice/\
             cri-containerd-{ID}.scope"
        );
        let cgroupfs = format!("kubepods/burstable/pod{UID}/{ID}");
        for (path, driver) in [(systemd, "systemd"), (cgroupfs, "cgroupfs")] {
            let tree = tree(&[path, "system.slice/x.service".to_owned()], "1");
            assert_eq!(tree.driver(), driver);
            assert_eq!((tree.roots.len(), tree.pods.len()), (1, 1), "{driver}");
            assert_eq!(tree.running, [ContainerId::new(ID)], "{driver}");
        }
    }

    #[test]
    fn a_container_without_a_process_does_not_run_and_other_cgroups_are_no_pods() {
        let path = format!("kubepods/pod{UID}/{ID}");
        assert_eq!(tree(&[path], "0").running, []);
        assert_eq!(tree(&["system.slice/x.service".to_owned()], "1"), Tree::default());
        assert!(Tree::of(Path::new("/nonexistent")).is_err());
    }
}
