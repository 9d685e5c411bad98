//! What the agent needs, checked before anything is attached.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    libc::RLIM_INFINITY,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        utsname::uname,
    },
};

/// The oldest kernel on which every program loads, attaches and holds.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Each capability and what it is for.
///
/// `CAP_NET_ADMIN`: `bpf_prog_attach_check_attach_type` (kernel/bpf/syscall.c) asks for it when a
/// `cgroup_skb` program is attached. Newer kernels, which ask there with `bpf_token_capable`, take
/// `CAP_SYS_ADMIN` instead; what is right for one node of a cluster should be so for all.
///
/// `CAP_NET_RAW`: `inet_create` (net/ipv4/af_inet.c) for a raw socket.
///
/// `CAP_SYS_ADMIN`: `netns_install` (net/core/net_namespace.c) for setns(2). It includes what 5.8
/// split off as `CAP_BPF` and `CAP_PERFMON` (`bpf_capable`, `perfmon_capable` in
/// include/linux/capability.h), so that an agent that has it has no use for these: they would
/// neither add a right nor, taken away, remove one.
///
/// `CAP_SYS_PTRACE`: `ptrace_may_access` (kernel/ptrace.c) guards `/proc/<pid>/ns/net` of processes
/// of other users and of those with a capability that the agent lacks.
const CAPABILITIES: [(Capability, &str); 4] = [
    (Capability::CAP_NET_ADMIN, "to attach programs to cgroups"),
    (Capability::CAP_NET_RAW, "to replay held SYNs"),
    (Capability::CAP_SYS_ADMIN, "to load eBPF programs and to enter pods' network namespaces"),
    (Capability::CAP_SYS_PTRACE, "to find pods' network namespaces"),
];

/// Needed before [`MEMORY_CGROUPS`], where eBPF maps are charged to `RLIMIT_MEMLOCK`, unless that is
/// unlimited already.
const RAISE_LIMIT: (Capability, &str) = (
    Capability::CAP_SYS_RESOURCE,
    "to raise the limit of locked memory, to which Linux before 5.11 charges eBPF maps",
);

/// Since then maps are charged to the memory cgroup.
const MEMORY_CGROUPS: (u32, u32) = (5, 11);

/// What kernels before these lack, as far as only their version tells; docs/requirements.md explains
/// it. What the kernel can be asked for is `bpf::KernelPart`.
const LIMITS: [((u32, u32), &str); 2] = [
    (MEMORY_CGROUPS, "eBPF maps count as locked memory"),
    ((6, 1), "a socket's own TCP_SYNCNT is not known"),
];

/// Why the agent cannot work here.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Capabilities are missing.
    #[error(
        "missing {0}; run as root, or add what is missing to the container's \
         securityContext.capabilities"
    )]
    Missing(MissingCapabilities),
    /// The capabilities cannot be read.
    #[error("failed to read the agent's own capabilities: {0}")]
    Capabilities(String),
    /// The kernel is too old.
    #[error(
        "Linux {release} is too old: holdfast needs {}.{} or later",
        OLDEST_KERNEL.0,
        OLDEST_KERNEL.1
    )]
    Kernel {
        /// `uname -r`.
        release: String,
    },
    /// There is no `/proc` where it should be.
    #[error("failed to open {path}: {source}; name the host's /proc with --proc-root")]
    Proc {
        /// The file below it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel has no BTF.
    #[error(
        "no BTF at {path} ({source}): the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, as \
         those of the large distributions are; --btf names another file"
    )]
    Btf {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: io::Error,
    },
}

/// Raises the number of files that may be open as far as it goes: a gate has up to eight links, and
/// the usual 1,024 would do for a hundred pods only. What cannot be raised is no reason not to run.
pub fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Capabilities that the agent needs and does not have, and what for.
#[derive(Debug)]
pub struct MissingCapabilities(Vec<(Capability, &'static str)>);

impl fmt::Display for MissingCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (capability, purpose)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{capability}, needed {purpose}")?;
        }
        Ok(())
    }
}

/// A capability that the agent needs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeededCapability {
    /// Which.
    pub capability: Capability,
    /// What for.
    pub purpose: &'static str,
    /// Whether this process has it.
    pub is_held: bool,
}

/// Checks the agent's capabilities.
///
/// # Errors
///
/// All that are missing.
pub fn capabilities() -> Result<(), PreflightError> {
    let needed = needed_capabilities()?.into_iter();
    let missing: Vec<_> = needed
        .filter(|needed| !needed.is_held)
        .map(|needed| (needed.capability, needed.purpose))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::Missing(MissingCapabilities(missing)))
    }
}

/// Checks the capabilities of the sentry's process, which loads nothing and enters no namespace.
///
/// # Errors
///
/// All that are missing.
pub fn sentry_capabilities() -> Result<(), PreflightError> {
    /// `CAP_BPF` lets a process use bpf(2) where that is not for everybody (`sys_bpf` in
    /// kernel/bpf/syscall.c); `CAP_SYS_ADMIN` includes it.
    const OPEN: (Capability, &str) =
        (Capability::CAP_BPF, "to open pinned eBPF programs (CAP_SYS_ADMIN includes it)");
    let [net_admin, ..] = CAPABILITIES;
    let held = held_capabilities()?;
    let can_open = held.contains(&OPEN.0) || held.contains(&Capability::CAP_SYS_ADMIN);
    let can_attach = held.contains(&net_admin.0);
    let missing = [(can_attach, net_admin), (can_open, OPEN)].into_iter();
    let missing: Vec<_> = missing.filter(|(held, _)| !held).map(|(_, needed)| needed).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::Missing(MissingCapabilities(missing)))
    }
}

fn held_capabilities() -> Result<CapsHashSet, PreflightError> {
    caps::read(None, CapSet::Effective)
        .map_err(|error| PreflightError::Capabilities(error.to_string()))
}

/// Whether this process has what it takes to look at other users' processes.
#[must_use]
pub fn may_trace() -> bool {
    held_capabilities().is_ok_and(|held| held.contains(&Capability::CAP_SYS_PTRACE))
}

/// What the agent needs on this kernel, and has or has not.
///
/// # Errors
///
/// If its own capabilities cannot be read.
pub fn needed_capabilities() -> Result<Vec<NeededCapability>, PreflightError> {
    let held = held_capabilities()?;
    Ok(needed(&held, maps_are_locked_memory(&Kernel::running()) && locked_memory().is_some()))
}

fn needed(held: &CapsHashSet, maps_are_limited: bool) -> Vec<NeededCapability> {
    let needed = CAPABILITIES.into_iter().chain(maps_are_limited.then_some(RAISE_LIMIT));
    needed
        .map(|(capability, purpose)| {
            let is_held = held.contains(&capability);
            NeededCapability { capability, purpose, is_held }
        })
        .collect()
}

/// Whether this kernel charges eBPF maps to `RLIMIT_MEMLOCK`.
#[must_use]
pub fn maps_are_locked_memory(kernel: &Kernel) -> bool {
    kernel.version.is_some_and(|version| version < MEMORY_CGROUPS)
}

/// How many bytes this process may lock; `None`: as many as it likes.
#[must_use]
pub fn locked_memory() -> Option<u64> {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft != RLIM_INFINITY => Some(soft),
        Ok(_) | Err(_) => None,
    }
}

/// Checks the running kernel.
///
/// # Errors
///
/// If it is too old or has no BTF at `btf`.
pub fn kernel(btf: &Path) -> Result<(), PreflightError> {
    Kernel::running().require()?;
    self::btf(btf)
}

/// Checks that the kernel's description of its own types is at `path`.
///
/// # Errors
///
/// If it is not.
pub fn btf(path: &Path) -> Result<(), PreflightError> {
    check_btf(path).map_err(|source| PreflightError::Btf { path: path.to_owned(), source })
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// Major and minor number; `None` if the release does not begin so.
    pub version: Option<(u32, u32)>,
}

// === impl Kernel ===

impl Kernel {
    /// This one. Its release is empty if even that cannot be had, which is none that is new enough.
    #[must_use]
    pub fn running() -> Self {
        let name = uname().map(|name| name.release().to_string_lossy().into_owned());
        Self::of(name.unwrap_or_default())
    }

    fn of(release: String) -> Self {
        let version = version(&release);
        Self { release, version }
    }

    /// Checks that it is new enough.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn require(&self) -> Result<(), PreflightError> {
        match self.version {
            Some(version) if version >= OLDEST_KERNEL => Ok(()),
            Some(_) | None => Err(PreflightError::Kernel { release: self.release.clone() }),
        }
    }

    /// What it lacks of what newer ones have, in the order of the releases that have it.
    #[must_use]
    pub fn limits(&self) -> Vec<&'static str> {
        let version = self.version.unwrap_or_default();
        LIMITS.into_iter().filter(|(since, _)| version < *since).map(|(_, limit)| limit).collect()
    }
}

/// Whether it can be read and begins as BTF does (`struct btf_header`, include/uapi/linux/btf.h).
fn check_btf(path: &Path) -> io::Result<()> {
    /// `BTF_MAGIC`, in the byte order of the machine.
    const MAGIC: u16 = 0xeb9f;
    /// `BTF_VERSION`.
    const VERSION: u8 = 1;
    let [low, high] = MAGIC.to_ne_bytes();
    let mut start = [0; 3];
    File::open(path)?.read_exact(&mut start).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => not_btf(),
        _ => error,
    })?;
    if start == [low, high, VERSION] { Ok(()) } else { Err(not_btf()) }
}

fn not_btf() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the file is not BTF of version 1")
}

/// Major and minor number of a release such as "6.12.94+deb13-cloud-amd64".
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, expected) in [
            ("5.10.0-30-cloud-amd64", Some((5, 10))),
            ("6.1.0", Some((6, 1))),
            ("6.18.44-fc-v657", Some((6, 18))),
            ("4.19.0-rc1", Some((4, 19))),
            ("7.2", Some((7, 2))),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
        for (release, is_enough, limits) in
            [("5.9.1", false, 2), ("5.10.0", true, 2), ("5.15.0", true, 1), ("6.1.0", true, 0)]
        {
            let kernel = Kernel::of(release.to_owned());
            assert_eq!(kernel.require().is_ok(), is_enough, "{release}");
            assert_eq!(kernel.limits().len(), limits, "{release}");
        }
        assert!(Kernel::of(String::new()).require().is_err());
    }

    #[test]
    fn each_capability_is_missed_alone_and_one_more_where_maps_are_locked_memory() {
        let missing = |held: &CapsHashSet, limited| {
            let needed = needed(held, limited).into_iter().filter(|needed| !needed.is_held);
            needed.map(|needed| (needed.capability, needed.purpose)).collect::<Vec<_>>()
        };
        let all = CapsHashSet::from_iter(CAPABILITIES.map(|(capability, _)| capability));
        assert_eq!(missing(&all, false), []);
        assert_eq!(missing(&all, true), [RAISE_LIMIT]);
        for needed in CAPABILITIES {
            let mut held = all.clone();
            held.remove(&needed.0);
            assert_eq!(missing(&held, false), [needed]);
            assert_eq!(missing(&held, true), [needed, RAISE_LIMIT]);
            held.insert(RAISE_LIMIT.0);
            assert_eq!(missing(&held, true), [needed]);
        }
        assert_eq!(missing(&CapsHashSet::new(), true).len(), CAPABILITIES.len() + 1);
    }

    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let [net_admin, net_raw, ..] = CAPABILITIES;
        let error = PreflightError::Missing(MissingCapabilities(vec![net_admin, net_raw]));
        assert_eq!(
            error.to_string(),
            "missing CAP_NET_ADMIN, needed to attach programs to cgroups; CAP_NET_RAW, needed to \
             replay held SYNs; run as root, or add what is missing to the container's \
             securityContext.capabilities"
        );
    }

    #[test]
    fn btf_is_known_by_its_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("btf");
        for (bytes, valid) in [
            (&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0][..], true),
            (&[0x9f, 0xeb, 2, 0, 24, 0, 0, 0], false),
            (&[0xeb, 0x9f, 1, 0], false),
            (&[0x9f], false),
            (b"", false),
            (b"\x7fELF\x02", false),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(check_btf(&path).is_ok(), valid, "{bytes:?}");
        }
        assert_eq!(check_btf(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert!(check_btf(&dir.path().join("none")).is_err());
        check_btf(Path::new("/sys/kernel/btf/vmlinux")).unwrap();
    }
}
