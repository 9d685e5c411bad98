//! Who made which node, so that what a killed run left behind can be told from what a live one uses.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use procfs::process::Process;

use crate::cgroup::Cgroup;

/// Every cgroup and every folder of a node starts with this.
const PREFIX: &str = "holdfast-testbed-";
/// Holds the owner's start time, which tells it from a later process with the same id.
const OWNER_FILE: &str = "owner";
/// Where the node's BPF file system is mounted.
const BPFFS: &str = "bpf";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One node's folders. Dropping it removes both and kills what lives in the cgroup.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) cgroup: Cgroup,
    pub(super) dir: PathBuf,
}

impl Claim {
    pub(super) fn new(cgroup_mount: &Path) -> Result<Self> {
        let me = Process::myself().context("read /proc/self")?;
        let started = me.stat().context("read /proc/self/stat")?.starttime;
        let name = format!("{PREFIX}{}-{}", me.pid, NEXT.fetch_add(1, Ordering::Relaxed));
        // The owner is on record before the cgroup can be seen by anybody who cleans up.
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let claim = Self { cgroup: Cgroup::at(cgroup_mount.join(name)), dir };
        fs::write(claim.dir.join(OWNER_FILE), started.to_string())
            .with_context(|| format!("write {OWNER_FILE} in {}", claim.dir.display()))?;
        let bpffs = claim.bpffs();
        fs::create_dir(&bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        let nothing: Option<&str> = None;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), nothing)
            .with_context(|| format!("mount a BPF file system at {}", bpffs.display()))?;
        Cgroup::create(claim.cgroup.path())?;
        Ok(claim)
    }
}

impl Claim {
    /// A BPF file system of the node's own.
    pub(super) fn bpffs(&self) -> PathBuf {
        self.dir.join(BPFFS)
    }

    /// Kills what lives in the cgroup and removes both folders; again is harmless.
    pub(super) fn release(&self) {
        remove(&self.cgroup, &self.dir);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

/// Removes what owners that no longer live have left. Several processes may do so at once.
pub(super) fn remove_leftovers(mount: &Path) {
    remove_where(mount, |pid, dir| !is_alive(pid, dir));
}

/// Removes what this process has made itself.
pub(super) fn remove_own(mount: &Path) {
    let me = std::process::id();
    remove_where(mount, |pid, _| u32::try_from(pid) == Ok(me));
}

fn remove_where(mount: &Path, is_unwanted: impl Fn(i32, &Path) -> bool) {
    let temp = std::env::temp_dir();
    let mut names: Vec<String> = [mount, &temp]
        .into_iter()
        .filter_map(|parent| fs::read_dir(parent).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let Some(pid) = owner_pid(&name) else {
            continue;
        };
        let dir = temp.join(&name);
        if is_unwanted(pid, &dir) {
            remove(&Cgroup::at(mount.join(&name)), &dir);
        }
    }
}

fn owner_pid(name: &str) -> Option<i32> {
    let (pid, count) = name.strip_prefix(PREFIX)?.split_once('-')?;
    count.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn is_alive(pid: i32, dir: &Path) -> bool {
    let Ok(stat) = Process::new(pid).and_then(|process| process.stat()) else {
        return false;
    };
    // Without a record (the temporary folder has been emptied) the process id alone decides.
    fs::read_to_string(dir.join(OWNER_FILE))
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .is_none_or(|started| started == stat.starttime)
}

/// The cgroup goes first: what runs in it may still write to the folder.
fn remove(cgroup: &Cgroup, dir: &Path) {
    if cgroup.path().exists()
        && let Err(error) = cgroup.remove()
    {
        eprintln!("testbed: {error:#}");
        // The folder stays as well: it holds the record that lets the next run try again.
        return;
    }
    // Another clean-up may have been faster, and a killed run may not have come so far.
    let _: nix::Result<()> = umount2(&dir.join(BPFFS), MntFlags::MNT_DETACH);
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("testbed: remove {}: {error}", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_testbed_s_own_names_have_an_owner() {
        assert_eq!(owner_pid("holdfast-testbed-123-0"), Some(123));
        assert_eq!(owner_pid("holdfast-testbed-123"), None);
        assert_eq!(owner_pid("holdfast-testbed-123-x"), None);
        assert_eq!(owner_pid("system.slice"), None);
    }

    #[test]
    fn a_reused_process_id_is_not_the_owner() {
        let dir = std::env::temp_dir().join(format!("holdfast-owner-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let me = Process::myself().unwrap();
        let started = me.stat().unwrap().starttime;
        fs::write(dir.join(OWNER_FILE), started.to_string()).unwrap();
        assert!(is_alive(me.pid, &dir));
        fs::write(dir.join(OWNER_FILE), (started + 1).to_string()).unwrap();
        assert!(!is_alive(me.pid, &dir));
        fs::remove_dir_all(&dir).unwrap();
    }
}
