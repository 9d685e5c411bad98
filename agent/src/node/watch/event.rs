//! What the watch tells, and why it may not.

use std::{io, path::PathBuf};

use crate::core::{CgroupId, ContainerId, PodUid};

/// A change of kubelet's cgroup tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupEvent {
    /// A pod's directory is there.
    Pod {
        /// The pod.
        uid: PodUid,
        /// Its cgroup.
        cgroup: CgroupId,
        /// Its directory.
        path: PathBuf,
        /// Its containers may have run for a while: it was there when the watch began, or was found
        /// when lost news was made up for.
        at_start: bool,
    },
    /// A pod's directory is gone.
    PodGone(PodUid),
    /// A container's directory is there.
    Container {
        /// The pod.
        uid: PodUid,
        /// The container.
        id: ContainerId,
        /// Its cgroup.
        cgroup: CgroupId,
    },
    /// A container's directory is gone.
    ContainerGone {
        /// The pod.
        uid: PodUid,
        /// The container.
        id: ContainerId,
    },
    /// Whether a container has a process, in its directory or below: when the directory is found,
    /// and at every change.
    Populated {
        /// The pod.
        uid: PodUid,
        /// The container.
        id: ContainerId,
        /// It has one.
        populated: bool,
    },
    /// All that was there when the watch began has been reported.
    Listed,
}

/// Why the tree cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// inotify failed.
    #[error(
        "failed to watch cgroups with inotify: {0}; if it is out of instances or watches, raise \
         fs.inotify.max_user_instances or fs.inotify.max_user_watches"
    )]
    Inotify(#[source] io::Error),
    /// The root cannot be watched.
    #[error("failed to watch the cgroup root {path}: {source}")]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
