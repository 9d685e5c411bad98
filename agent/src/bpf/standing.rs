//! What stands in a BPF file system, whoever has put it there: by its names, and as the kernel
//! sees it.

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::{pin, sentry, sys};

/// What agents, of all versions, have pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Pods with a gate.
    pub pods: usize,
    /// Programs on them.
    pub links: usize,
    /// Programs of a sentry that is posted.
    pub sentry: usize,
}

/// What stands in a BPF file system, whoever works there.
#[must_use]
pub fn standing(bpffs: &Path) -> Standing {
    standing_below(&pin::locked_in(bpffs))
}

pub(super) fn standing_below(root: &Path) -> Standing {
    let mut standing = Standing::default();
    for version in pin::subdirectories(root) {
        let (of_pods, of_sentry) = links_of(&version);
        standing.pods += of_pods.len();
        standing.links += of_pods.iter().map(Vec::len).sum::<usize>();
        standing.sentry += of_sentry.iter().map(Vec::len).sum::<usize>();
    }
    standing
}

/// How many of the programs that have a name are on a cgroup; `None`: the kernel does not tell. The
/// name of a link outlives its cgroup, which takes the program with it
/// (`bpf_cgroup_link_auto_detach` in kernel/bpf/cgroup.c).
pub(super) fn attached_below(root: &Path) -> Option<usize> {
    let versions = pin::subdirectories(root);
    let links = versions.iter().flat_map(|version| {
        let (of_pods, of_sentry) = links_of(version);
        of_pods.into_iter().chain(of_sentry).flatten()
    });
    links.map(|link| is_attached(&link).map(usize::from)).sum()
}

/// The links that each pod has, and each root of the pods.
fn links_of(version: &Path) -> (Vec<Vec<PathBuf>>, Vec<Vec<PathBuf>>) {
    let links_in = |directory: &Path| {
        let links = pin::subdirectories(directory).into_iter().map(|of| pin::files(&of));
        links.filter(|links| !links.is_empty()).collect()
    };
    (links_in(&pin::links_in(version)), links_in(&sentry::links_in(version)))
}

fn is_attached(link: &Path) -> Option<bool> {
    // To be asked the kernel wants capabilities that removing a name does not take.
    let link = sys::open_pinned(link).ok()?;
    has_cgroup(&fdinfo(&link)?)
}

/// The kernel's own words on a descriptor, without a call of bpf(2):
/// Documentation/filesystems/proc.rst, 3.8.
pub(super) fn fdinfo(descriptor: &OwnedFd) -> Option<String> {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).ok()
}

/// Whether that of a link names a cgroup: 0 is that of one whose cgroup has gone.
fn has_cgroup(fdinfo: &str) -> Option<bool> {
    let id = fdinfo.lines().find_map(|line| line.strip_prefix("cgroup_id:"))?;
    Some(id.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::has_cgroup;

    #[test]
    fn a_link_without_a_cgroup_is_one_in_name_only() {
        let told = |id| format!("pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\ncgroup_id:\t{id}\n");
        assert_eq!(has_cgroup(&told("8123")), Some(true));
        assert_eq!(has_cgroup(&told("0")), Some(false));
        assert_eq!(has_cgroup("pos:\t0\n"), None);
    }
}
