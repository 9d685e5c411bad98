//! Where cgroup2 is mounted: `/sys/fs/cgroup`, or on hybrid hosts `/sys/fs/cgroup/unified`.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use procfs::process::Process;

/// Why no cgroup2 tree can be watched.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount table could not be read.
    #[error(
        "failed to read the mount table {path}: {source}; name the host's /proc with --proc-root"
    )]
    Table {
        /// The process's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<procfs::ProcError>,
    },
    /// There is no cgroup2 mount.
    #[error(
        "no cgroup2 file system is mounted; boot with systemd.unified_cgroup_hierarchy=1 or name \
         its mount point with --cgroup-root"
    )]
    None,
    /// The directory given is not on cgroup2.
    #[error("{0} is not on a cgroup2 file system; name one with --cgroup-root")]
    NotCgroup2(PathBuf),
    /// The directory given cannot be looked at.
    #[error("failed to inspect the cgroup root {path}: {source}; name it with --cgroup-root")]
    Inspect {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The directory of cgroup2 that was chosen, or the one where it is mounted.
///
/// # Errors
///
/// [`MountError`] if there is none, or if it is not on cgroup2.
pub fn cgroup_root(chosen: Option<PathBuf>, proc_root: &Path) -> Result<PathBuf, MountError> {
    let root = match chosen {
        Some(root) => root,
        None => find_cgroup2(proc_root)?,
    };
    require_cgroup2(&root)?;
    Ok(root)
}

/// The first cgroup2 mount point of the agent's own mount namespace.
fn find_cgroup2(proc_root: &Path) -> Result<PathBuf, MountError> {
    let path = proc_root.join("self");
    let mounts = Process::new_with_root(path.clone())
        .and_then(|process| process.mountinfo())
        .map_err(|source| MountError::Table { path, source: Box::new(source) })?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.mount_point)
        .ok_or(MountError::None)
}

/// Checks that `path` lies on cgroup2.
fn require_cgroup2(path: &Path) -> Result<(), MountError> {
    let stat = statfs(path)
        .map_err(|errno| MountError::Inspect { path: path.to_owned(), source: errno.into() })?;
    if stat.filesystem_type() == CGROUP2_SUPER_MAGIC {
        Ok(())
    } else {
        Err(MountError::NotCgroup2(path.to_owned()))
    }
}
