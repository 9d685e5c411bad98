//! The kernels that holdfast is tried on.

use std::path::PathBuf;

use crate::workspace::Workspace;

/// A Debian release's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// Kernel version, or Debian's release where that has another one every few weeks; as in
    /// `--kernel`.
    pub(crate) name: &'static str,
    /// Debian's name of the release that has it.
    pub(crate) debian: &'static str,
    /// Whether it is whatever Debian has today. Then it may be away for an hour, or for good, and
    /// that is no fault of a change that is tried today.
    pub(crate) moves: bool,
}

/// From the oldest that the programs load on to the newest that Debian has.
pub(crate) const RELEASES: [Release; 4] = [
    Release { name: "5.10", debian: "bullseye", moves: false },
    Release { name: "6.1", debian: "bookworm", moves: false },
    Release { name: "6.12", debian: "trixie", moves: false },
    Release { name: "sid", debian: "sid", moves: true },
];

/// Where the tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// This machine's own.
    Host,
    /// In a virtual machine.
    Of(Release),
}

// === impl Release ===

impl Release {
    /// Where setup puts the kernel's files.
    pub(crate) fn directory(self, workspace: &Workspace) -> PathBuf {
        workspace.tools().join("kernels").join(self.name)
    }

    /// The compressed kernel that qemu boots.
    pub(crate) fn image(self, workspace: &Workspace) -> PathBuf {
        self.directory(workspace).join("vmlinuz")
    }
}

// === impl Kernel ===

impl Kernel {
    /// The host's own first: it takes no boot, and has ended when the last machine begins.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::Host].into_iter().chain(RELEASES.map(Self::Of))
    }

    /// As in `--kernel`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Of(release) => release.name,
        }
    }

    /// Parses `--kernel`.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        Self::all().find(|kernel| kernel.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::all().map(Self::name).collect();
            format!("known kernels are {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_found_by_its_name_and_no_other() {
        for kernel in Kernel::all() {
            assert_eq!(Kernel::parse(kernel.name()), Ok(kernel));
        }
        let error = "known kernels are host, 5.10, 6.1, 6.12, sid";
        assert_eq!(Kernel::parse("4.19"), Err(error.into()));
    }
}
