//! Whether an agent works, told by a lock of its own: who waits for an agent's end with
//! [`super::Claim`] would take the next one's place.
//!
//! The directory is the same for all versions of the ABI, so that the sentry of one is not posted
//! while an agent of another works.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    BpfError,
    pin::{self, OWN_MODE, failed},
};
use crate::core::PodUid;

/// The directory's name.
const DIRECTORY: &str = "agent";

/// A link in it that leads nowhere: its text is the uid of the pod whose agent works, or was the last to. A
/// BPF file system keeps no other text for a process (`bpf_dir_iops` in kernel/bpf/inode.c).
const POD: &str = "pod";

/// Who looks for an agent, or posts the sentry, has the lock for milliseconds. An agent does not wait
/// for one that has been stopped meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries, which only that short a time may need.
const RETRY_EVERY: Duration = Duration::from_millis(2);

/// While this is kept everybody knows that an agent works.
#[derive(Debug)]
pub(super) struct Presence {
    _lock: File,
}

/// No agent works; and none begins to while this is kept.
#[derive(Debug)]
pub struct Absence {
    _lock: File,
}

/// What the wait for an agent's end has come to.
#[derive(Debug)]
pub enum Found {
    /// A signal has interrupted it: one works.
    Agent,
    /// None works any more.
    Nobody(Absence),
    /// None has worked since the node was booted, or what it has left was removed.
    Nothing,
}

// === impl Presence ===

impl Presence {
    /// Says so from now on. `root`: the agents' directory; `pod`: the agent's own.
    pub(super) fn begin(root: &Path, pod: Option<&PodUid>) -> Result<Self, BpfError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Self::try_begin(root, pod)? {
                Some(presence) => return Ok(presence),
                None if Instant::now() < until => thread::sleep(RETRY_EVERY),
                None => {
                    let busy = io::ErrorKind::ResourceBusy.into();
                    return Err(failed(&root.join(DIRECTORY), busy));
                }
            }
        }
    }

    /// The same without waiting; `None`: somebody has the lock.
    pub(super) fn try_begin(root: &Path, pod: Option<&PodUid>) -> Result<Option<Self>, BpfError> {
        let path = root.join(DIRECTORY);
        loop {
            match DirBuilder::new().mode(OWN_MODE).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(&path, error));
                }
                _ => {}
            }
            let lock = File::open(&path).map_err(|error| failed(&path, error))?;
            match lock.try_lock() {
                Ok(()) if pin::is_at(&lock, &path) => {
                    sign(&path, pod);
                    return Ok(Some(Self { _lock: lock }));
                }
                // Removed meanwhile, or made anew.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(failed(&path, error)),
            }
        }
    }
}

// === impl Absence ===

impl Absence {
    /// Looks whether an agent works, and if so waits for its end, which cannot be missed, or for a signal.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if the lock cannot be used.
    pub fn wait(bpffs: &Path) -> Result<Found, BpfError> {
        let path = place(bpffs);
        loop {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
                Err(error) => return Err(failed(&path, error)),
            };
            match file.lock() {
                Ok(()) => {}
                // By a signal.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Ok(Found::Agent);
                }
                Err(error) => return Err(failed(&path, error)),
            }
            if pin::is_at(&file, &path) {
                return Ok(Found::Nobody(Self { _lock: file }));
            }
            // Removed meanwhile, or made anew by an agent that works.
        }
    }
}

/// The pod whose agent has the lock, or had it last; `None`: it has not said so.
///
/// Who has taken the lock signs after that, so that another pod's name means that this pod's agent has let go.
#[must_use]
pub fn last_agent(bpffs: &Path) -> Option<PodUid> {
    let signature = fs::read_link(place(bpffs).join(POD)).ok()?;
    signature.to_str().map(PodUid::new)
}

/// Without it the sentry of the pod that had the lock before takes that one's agent for working still, which
/// costs that pod some seconds of its end.
fn sign(place: &Path, pod: Option<&PodUid>) {
    let signature = place.join(POD);
    let removed = match fs::remove_file(&signature) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let signed = removed.and_then(|()| pod.map_or(Ok(()), |pod| symlink(pod.as_str(), &signature)));
    if let Err(error) = signed {
        let signature = signature.display();
        tracing::warn!(%signature, %error, "it cannot be told which pod's agent works");
    }
}

/// Whether an agent has worked with this BPF file system, and what it has made there stands still.
#[must_use]
pub fn has_been_used(bpffs: &Path) -> bool {
    place(bpffs).is_dir()
}

fn place(bpffs: &Path) -> PathBuf {
    pin::locked_in(bpffs).join(DIRECTORY)
}

/// Whether this is the directory, not one of a version.
pub(super) fn is_place(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == DIRECTORY)
}
