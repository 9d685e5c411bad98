//! One program on one cgroup.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type;

use super::sys;

/// A program on a cgroup. It comes off when this is dropped, unless it is left behind under its
/// name in a BPF file system, where it outlives the agent.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
    pin: Option<PathBuf>,
}

impl Link {
    pub(super) fn attach(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        attach_type: bpf_attach_type,
    ) -> io::Result<Self> {
        Ok(Self { fd: sys::link_create(program, cgroup, attach_type)?, pin: None })
    }

    /// Opens what an agent has left.
    pub(super) fn inherit(pin: PathBuf) -> io::Result<Self> {
        Ok(Self { fd: sys::open_pinned(&pin)?, pin: Some(pin) })
    }

    /// Keeps it on the cgroup even if the agent is killed.
    pub(super) fn pin(&mut self, path: PathBuf) -> io::Result<()> {
        sys::pin(self.fd.as_fd(), &path)?;
        self.pin = Some(path);
        Ok(())
    }

    /// Replaces its program, without a gap.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::link_update(self.fd.as_fd(), program)
    }

    /// Another descriptor of it. Until that is closed the program stays, whatever becomes of this.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Its name in a BPF file system, if it has one.
    pub(super) fn pin_path(&self) -> Option<&Path> {
        self.pin.as_deref()
    }

    /// Leaves it to the next agent, if it has a name.
    pub(super) fn leave(mut self) {
        self.pin = None;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(pin) = &self.pin {
            // Gone already, or the file system is: then nothing keeps it, either.
            let _: io::Result<()> = fs::remove_file(pin);
        }
    }
}
