//! Cgroups of version 2: where they are mounted, how kubelet names them, how they are removed.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a killed tree may take to empty. SIGKILL works in milliseconds; a process in the middle
/// of releasing a network namespace can need hundreds.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
/// Between two attempts to remove a folder that is still busy.
const RETRY_EVERY: Duration = Duration::from_millis(2);

/// Which of kubelet's two naming schemes a node uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope`
    #[default]
    Systemd,
    /// `kubepods/burstable/pod<uid>/<id>`
    Cgroupfs,
}

/// A pod's quality-of-service class, which is a level of the cgroup tree but for `Guaranteed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits equal to its requests.
    Guaranteed,
    /// At least one container has a request.
    #[default]
    Burstable,
    /// No requests at all.
    BestEffort,
}

impl Qos {
    /// As the API spells it in `status.qosClass`.
    pub fn as_api(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    fn level(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

impl CgroupDriver {
    /// The folders kubelet makes when it starts, before any pod.
    pub fn top_levels(self) -> [PathBuf; 3] {
        [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort].map(|qos| self.qos_dir(qos))
    }

    fn qos_dir(self, qos: Qos) -> PathBuf {
        match (self, qos.level()) {
            (Self::Systemd, None) => "kubepods.slice".into(),
            (Self::Systemd, Some(level)) => format!("kubepods.slice/kubepods-{level}.slice").into(),
            (Self::Cgroupfs, None) => "kubepods".into(),
            (Self::Cgroupfs, Some(level)) => format!("kubepods/{level}").into(),
        }
    }

    /// A pod's folder, relative to the node's root.
    pub fn pod_dir(self, qos: Qos, uid: &str) -> PathBuf {
        let name = match (self, qos.level()) {
            (Self::Systemd, level) => {
                // A dash separates levels in a slice's name, so systemd's driver escapes the uid's.
                let uid = uid.replace('-', "_");
                let level = level.map(|level| format!("{level}-")).unwrap_or_default();
                format!("kubepods-{level}pod{uid}.slice")
            }
            (Self::Cgroupfs, _) => format!("pod{uid}"),
        };
        self.qos_dir(qos).join(name)
    }

    /// A container's folder, relative to its pod's.
    pub fn container_dir(self, id: &str) -> String {
        match self {
            Self::Systemd => format!("cri-containerd-{id}.scope"),
            Self::Cgroupfs => id.to_owned(),
        }
    }

    /// `linux.cgroupsPath` of the OCI bundle, as containerd writes it.
    pub fn cgroups_path(self, pod_dir: &Path, id: &str) -> String {
        match self {
            Self::Systemd => {
                let slice = pod_dir.file_name().unwrap_or_default().to_string_lossy();
                format!("{slice}:cri-containerd:{id}")
            }
            Self::Cgroupfs => format!("/{}/{id}", pod_dir.display()),
        }
    }
}

/// Where cgroup version 2 is mounted: `/sys/fs/cgroup`, or `.../unified` beside version 1.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = procfs::process::Process::myself()
        .and_then(|me| me.mountinfo())
        .context("read /proc/self/mountinfo")?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.mount_point)
        .context("no cgroup2 mount: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

/// One cgroup folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates the folder and whatever is missing above it.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// A folder that already exists, or may have gone.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id that `bpf_get_current_cgroup_id()` gives: the folder's inode number.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)
            .with_context(|| format!("stat cgroup {}", self.path.display()))?
            .ino())
    }

    /// Whether a process lives in it or below.
    pub fn is_populated(&self) -> Result<bool> {
        let events = self.path.join("cgroup.events");
        let text =
            fs::read_to_string(&events).with_context(|| format!("read {}", events.display()))?;
        Ok(text.lines().any(|line| line == "populated 1"))
    }

    /// The process ids in this folder and below.
    pub fn processes(&self) -> Vec<u32> {
        self.tree()
            .iter()
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect()
    }

    /// The folder and all below it, deepest first.
    pub fn tree(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
            let Ok(entries) = fs::read_dir(dir) else {
                return;
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), into);
                }
            }
            into.push(dir.to_owned());
        }
        let mut all = Vec::new();
        walk(&self.path, &mut all);
        all
    }

    /// SIGKILL to every process in it and below.
    pub fn kill(&self) {
        if fs::write(self.path.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // cgroup.kill came with 5.14; before it, every process is killed by its id.
        for pid in self.processes() {
            if let Ok(pid) = libc::pid_t::try_from(pid) {
                // SAFETY: kill(2) takes plain integers; the ids come from the cgroup that is ours.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }

    /// Kills every process and removes the folder with all below it.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        loop {
            self.kill();
            let mut failure = None;
            for dir in self.tree() {
                match fs::remove_dir(&dir) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => failure = Some((dir, error)),
                }
            }
            let Some((dir, error)) = failure else {
                return Ok(());
            };
            if !is_transient(&error) || Instant::now() > deadline {
                bail!("remove cgroup {}: {error}", dir.display());
            }
            thread::sleep(RETRY_EVERY);
        }
    }
}

/// EBUSY while a killed process is still exiting; ENOTEMPTY and ENODEV while another remover works.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY | libc::ENODEV | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "25c138fa-dbd7-47a8-852e-17140577768b";

    #[test]
    fn both_drivers_name_folders_as_kubelet_does() {
        let systemd = CgroupDriver::Systemd;
        assert_eq!(
            systemd.pod_dir(Qos::Burstable, UID),
            Path::new("kubepods.slice/kubepods-burstable.slice")
                .join("kubepods-burstable-pod25c138fa_dbd7_47a8_852e_17140577768b.slice")
        );
        assert_eq!(
            systemd.pod_dir(Qos::Guaranteed, UID),
            Path::new("kubepods.slice/kubepods-pod25c138fa_dbd7_47a8_852e_17140577768b.slice")
        );
        let cgroupfs = CgroupDriver::Cgroupfs;
        assert_eq!(
            cgroupfs.pod_dir(Qos::BestEffort, UID),
            Path::new("kubepods/besteffort").join(format!("pod{UID}"))
        );
        assert_eq!(
            cgroupfs.pod_dir(Qos::Guaranteed, UID),
            Path::new("kubepods").join(format!("pod{UID}"))
        );
    }

    #[test]
    fn the_bundle_names_the_cgroup_in_the_driver_s_own_way() {
        let dir = CgroupDriver::Systemd.pod_dir(Qos::BestEffort, "a-b");
        assert_eq!(
            CgroupDriver::Systemd.cgroups_path(&dir, "ff"),
            "kubepods-besteffort-poda_b.slice:cri-containerd:ff"
        );
        let dir = CgroupDriver::Cgroupfs.pod_dir(Qos::BestEffort, "a-b");
        assert_eq!(
            CgroupDriver::Cgroupfs.cgroups_path(&dir, "ff"),
            "/kubepods/besteffort/poda-b/ff"
        );
    }
}
