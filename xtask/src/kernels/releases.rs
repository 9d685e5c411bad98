//! The kernels that holdfast is tried on.

use std::path::PathBuf;

use crate::workspace::Workspace;

/// A Debian release's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// Kernel version, as in `--kernel`.
    pub(crate) version: &'static str,
    /// Debian's name of the release that has it.
    pub(crate) debian: &'static str,
}

/// From the oldest that the programs load on to the newest stable release's.
pub(crate) const RELEASES: [Release; 3] = [
    Release { version: "5.10", debian: "bullseye" },
    Release { version: "6.1", debian: "bookworm" },
    Release { version: "6.12", debian: "trixie" },
];

impl Release {
    /// Where setup puts the kernel's files.
    pub(crate) fn directory(self, workspace: &Workspace) -> PathBuf {
        workspace.tools().join("kernels").join(self.version)
    }

    /// The compressed kernel that qemu boots.
    pub(crate) fn image(self, workspace: &Workspace) -> PathBuf {
        self.directory(workspace).join("vmlinuz")
    }
}

/// Parses `--kernel`.
pub(crate) fn parse(version: &str) -> Result<Release, String> {
    RELEASES.into_iter().find(|release| release.version == version).ok_or_else(|| {
        let known: Vec<&str> = RELEASES.iter().map(|release| release.version).collect();
        format!("known kernels are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_found_by_its_version_and_no_other() {
        for release in RELEASES {
            assert_eq!(parse(release.version), Ok(release));
        }
        assert_eq!(parse("4.19"), Err("known kernels are 5.10, 6.1, 6.12".into()));
    }
}
