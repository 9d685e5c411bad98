//! Kubelet's cgroup tree: a snapshot, then what is made and removed, and which containers have
//! processes.
//!
//! inotify works on cgroup2. A directory's watch is set before its children are listed, so that
//! none is missed; one seen twice is reported once. `cgroup.events` is watched before it is read
//! for the same reason. The kernel keeps the watch of a removed cgroup, and its inode with it,
//! until it is taken back (kernfs never drops the link count on which inotify would go by).

mod event;
mod population;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
    future::pending,
    io,
    ops::Bound,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{Instant, sleep_until};

pub use self::event::{CgroupEvent, WatchError};
use self::population::Population;
use crate::core::{CgroupId, CgroupKind, ContainerId, PodUid, kind_of};

/// Room for 60 events with the longest names; more are read with the next call.
const BUFFER_BYTES: usize = 16 * 1024;

/// How long after something could not be watched or listed that is tried again. Each time costs a
/// look at every cgroup of kubelet's, some milliseconds on a full node.
const COMPLETE_AFTER: Duration = Duration::from_secs(1);

/// A known directory.
#[derive(Debug)]
struct Known {
    kind: Kind,
    /// Tells it from a later one of the same name.
    cgroup: CgroupId,
    /// Of the directory itself, or of a container's `cgroup.events`.
    watch: Option<WatchDescriptor>,
}

#[derive(Clone, Debug)]
enum Kind {
    Branch,
    Pod(PodUid),
    Container { uid: PodUid, id: ContainerId, populated: bool },
}

/// Watches kubelet's cgroup tree.
pub struct CgroupWatch {
    root: PathBuf,
    events: EventStream<Vec<u8>>,
    /// The stream's own descriptor.
    queue: OwnedFd,
    /// Whose watch it is; a container's is on its `cgroup.events`.
    watched: HashMap<WatchDescriptor, PathBuf>,
    /// Sorted: what is below a directory follows it.
    known: BTreeMap<PathBuf, Known>,
    pending: VecDeque<CgroupEvent>,
    /// The highest id of a pod that was found, and how far that has been told.
    highest: CgroupId,
    told: Option<CgroupId>,
    /// Something could not be watched or listed, and this was said: when that is tried again.
    incomplete_until: Option<Instant>,
    listing: Listing,
}

/// Whether [`CgroupEvent::Listed`] may be told: whoever hears it takes what he has not heard of for
/// gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// All that could be listed so far was.
    Whole,
    /// A directory could not be listed, or an entry not be looked at.
    Gaps,
    Told,
}

impl std::fmt::Debug for CgroupWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            root,
            events: _,
            queue: _,
            watched,
            known,
            pending,
            highest,
            told: _,
            incomplete_until,
            listing,
        } = self;
        f.debug_struct("CgroupWatch")
            .field("root", root)
            .field("watched", &watched.len())
            .field("known", &known.len())
            .field("pending", pending)
            .field("highest", highest)
            .field("incomplete_until", incomplete_until)
            .field("listing", listing)
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
        let inotify = Inotify::init().map_err(WatchError::Inotify)?;
        let queue = inotify.as_fd().try_clone_to_owned().map_err(WatchError::Inotify)?;
        let events =
            inotify.into_event_stream(vec![0; BUFFER_BYTES]).map_err(WatchError::Inotify)?;
        let mut watch = Self {
            root: root.to_owned(),
            events,
            queue,
            watched: HashMap::new(),
            known: BTreeMap::new(),
            pending: VecDeque::new(),
            highest: CgroupId(0),
            told: None,
            incomplete_until: None,
            listing: Listing::Whole,
        };
        let failed = |source| WatchError::Root { path: root.to_owned(), source };
        watch.watch_directory(root).map_err(failed)?;
        watch.scan(root, true);
        if !watch.known.keys().any(|path| is_kubelets(path)) {
            tracing::warn!(
                cgroup_root = %root.display(),
                "no kubepods directory is there; if kubelet has pods, name the directory in which \
                 it keeps their cgroups with --cgroup-root"
            );
        }
        watch.tell_listed();
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
            let event = tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => event.map_err(WatchError::Inotify)?,
                    None => return Err(WatchError::Inotify(io::ErrorKind::UnexpectedEof.into())),
                },
                () = sleep_to(self.incomplete_until) => {
                    self.complete();
                    continue;
                }
            };
            self.take(&event);
        }
    }

    /// The id up to which all pods have been reported that have ever been there, if that is news:
    /// ids of cgroups only grow (`__kernfs_new_node` in fs/kernfs/dir.c). `None` while there is more to
    /// report, to read, or to look at again.
    ///
    /// An id is given inside of mkdir(2), and the kernel tells of the directory at its end: of two that
    /// are made at once in different directories the later id may be told first. So whoever was making
    /// one when the last was reported is waited for ([`Self::wait_for_makers`]).
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    pub fn newly_complete(&mut self) -> Result<Option<CgroupId>, WatchError> {
        if self.told == Some(self.highest) || self.incomplete_until.is_some() {
            return Ok(None);
        }
        if !self.pending.is_empty() {
            return Ok(None);
        }
        let highest = self.highest;
        self.wait_for_makers();
        while self.pending.is_empty() {
            match self.events.next().now_or_never() {
                Some(Some(event)) => self.take(&event.map_err(WatchError::Inotify)?),
                Some(None) => return Err(WatchError::Inotify(io::ErrorKind::UnexpectedEof.into())),
                // The stream may not have heard yet of what the kernel has.
                None if is_empty(&self.queue).map_err(WatchError::Inotify)? => {
                    self.told = Some(highest);
                    return Ok(self.told);
                }
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Returns when every cgroup has been told of that had its id before, in a directory in which pods
    /// are made: mkdir(2) tells of it with its parent's lock still held (`vfs_mkdir` in fs/namei.c), and
    /// a listing takes that lock (`iterate_dir` in fs/readdir.c).
    fn wait_for_makers(&self) {
        let is_branch = |known: &Known| matches!(known.kind, Kind::Branch);
        let branches = self.known.iter().filter(|(_, known)| is_branch(known));
        let branches = branches.map(|(path, _)| path.as_path());
        for directory in branches.chain([self.root.as_path()]) {
            // One that has gone has no makers.
            let _: io::Result<()> = begin_listing(directory);
        }
    }

    /// Draws what follows from one event of the kernel.
    fn take(&mut self, event: &EventOwned) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            tracing::warn!("inotify queue overflowed; listing cgroups again");
            self.resync();
            return;
        }
        let Some(path) = self.watched.get(&event.wd).cloned() else {
            // The last news of a watch that has been taken back.
            return;
        };
        if event.mask.contains(EventMask::IGNORED) {
            self.watched.remove(&event.wd);
        } else if event.mask.contains(EventMask::MODIFY) {
            self.changed(&path);
        } else if let Some(name) = &event.name {
            let path = path.join(name);
            // A listing may have been ahead of this news: what is there counts.
            if self.has_gone(&path) {
                self.gone(&path);
            }
            if event.mask.contains(EventMask::CREATE) {
                self.found(&path, false);
            }
        }
    }

    fn watch_directory(&mut self, path: &Path) -> io::Result<WatchDescriptor> {
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
        let descriptor = self.events.watches().add(path, mask)?;
        self.watched.insert(descriptor.clone(), path.to_owned());
        Ok(descriptor)
    }

    fn watch_container(&mut self, path: &Path) -> io::Result<WatchDescriptor> {
        let descriptor = self.events.watches().add(population::file(path), WatchMask::MODIFY)?;
        self.watched.insert(descriptor.clone(), path.to_owned());
        Ok(descriptor)
    }

    /// Reports what is below a directory that is watched already.
    fn scan(&mut self, path: &Path, at_start: bool) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.could_not_list(path, &error);
                return;
            }
        };
        for entry in entries {
            let kind = entry.and_then(|entry| Ok((entry.file_type()?, entry.path())));
            match kind {
                Ok((kind, path)) if kind.is_dir() => self.found(&path, at_start),
                Ok(_) => {}
                Err(error) => self.could_not_list(path, &error),
            }
        }
    }

    /// All that is there has been reported, unless something could not be listed: then it is told when
    /// that works again.
    fn tell_listed(&mut self) {
        if self.listing == Listing::Whole {
            self.listing = Listing::Told;
            self.pending.push_back(CgroupEvent::Listed);
        }
    }

    fn could_not_list(&mut self, path: &Path, error: &io::Error) {
        if is_gone(error) {
            return;
        }
        if self.listing == Listing::Whole {
            self.listing = Listing::Gaps;
        }
        self.could_not("list", path, error);
    }

    /// Whether what was known at `path` is not there any more, or another one of its name. Of what
    /// cannot be looked at nobody knows: it is looked at again.
    fn has_gone(&mut self, path: &Path) -> bool {
        let Some(known) = self.known.get(path).map(|known| known.cgroup) else {
            return false;
        };
        match cgroup_at(path) {
            Ok(found) => found != Some(known),
            Err(error) => {
                self.could_not("look at", path, &error);
                false
            }
        }
    }

    /// Has it tried again, and says so once for each time that something is wanting.
    fn could_not(&mut self, what: &str, path: &Path, error: &io::Error) {
        // Removed in the meantime; its parent reports that.
        if is_gone(error) {
            return;
        }
        if self.incomplete_until.replace(Instant::now() + COMPLETE_AFTER).is_none() {
            tracing::error!(
                path = %path.display(), %error,
                "failed to {what} a cgroup: pods and containers are noticed up to a second late until \
                 that works again; raise fs.inotify.max_user_watches, or the limit of open files"
            );
        }
    }

    /// Makes up for what could not be watched or listed.
    fn complete(&mut self) {
        // What is still wanting sets it anew, without saying so again.
        let due = self.incomplete_until;
        let unwatched: Vec<PathBuf> = self
            .known
            .iter()
            .filter(|(_, known)| known.watch.is_none())
            .map(|(path, _)| path.clone())
            .collect();
        for path in unwatched {
            let watch = match self.known.get(&path) {
                Some(Known { kind: Kind::Container { .. }, .. }) => self.watch_container(&path),
                Some(_) => self.watch_directory(&path),
                None => continue,
            };
            match watch {
                Ok(watch) => {
                    if let Some(known) = self.known.get_mut(&path) {
                        known.watch = Some(watch);
                    }
                }
                Err(error) => self.could_not("watch", &path, &error),
            }
        }
        if self.listing == Listing::Gaps {
            self.listing = Listing::Whole;
        }
        self.resync();
        self.tell_listed();
        if self.incomplete_until == due {
            self.incomplete_until = None;
            tracing::info!("all cgroups are watched again");
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
            Some(Known { kind: Kind::Pod(uid), .. }) => Some(uid.clone()),
            Some(Known { kind: Kind::Container { .. }, .. }) => return,
            Some(Known { kind: Kind::Branch, .. }) | None => None,
        };
        let cgroup = match cgroup_at(path) {
            Ok(cgroup) => cgroup,
            Err(error) => {
                self.could_not_list(path, &error);
                return;
            }
        };
        // Without an id it is gone again already: its removal needs no report.
        match (kind_of(name), pod, cgroup) {
            (CgroupKind::Container(id), Some(uid), Some(cgroup)) => {
                self.pending.push_back(CgroupEvent::Container {
                    uid: uid.clone(),
                    id: id.clone(),
                    cgroup,
                });
                self.found_container(path, cgroup, uid, id);
            }
            (CgroupKind::Pod(uid), None, Some(cgroup)) => {
                self.highest = self.highest.max(cgroup);
                self.pending.push_back(CgroupEvent::Pod {
                    uid: uid.clone(),
                    cgroup,
                    path: path.to_owned(),
                    at_start: at_start && may_have_run(path),
                });
                self.descend(path, cgroup, Kind::Pod(uid), at_start);
            }
            (CgroupKind::Branch, None, Some(cgroup)) => {
                self.descend(path, cgroup, Kind::Branch, at_start);
            }
            _ => {}
        }
    }

    fn descend(&mut self, path: &Path, cgroup: CgroupId, kind: Kind, at_start: bool) {
        let watch = self.watch_directory(path);
        let watch = watch.inspect_err(|error| self.could_not("watch", path, error)).ok();
        self.known.insert(path.to_owned(), Known { kind, cgroup, watch });
        self.scan(path, at_start);
    }

    fn found_container(&mut self, path: &Path, cgroup: CgroupId, uid: PodUid, id: ContainerId) {
        let watch = self.watch_container(path);
        let watch = watch.inspect_err(|error| self.could_not("watch", path, error)).ok();
        // Whoever cannot be looked at lives: taking a proxy for dead would hold a pod that works.
        let populated = population::read(path) != Population::Empty;
        self.pending.push_back(CgroupEvent::Populated {
            uid: uid.clone(),
            id: id.clone(),
            populated,
        });
        let kind = Kind::Container { uid, id, populated };
        self.known.insert(path.to_owned(), Known { kind, cgroup, watch });
    }

    /// Looks again whether the container at `path` has a process.
    fn changed(&mut self, path: &Path) {
        let Some(Known { kind: Kind::Container { uid, id, populated: told }, .. }) =
            self.known.get_mut(path)
        else {
            return;
        };
        let populated = match population::read(path) {
            Population::Populated => true,
            Population::Empty => false,
            Population::Unknown => return,
        };
        if std::mem::replace(told, populated) != populated {
            let (uid, id) = (uid.clone(), id.clone());
            self.pending.push_back(CgroupEvent::Populated { uid, id, populated });
        }
    }

    fn gone(&mut self, path: &Path) {
        match self.forget(path) {
            Some(Kind::Pod(uid)) => {
                let after = (Bound::Excluded(path), Bound::Unbounded);
                let below = self.known.range::<Path, _>(after).map(|(known, _)| known);
                let below = below.take_while(|known| known.starts_with(path)).cloned();
                for path in below.collect::<Vec<_>>() {
                    self.forget(&path);
                }
                self.pending.push_back(CgroupEvent::PodGone(uid));
            }
            Some(Kind::Container { uid, id, populated }) => {
                // Its last process ended so shortly before that nobody has told of it yet.
                if populated {
                    let (uid, id) = (uid.clone(), id.clone());
                    self.pending.push_back(CgroupEvent::Populated { uid, id, populated: false });
                }
                self.pending.push_back(CgroupEvent::ContainerGone { uid, id });
            }
            Some(Kind::Branch) | None => {}
        }
    }

    fn forget(&mut self, path: &Path) -> Option<Kind> {
        let Known { kind, cgroup: _, watch } = self.known.remove(path)?;
        if let Some(watch) = watch {
            self.watched.remove(&watch);
            // It fails if the kernel has taken it back by itself.
            let _: io::Result<()> = self.events.watches().remove(watch);
        }
        Some(kind)
    }

    /// Events were lost: whatever is not there any more is gone, also where another of the same name
    /// is there now; whatever is there is found, and looked at again.
    fn resync(&mut self) {
        let mut missing: Vec<PathBuf> = self.known.keys().cloned().collect();
        missing.retain(|path| self.has_gone(path));
        // A pod's removal tells of its containers', so it comes first.
        missing.sort_unstable();
        for path in missing {
            self.gone(&path);
        }
        let mut branches = vec![self.root.clone()];
        let mut containers = Vec::new();
        for (path, known) in &self.known {
            match known.kind {
                Kind::Branch | Kind::Pod(_) => branches.push(path.clone()),
                Kind::Container { .. } => containers.push(path.clone()),
            }
        }
        for path in branches {
            // Nobody knows how long it has been there.
            self.scan(&path, true);
        }
        for path in containers {
            self.changed(&path);
        }
    }
}

async fn sleep_to(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Whether the containers of a pod that has just been found may have been at work before: more
/// than one has a process. The first is the sandbox, or in a pod without one a container that is
/// the only one yet.
fn may_have_run(pod: &Path) -> bool {
    let Ok(entries) = fs::read_dir(pod) else {
        return false;
    };
    let is_populated = |path: &Path| population::read(path) != Population::Empty;
    let directories = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter(|entry| is_populated(&entry.path())).nth(1).is_some()
}

/// Lists a directory's first entries and no others: a tier of kubelet's may have hundreds, and
/// [`fs::read_dir`] asks for as many as 32 KiB hold.
fn begin_listing(directory: &Path) -> io::Result<()> {
    /// Room for "." and "..", which come first.
    const FIRST: usize = 64;
    let directory = fs::File::open(directory)?;
    let mut entries = [0_u64; FIRST / size_of::<u64>()];
    // SAFETY: the kernel writes no more than it is told that there is room for; entries are aligned as
    // `entries` is, and nobody reads them.
    let listed = unsafe {
        libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), entries.as_mut_ptr(), FIRST)
    };
    if listed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the kernel has no events for this inotify instance.
fn is_empty(queue: &OwnedFd) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `bytes` is one.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes == 0) }
}

fn is_kubelets(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains("kubepods") || matches!(kind_of(&name), CgroupKind::Pod(_))
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
pub(crate) fn cgroup_id(path: &Path) -> Option<CgroupId> {
    cgroup_at(path).ok().flatten()
}

/// The same, where it matters whether none is there or whether that cannot be known.
fn cgroup_at(path: &Path) -> io::Result<Option<CgroupId>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(CgroupId(metadata.ino()))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it failed because the cgroup is not there any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV) || error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests;
