//! Fetches the kernels of other Debian releases.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    private_apt::{self, PrivateApt, Target},
    sources::{self, Source},
};
use crate::{kernels::Release, workspace::Workspace};

/// Depends on the newest kernel of a release, without drivers for hardware that qemu lacks.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Downloads one release's kernel to where [`Release::image`] says.
pub(crate) fn install(workspace: &Workspace, release: Release, log: &Path) -> Result<()> {
    let Release { version: _, debian } = release;
    let found = private_apt::sources_of(debian).with_context(|| {
        format!("put the kernel to {} by hand", release.image(workspace).display())
    })?;
    let apt = PrivateApt::new(release.directory(workspace).join("apt"), Target::VirtualMachine)?;
    let package = match newest_kernel(&apt, &found, log)? {
        Some(package) => package,
        None => newest_kernel(&apt, &sources::archived(&found), log)?
            .with_context(|| format!("no source has {META_PACKAGE} of {debian}"))?,
    };
    let archive = apt.download(&package, log)?;
    let unpacked = apt.directory().join("unpacked");
    private_apt::unpack(&archive, &unpacked, log)?;
    let image = unpacked.join("boot").join(package.replacen("linux-image", "vmlinuz", 1));
    // Renamed last: an interrupted setup leaves no half of a kernel.
    fs::rename(&image, release.image(workspace))
        .with_context(|| format!("{package} without {}", image.display()))?;
    apt.remove()
}

/// Names the newest kernel in the sources, if there is one.
fn newest_kernel(apt: &PrivateApt, sources: &[Source], log: &Path) -> Result<Option<String>> {
    apt.update(sources, log)?;
    Ok(kernel_package(&apt.show(META_PACKAGE)?).map(str::to_owned))
}

/// The package that `META_PACKAGE` depends on, in the words of `apt-cache show`.
///
/// Versions come newest first.
fn kernel_package(shown: &str) -> Option<&str> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends
        .split(',')
        .filter_map(|dependency| dependency.split_whitespace().next())
        .find(|package| package.starts_with("linux-image-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_the_first_dependency_shown() {
        let shown = "Package: linux-image-cloud-amd64\nVersion: 5.10.262-1\n\
                     Depends: linux-image-5.10.0-46-cloud-amd64 (= 5.10.262-1)\n\n\
                     Package: linux-image-cloud-amd64\nVersion: 5.10.223-1\n\
                     Depends: linux-image-5.10.0-32-cloud-amd64 (= 5.10.223-1)\n";
        assert_eq!(kernel_package(shown), Some("linux-image-5.10.0-46-cloud-amd64"));
        assert_eq!(kernel_package(""), None);
    }
}
