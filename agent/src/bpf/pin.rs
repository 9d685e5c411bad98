//! The agent's place in a BPF file system: what stands there outlives the agent, so that the next
//! one goes on where it has ended.
//!
//! ```text
//! /sys/fs/bpf/holdfast/              locked by the agent that works
//!                     agent/         the same, for those that wait for its end
//!                        pod         whose agent that is
//!                     v5/            of this version of the ABI
//!                        maps/<map>
//!                        links/<pod's cgroup id>/<program>
//!                        programs/, sentry/   see `bpf/sentry.rs`
//! ```
//!
//! A link keeps its program on its cgroup. Whatever it holds has a deadline in the map beside it,
//! which the kernel keeps without any agent.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use agent_ebpf::ABI_VERSION;
use nix::{
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use super::{
    BpfError,
    absence::{self, Presence},
    sentry,
    standing::{self, Standing},
};
use crate::core::{CgroupId, PodUid};

/// Where systemd and the container runtimes mount it.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

/// The agent's directory below it.
const DIRECTORY: &str = "holdfast";

/// For its owner alone: whoever can read a directory can lock it.
pub(super) const OWN_MODE: u32 = 0o700;

/// The usual BPF file system, if it is mounted.
#[must_use]
pub fn usual_bpffs() -> Option<PathBuf> {
    let path = PathBuf::from(USUAL_BPFFS);
    require_bpffs(&path).is_ok().then_some(path)
}

/// The BPF file system that was chosen, or the usual one, if it is mounted.
///
/// # Errors
///
/// [`BpfError::Pin`] if the one that was chosen is none.
pub fn choose_bpffs(chosen: Option<PathBuf>) -> Result<Option<PathBuf>, BpfError> {
    match chosen {
        Some(bpffs) => require_bpffs(&bpffs).map(|()| Some(bpffs)),
        None => Ok(usual_bpffs()),
    }
}

/// See [`Claim::others`]; what cannot be listed has none.
pub(super) fn others_below(root: &Path) -> Vec<PathBuf> {
    try_others_below(root).unwrap_or_default()
}

fn try_others_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let own = version_below(root);
    let mut others = directories(root)?;
    others.retain(|path| *path != own && !absence::is_place(path));
    Ok(others)
}

/// See [`Claim::sweep`].
pub(super) fn sweep(root: &Path) {
    for other in others_below(root) {
        // What cannot be listed may still be somebody's gate.
        let holds_none = directories(&links_in(&other)).is_ok_and(|pods| pods.is_empty());
        if holds_none && !sentry::stands_in(&other) {
            remove_tree(&other);
        }
    }
}

/// The directory of this version.
pub(super) fn version_in(bpffs: &Path) -> PathBuf {
    version_below(&bpffs.join(DIRECTORY))
}

fn version_below(root: &Path) -> PathBuf {
    root.join(format!("v{ABI_VERSION}"))
}

/// What an agent locks in a BPF file system.
pub(super) fn locked_in(bpffs: &Path) -> PathBuf {
    bpffs.join(DIRECTORY)
}

/// Where a version's directory has the gates' links.
pub(super) fn links_in(version: &Path) -> PathBuf {
    version.join("links")
}

/// Checks that `path` is a mounted BPF file system.
///
/// # Errors
///
/// [`BpfError::Pin`] if it is not.
pub fn require_bpffs(path: &Path) -> Result<(), BpfError> {
    let stat = statfs(path).map_err(|errno| failed(path, errno.into()))?;
    if stat.filesystem_type() == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(failed(path, io::Error::other("not a BPF file system; mount one with mount -t bpf")))
    }
}

pub(super) fn failed(path: &Path, source: io::Error) -> BpfError {
    BpfError::Pin { path: path.to_owned(), source }
}

/// The right to work in the directory, which one agent of a node has at a time. It ends with the
/// process, however that ends.
#[derive(Debug)]
pub struct Claim {
    root: PathBuf,
    /// The directory, with an flock(2) on it.
    lock: File,
    /// Tells those who wait for the agent's end that it works.
    presence: Option<Presence>,
    /// The agent's own.
    pod: Option<PodUid>,
}

// === impl Claim ===

impl Claim {
    /// Whether somebody has the place, or has left something there: [`Self::remove`] takes the
    /// directory away as well, and each agent makes it anew.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if that cannot be seen.
    pub fn is_there(bpffs: &Path) -> Result<bool, BpfError> {
        let root = locked_in(bpffs);
        match fs::symlink_metadata(&root) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&root, error)),
        }
    }

    /// Takes the place; `None`: an agent works there.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if the directory cannot be made or locked.
    pub fn try_take(bpffs: &Path) -> Result<Option<Self>, BpfError> {
        loop {
            let (root, directory) = open(bpffs)?;
            match directory.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(failed(&root, error)),
            }
            if is_at(&directory, &root) {
                return Ok(Some(Self { root, lock: directory, presence: None, pod: None }));
            }
        }
    }

    /// Takes the place as soon as nobody works there; blocks until then.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if the directory cannot be made or locked.
    pub fn take(bpffs: &Path) -> Result<Self, BpfError> {
        loop {
            let (root, directory) = open(bpffs)?;
            match directory.lock() {
                Ok(()) if is_at(&directory, &root) => {
                    return Ok(Self { root, lock: directory, presence: None, pod: None });
                }
                // Removed and made anew by others meanwhile; or a signal.
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&root, error)),
            }
        }
    }

    /// Has everybody know that an agent works here, that of this pod, until this is dropped.
    pub(super) fn begin_work_as(&mut self, pod: Option<PodUid>) -> Result<(), BpfError> {
        self.pod = pod;
        self.presence = Some(Presence::begin(&self.root, self.pod.as_ref())?);
        Ok(())
    }

    /// The same if that could not be told until now, without waiting; whether it could now.
    pub(super) fn begin_work_late(&mut self) -> Result<bool, BpfError> {
        self.presence = Presence::try_begin(&self.root, self.pod.as_ref())?;
        Ok(self.presence.is_some())
    }

    /// Whether everybody can know that an agent works here.
    pub(super) const fn is_at_work(&self) -> bool {
        self.presence.is_some()
    }

    /// The directory of this version.
    pub(super) fn version(&self) -> PathBuf {
        version_below(&self.root)
    }

    /// Where the sentry's programs have their names.
    pub(super) fn programs(&self) -> PathBuf {
        sentry::programs_in(&self.version())
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        links_in(&self.version())
    }

    pub(super) fn links_of(&self, cgroup: CgroupId) -> PathBuf {
        self.links().join(cgroup.0.to_string())
    }

    /// Where a directory of this version is put that turns out not to be of this version.
    pub(super) fn put_aside(&self) -> Result<(), BpfError> {
        let version = self.version();
        let mut names = (0..u32::MAX).map(|n| self.root.join(format!("v{ABI_VERSION}_{n}")));
        let free = names.find(|path| !path.exists()).unwrap_or_else(|| version.clone());
        fs::rename(&version, free).map_err(|error| failed(&version, error))
    }

    /// Directories of other versions.
    pub(super) fn others(&self) -> io::Result<Vec<PathBuf>> {
        try_others_below(&self.root)
    }

    /// Removes the directories of other versions in which no link is left, of a gate or of a sentry.
    pub(super) fn sweep(&self) {
        sweep(&self.root);
    }

    /// Removes everything, and with it whatever only a name here keeps.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] with what is left.
    pub fn remove(mut self) -> Result<(), BpfError> {
        if self.presence.is_none() {
            // A sentry's process must not put anything back meanwhile. One that does not let go of its
            // lock has been stopped, and does not either.
            let _: Result<(), BpfError> = self.begin_work_as(None);
        }
        remove_tree(&self.root);
        // One that an agent which waits for this place has made anew is not what was to go.
        if is_at(&self.lock, &self.root) {
            Err(failed(&self.root, io::ErrorKind::DirectoryNotEmpty.into()))
        } else {
            Ok(())
        }
    }

    /// The directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What stands here, of all versions.
    #[must_use]
    pub fn standing(&self) -> Standing {
        standing::standing_below(&self.root)
    }

    /// How many programs are on a cgroup by what stands here; `None`: the kernel does not tell.
    #[must_use]
    pub fn attached(&self) -> Option<usize> {
        standing::attached_below(&self.root)
    }
}

fn open(bpffs: &Path) -> Result<(PathBuf, File), BpfError> {
    let root = bpffs.join(DIRECTORY);
    loop {
        match DirBuilder::new().mode(OWN_MODE).create(&root) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&root, error)),
        }
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&root);
        match opened.and_then(own) {
            Ok(directory) => return Ok((root, directory)),
            // Whoever ends at this moment removes it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&root, error)),
        }
    }
}

/// Where the file system lets others write, theirs may be what has the agent's name: nobody else may
/// lock it, let alone put anything into it.
fn own(directory: File) -> io::Result<File> {
    let meta = directory.metadata()?;
    if meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0 {
        Ok(directory)
    } else {
        Err(io::Error::other("it is not the agent's own, or open to other users; remove it"))
    }
}

/// Whether the path still leads to this directory: a lock on one that has been removed is no right
/// to the one that was made in its place.
pub(super) fn is_at(directory: &File, path: &Path) -> bool {
    let place = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (directory.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(theirs)) => place(ours) == place(theirs),
        _ => false,
    }
}

/// What cannot be listed is empty, for who shows it or removes it.
pub(super) fn subdirectories(path: &Path) -> Vec<PathBuf> {
    directories(path).unwrap_or_default()
}

/// As [`subdirectories`].
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    pins(path).unwrap_or_default()
}

/// The directories in one, for who draws conclusions from there being none. One that is not there has
/// none.
pub(super) fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    entries(path, true)
}

/// The same of what is pinned.
pub(super) fn pins(path: &Path) -> io::Result<Vec<PathBuf>> {
    entries(path, false)
}

fn entries(path: &Path, directories: bool) -> io::Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(path) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry?;
        if entry.file_type()?.is_dir() == directories {
            entries.push(entry.path());
        }
    }
    Ok(entries)
}

/// Depth is bounded by what an agent makes. What cannot be removed keeps its directory.
pub(super) fn remove_tree(path: &Path) {
    for directory in subdirectories(path) {
        remove_tree(&directory);
    }
    for file in files(path) {
        let _: io::Result<()> = fs::remove_file(file);
    }
    let _: io::Result<()> = fs::remove_dir(path);
}
