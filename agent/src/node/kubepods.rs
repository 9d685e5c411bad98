//! Where below a cgroup root kubelet keeps its pods: the tops of its trees, and the directories that
//! hold pods.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::watch::{cgroup_id, is_gone};
use crate::core::{CgroupId, CgroupKind, kind_of};

/// kubelet's directories, without the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubepods {
    /// The topmost directories of kubelet: everything below is a pod, or leads to pods.
    pub roots: Vec<PathBuf>,
    /// The cgroups of these and of all directories below them that are no pods.
    pub branches: Vec<CgroupId>,
}

// === impl Kubepods ===

impl Kubepods {
    /// Those that are there now.
    ///
    /// # Errors
    ///
    /// If a directory cannot be listed, or kubelet has none there.
    pub fn below(cgroup_root: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        // The root that was named may be kubelet's own.
        found.look_at(cgroup_root, false)?;
        if found.roots.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no kubepods directory is there"));
        }
        Ok(found)
    }

    fn look_at(&mut self, directory: &Path, is_below: bool) -> io::Result<()> {
        let is_kubelets = is_below || is_kubepods(directory);
        if is_kubelets {
            if !is_below {
                self.roots.push(directory.to_owned());
            }
            self.branches.extend(cgroup_id(directory));
        }
        for child in branches(directory)? {
            self.look_at(&child, is_kubelets)?;
        }
        Ok(())
    }
}

/// Whether a directory is called as kubelet's are; not those that only lead there, in a nested
/// cluster's node.
fn is_kubepods(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().contains("kubepods"))
}

/// One that has gone meanwhile has none.
fn branches(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut branches = Vec::new();
    for entry in entries {
        let entry = entry?;
        let is_branch = entry.file_name().to_str().map(kind_of) == Some(CgroupKind::Branch);
        if is_branch && entry.file_type()?.is_dir() {
            branches.push(entry.path());
        }
    }
    Ok(branches)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "pod0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11";

    fn found(directories: &[&str], root: &str) -> (Vec<String>, usize) {
        let dir = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        let found = Kubepods::below(&dir.path().join(root));
        let Kubepods { roots, branches } = found.unwrap_or_else(|error| {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            Kubepods::default()
        });
        let roots = roots.iter().map(|path| path.strip_prefix(dir.path()).unwrap());
        (roots.map(|path| path.display().to_string()).collect(), branches.len())
    }

    #[test]
    fn the_tops_of_kubelets_trees_are_found_with_all_that_hold_pods() {
        let pod = |parent: &str| format!("{parent}/{POD}/deeper");
        for (directories, root, tops, branches) in [
            (vec!["system.slice".to_owned()], "", vec![], 0),
            (
                vec![pod("kubepods/burstable"), pod("kubepods"), "kubepods/besteffort".to_owned()],
                "",
                vec!["kubepods"],
                3,
            ),
            (
                vec![
                    "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice".into(),
                ],
                "",
                vec!["kubelet.slice/kubelet-kubepods.slice"],
                2,
            ),
            (vec![pod("kubepods.slice")], "kubepods.slice", vec!["kubepods.slice"], 1),
        ] {
            let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
            let tops: Vec<String> = tops.into_iter().map(str::to_owned).collect();
            assert_eq!(found(&directories, root), (tops, branches), "{directories:?}");
        }
    }
}
