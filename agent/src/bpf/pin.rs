//! The maps under bpffs, where `bpftool map dump pinned` shows what every gate holds.
//!
//! Only maps are pinned: a pinned link would outlive a killed agent and go on holding for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agent_ebpf::ABI_VERSION;
use aya::Ebpf;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{BpfError, Gates, SocketTable};

const MAPS: [&str; 5] = [
    Gates::MAP,
    Gates::COUNTS_MAP,
    Gates::CONTAINERS_MAP,
    SocketTable::MAP,
    SocketTable::DATAGRAMS_MAP,
];

/// Removes the pins when the agent ends.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
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

fn failed(path: &Path, source: io::Error) -> BpfError {
    BpfError::Pin { path: path.to_owned(), source }
}

impl Pins {
    /// Pins the maps below `bpffs`, in a directory for this version of the ABI. What a killed
    /// agent left there is replaced.
    pub(super) fn new(ebpf: &Ebpf, bpffs: &Path) -> Result<Self, BpfError> {
        let directory = bpffs.join(format!("holdfast/v{ABI_VERSION}"));
        let pins = Self { directory };
        pins.remove();
        fs::create_dir_all(&pins.directory).map_err(|error| failed(&pins.directory, error))?;
        for name in MAPS {
            let map = ebpf.map(name).ok_or(BpfError::Missing { kind: "map", name })?;
            let path = pins.directory.join(name);
            map.pin(&path).map_err(|error| failed(&path, io::Error::other(error)))?;
        }
        Ok(pins)
    }

    fn remove(&self) {
        for name in MAPS {
            // Most often there is nothing to remove; what cannot be removed fails the pinning.
            let _: io::Result<()> = fs::remove_file(self.directory.join(name));
        }
        let _: io::Result<()> = fs::remove_dir(&self.directory);
        if let Some(parent) = self.directory.parent() {
            // Another version's directory may be there still.
            let _: io::Result<()> = fs::remove_dir(parent);
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.remove();
    }
}
