//! A place for what outlives an agent.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A BPF file system of the test's own.
pub(crate) struct BpfFs(pub(crate) PathBuf);

impl BpfFs {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("holdfast-bpffs-{pid}-{count}"));
        fs::create_dir_all(&path).unwrap();
        let nothing: Option<&str> = None;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), nothing).unwrap();
        Self(path)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.0.join("holdfast")
    }

    pub(crate) fn version(&self) -> PathBuf {
        Self::version_of(&self.0)
    }

    /// The one directory of a version.
    pub(crate) fn version_of(bpffs: &Path) -> PathBuf {
        let entries = fs::read_dir(bpffs.join("holdfast")).unwrap();
        let names = entries.map(|entry| entry.unwrap().path());
        let versions: Vec<PathBuf> = names.filter(|path| !path.ends_with("agent")).collect();
        assert_eq!(versions.len(), 1, "{versions:?}");
        versions[0].clone()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}
