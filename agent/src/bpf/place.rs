//! One agent works on a node at a time: two would each hold what the other lets go.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};
use procfs::{FromRead as _, LockType, Locks};

use tokio::sync::oneshot;

use super::{
    BpfError,
    pin::{Claim, failed, locked_in},
};

/// The right to work on the node. It ends with the process, however that ends.
#[derive(Debug)]
pub enum Place {
    /// With a directory for what is to outlive the agent.
    Pinned(Claim),
    /// Without a BPF file system: a lock on the cgroups' root, which is always there.
    Bare(File),
}

// === impl Place ===

impl Place {
    /// Takes the place; `None`: an agent works here.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if what there is to lock cannot be locked.
    pub fn try_take(bpffs: Option<&Path>, cgroup_root: &Path) -> Result<Option<Self>, BpfError> {
        if let Some(bpffs) = bpffs {
            return Ok(Claim::try_take(bpffs)?.map(Self::Pinned));
        }
        let file = open(cgroup_root)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self::Bare(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(cgroup_root, error)),
        }
    }

    /// Takes the place as soon as no agent works here.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if what there is to lock cannot be locked.
    pub async fn take(bpffs: Option<&Path>, cgroup_root: &Path) -> Result<Self, BpfError> {
        let (bpffs, cgroup_root) = (bpffs.map(Path::to_owned), cgroup_root.to_owned());
        let (taken, wait) = oneshot::channel();
        let lost = |error| failed(Path::new("the waiting thread"), error);
        // Not one of the runtime's own threads, for whose end its shutdown waits.
        std::thread::Builder::new()
            .name("place".to_owned())
            .spawn(move || {
                // Nobody waits any more if the agent has been told to stop.
                let _: Result<(), _> = taken.send(Self::take_blocking(bpffs, &cgroup_root));
            })
            .map_err(lost)?;
        wait.await.unwrap_or_else(|_| Err(lost(io::Error::other("it panicked"))))
    }

    fn take_blocking(bpffs: Option<PathBuf>, cgroup_root: &Path) -> Result<Self, BpfError> {
        if let Some(bpffs) = bpffs {
            return Claim::take(&bpffs).map(Self::Pinned);
        }
        let file = open(cgroup_root)?;
        file.lock().map_err(|error| failed(cgroup_root, error))?;
        Ok(Self::Bare(file))
    }

    /// Whether an agent before this one has left gates.
    #[must_use]
    pub fn has_gates(&self) -> bool {
        match self {
            Self::Pinned(claim) => claim.standing().links > 0,
            Self::Bare(_) => false,
        }
    }

    /// The place in the BPF file system, and the lock that is to be kept where there is none.
    #[must_use]
    pub fn into_parts(self) -> (Option<Claim>, Option<File>) {
        match self {
            Self::Pinned(claim) => (Some(claim), None),
            Self::Bare(lock) => (None, Some(lock)),
        }
    }
}

/// The process of the agent that works on the node, found without taking its place: who only looks
/// must not keep an agent that starts just then from it. `in_bpffs`: `place` is a BPF file system,
/// otherwise the cgroups' root.
///
/// # Errors
///
/// If the table of file locks cannot be read.
pub fn holder(place: &Path, in_bpffs: bool, proc_root: &Path) -> io::Result<Option<i32>> {
    let locked = if in_bpffs { locked_in(place) } else { place.to_owned() };
    let meta = match fs::metadata(&locked) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let device = (major(meta.dev()), minor(meta.dev()));
    let Locks(locks) = Locks::from_file(proc_root.join("locks")).map_err(io::Error::other)?;
    let lock = locks.into_iter().find(|lock| {
        lock.lock_type == LockType::FLock
            && lock.inode == meta.ino()
            && (u64::from(lock.devmaj), u64::from(lock.devmin)) == device
    });
    Ok(lock.and_then(|lock| lock.pid))
}

fn open(cgroup_root: &Path) -> Result<File, BpfError> {
    File::open(cgroup_root).map_err(|error| failed(cgroup_root, error))
}
