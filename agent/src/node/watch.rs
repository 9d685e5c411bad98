//! Kubelet's cgroup tree: a snapshot, then what is made and removed.
//!
//! inotify works on cgroup2. A directory's watch is set before its children are listed, so that
//! none is missed; one seen twice is reported once.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use futures::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};

use crate::core::{CgroupId, CgroupKind, ContainerId, PodUid, kind_of};

/// Room for 60 events with the longest names; more are read with the next call.
const BUFFER_BYTES: usize = 16 * 1024;

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
        /// It was there when the watch began.
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

/// What a known directory is.
#[derive(Clone, Debug)]
enum Known {
    Branch,
    Pod(PodUid),
    Container(PodUid, ContainerId),
}

/// Watches kubelet's cgroup tree.
pub struct CgroupWatch {
    root: PathBuf,
    events: EventStream<Vec<u8>>,
    directories: HashMap<WatchDescriptor, PathBuf>,
    known: HashMap<PathBuf, Known>,
    pending: VecDeque<CgroupEvent>,
}

impl std::fmt::Debug for CgroupWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { root, events: _, directories: _, known, pending } = self;
        f.debug_struct("CgroupWatch")
            .field("root", root)
            .field("known", &known.len())
            .field("pending", pending)
            .finish()
    }
}

// === impl CgroupWatch ===

impl CgroupWatch {
    /// Starts to watch below `root`, a directory of cgroup2 that holds kubelet's tree now or later.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`WatchError`] if inotify or the root cannot be used.
    pub fn start(root: &Path) -> Result<Self, WatchError> {
        let events = Inotify::init()
            .and_then(|inotify| inotify.into_event_stream(vec![0; BUFFER_BYTES]))
            .map_err(WatchError::Inotify)?;
        let mut watch = Self {
            root: root.to_owned(),
            events,
            directories: HashMap::new(),
            known: HashMap::new(),
            pending: VecDeque::new(),
        };
        watch.watch(root).map_err(|source| WatchError::Root { path: root.to_owned(), source })?;
        watch.scan(root, true);
        watch.pending.push_back(CgroupEvent::Listed);
        Ok(watch)
    }

    /// The next change.
    ///
    /// # Errors
    ///
    /// [`WatchError::Inotify`] if the watch is broken for good.
    pub async fn next(&mut self) -> Result<CgroupEvent, WatchError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let event = match self.events.next().await {
                Some(event) => event.map_err(WatchError::Inotify)?,
                None => return Err(WatchError::Inotify(io::ErrorKind::UnexpectedEof.into())),
            };
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                self.resync();
            } else if event.mask.contains(EventMask::IGNORED) {
                self.directories.remove(&event.wd);
            } else if let Some(name) = event.name
                && let Some(parent) = self.directories.get(&event.wd)
            {
                let path = parent.join(name);
                if event.mask.contains(EventMask::CREATE) {
                    self.found(&path, false);
                } else {
                    self.gone(&path);
                }
            }
        }
    }

    fn watch(&mut self, path: &Path) -> io::Result<()> {
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
        let descriptor = self.events.watches().add(path, mask)?;
        self.directories.insert(descriptor, path.to_owned());
        Ok(())
    }

    /// Reports what is below a directory that is watched already.
    fn scan(&mut self, path: &Path, at_start: bool) {
        let Ok(entries) = fs::read_dir(path) else {
            return;
        };
        for entry in entries.filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.found(&entry.path(), at_start);
            }
        }
    }

    fn found(&mut self, path: &Path, at_start: bool) {
        if self.known.contains_key(path) {
            return;
        }
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return;
        };
        let pod = match path.parent().and_then(|parent| self.known.get(parent)) {
            Some(Known::Pod(uid)) => Some(uid.clone()),
            Some(Known::Container(..)) => return,
            Some(Known::Branch) | None => None,
        };
        match (kind_of(name), pod) {
            (CgroupKind::Container(id), Some(uid)) => {
                let Some(cgroup) = cgroup_id(path) else {
                    return;
                };
                self.known.insert(path.to_owned(), Known::Container(uid.clone(), id.clone()));
                self.pending.push_back(CgroupEvent::Container { uid, id, cgroup });
            }
            (CgroupKind::Pod(uid), None) => {
                // Gone again already: its removal needs no report.
                let Some(cgroup) = cgroup_id(path) else {
                    return;
                };
                self.known.insert(path.to_owned(), Known::Pod(uid.clone()));
                let path = path.to_owned();
                self.pending.push_back(CgroupEvent::Pod {
                    uid,
                    cgroup,
                    path: path.clone(),
                    at_start,
                });
                self.descend(&path, at_start);
            }
            (CgroupKind::Branch, None) => {
                self.known.insert(path.to_owned(), Known::Branch);
                self.descend(path, at_start);
            }
            _ => {}
        }
    }

    fn descend(&mut self, path: &Path, at_start: bool) {
        match self.watch(path) {
            Ok(()) => self.scan(path, at_start),
            // Removed in the meantime; its parent reports that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(
                    path = %path.display(), %error,
                    "cgroup cannot be watched; raise fs.inotify.max_user_watches"
                );
            }
        }
    }

    fn gone(&mut self, path: &Path) {
        match self.known.remove(path) {
            Some(Known::Pod(uid)) => {
                self.known.retain(|known, _| !known.starts_with(path));
                self.pending.push_back(CgroupEvent::PodGone(uid));
            }
            Some(Known::Container(uid, id)) => {
                self.pending.push_back(CgroupEvent::ContainerGone { uid, id });
            }
            Some(Known::Branch) | None => {}
        }
    }

    /// inotify lost events: whatever is not there any more is gone, whatever is there is found.
    fn resync(&mut self) {
        tracing::warn!("inotify queue overflowed; listing cgroups again");
        let missing: Vec<PathBuf> =
            self.known.keys().filter(|path| !path.exists()).cloned().collect();
        for path in missing {
            self.gone(&path);
        }
        let branches: Vec<PathBuf> = std::iter::once(self.root.clone())
            .chain(self.known.iter().filter_map(|(path, known)| match known {
                Known::Branch | Known::Pod(_) => Some(path.clone()),
                Known::Container(..) => None,
            }))
            .collect();
        for path in branches {
            self.scan(&path, false);
        }
    }
}

/// The id of the container whose cgroup below the pod's directory `pod` this is.
#[must_use]
pub fn container_of(pod: &Path, cgroup: CgroupId) -> Option<ContainerId> {
    let entries = fs::read_dir(pod).ok()?.filter_map(Result::ok);
    let mut paths = entries.map(|entry| entry.path());
    let path = paths.find(|path| cgroup_id(path) == Some(cgroup))?;
    match kind_of(path.file_name()?.to_str()?) {
        CgroupKind::Container(id) => Some(id),
        CgroupKind::Branch | CgroupKind::Pod(_) | CgroupKind::Other => None,
    }
}

/// A cgroup's id is its directory's inode number (`cgroup_id` in include/linux/cgroup.h).
fn cgroup_id(path: &Path) -> Option<CgroupId> {
    fs::metadata(path).ok().map(|metadata| CgroupId(metadata.ino()))
}
