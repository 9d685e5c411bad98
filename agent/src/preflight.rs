//! What the agent needs, checked before anything is attached.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::sys::utsname::uname;

/// The oldest kernel on which every program loads, attaches and holds.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Each capability and what it is for.
const CAPABILITIES: [(Capability, &str); 6] = [
    (Capability::CAP_BPF, "to load eBPF programs"),
    (Capability::CAP_NET_ADMIN, "to attach programs to cgroups"),
    (Capability::CAP_PERFMON, "to load programs that keep per-socket state on kernels before 5.16"),
    (Capability::CAP_NET_RAW, "to replay held SYNs"),
    (Capability::CAP_SYS_ADMIN, "to enter pods' network namespaces"),
    (Capability::CAP_SYS_PTRACE, "to find pods' network namespaces"),
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

/// Checks the agent's capabilities.
///
/// # Errors
///
/// All that are missing.
pub fn capabilities() -> Result<(), PreflightError> {
    let held = caps::read(None, CapSet::Effective)
        .map_err(|error| PreflightError::Capabilities(error.to_string()))?;
    let missing = CAPABILITIES.into_iter().filter(|(needed, _)| {
        // CAP_SYS_ADMIN includes what 5.8 split off as CAP_BPF and CAP_PERFMON.
        let included = held.contains(&Capability::CAP_SYS_ADMIN)
            && matches!(needed, Capability::CAP_BPF | Capability::CAP_PERFMON);
        !held.contains(needed) && !included
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::Missing(MissingCapabilities(missing)))
    }
}

/// Checks the running kernel.
///
/// # Errors
///
/// If it is too old or has no BTF at `btf`.
pub fn kernel(btf: &Path) -> Result<(), PreflightError> {
    let release =
        uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    if version(&release).is_none_or(|version| version < OLDEST_KERNEL) {
        return Err(PreflightError::Kernel { release });
    }
    check_btf(btf).map_err(|source| PreflightError::Btf { path: btf.to_owned(), source })
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
        assert!((5, 9) < OLDEST_KERNEL && (5, 10) >= OLDEST_KERNEL && (6, 1) >= OLDEST_KERNEL);
    }
    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let [bpf, net_admin, ..] = CAPABILITIES;
        let error = PreflightError::Missing(MissingCapabilities(vec![bpf, net_admin]));
        assert_eq!(
            error.to_string(),
            "missing CAP_BPF, needed to load eBPF programs; CAP_NET_ADMIN, needed to attach \
             programs to cgroups; run as root, or add what is missing to the container's \
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
