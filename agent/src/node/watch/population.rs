//! Whether a cgroup has a process, itself or below: `populated` in its `cgroup.events`
//! (Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification").

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What `cgroup.events` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Population {
    /// There is a process.
    Populated,
    /// There is none, or no cgroup any more.
    Empty,
    /// The file cannot be read, for want of descriptors or memory.
    Unknown,
}

/// The file of the cgroup `path` that is modified when the answer changes.
pub(super) fn file(path: &Path) -> PathBuf {
    path.join("cgroup.events")
}

pub(super) fn read(path: &Path) -> Population {
    let file = file(path);
    match fs::read_to_string(&file) {
        Ok(text) if text.lines().any(|line| line == "populated 1") => Population::Populated,
        Ok(_) => Population::Empty,
        // The second is what an opened file of a removed cgroup gives.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Population::Empty
        }
        Err(error) => {
            tracing::debug!(path = %file.display(), %error, "population of a cgroup is not known");
            Population::Unknown
        }
    }
}
