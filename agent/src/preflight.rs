//! What the agent needs, checked before anything is attached.

use std::{
    io,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::sys::utsname::uname;

/// The oldest kernel on which every program loads, attaches and holds.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Each capability and what it is for.
const CAPABILITIES: [(Capability, &str); 6] = [
    (Capability::CAP_BPF, "to load eBPF programs"),
    (Capability::CAP_NET_ADMIN, "to attach them to cgroups"),
    (Capability::CAP_PERFMON, "to load programs that keep per-socket state on kernels before 5.16"),
    (Capability::CAP_NET_RAW, "to replay held SYNs"),
    (Capability::CAP_SYS_ADMIN, "to enter pods' network namespaces"),
    (Capability::CAP_SYS_PTRACE, "to find pods' network namespaces"),
];

/// Why the agent cannot work here.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// A capability is missing.
    #[error(
        "missing {missing}, needed {purpose}; run as root, or add it to the container's \
         securityContext.capabilities"
    )]
    Capability {
        /// Its name.
        missing: Capability,
        /// What for.
        purpose: &'static str,
    },
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
         those of the large distributions are"
    )]
    Btf {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: io::Error,
    },
}

/// Checks the agent's capabilities.
///
/// # Errors
///
/// The first one that is missing.
pub fn capabilities() -> Result<(), PreflightError> {
    let held = caps::read(None, CapSet::Effective)
        .map_err(|error| PreflightError::Capabilities(error.to_string()))?;
    for (missing, purpose) in CAPABILITIES {
        // CAP_SYS_ADMIN includes what 5.8 split off as CAP_BPF and CAP_PERFMON.
        let included = held.contains(&Capability::CAP_SYS_ADMIN)
            && matches!(missing, Capability::CAP_BPF | Capability::CAP_PERFMON);
        if !held.contains(&missing) && !included {
            return Err(PreflightError::Capability { missing, purpose });
        }
    }
    Ok(())
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
    std::fs::metadata(btf)
        .map(drop)
        .map_err(|source| PreflightError::Btf { path: btf.to_owned(), source })
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
}
