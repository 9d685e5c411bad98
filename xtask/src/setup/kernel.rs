//! Fetches the kernels of other Debian releases.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    private_apt::{self, PrivateApt, Target},
    sources::{self, Source},
};
use crate::{kernels::Release, workspace::Workspace};

/// Depend on the newest kernel of a release. The first one's comes without drivers for hardware that
/// qemu lacks.
const META_PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-amd64"];

/// Downloads one release's kernel to where [`Release::image`] says.
///
/// No version is written down anywhere: the mirror's own index names the newest, so that nothing
/// here has to follow Debian. apt compares signatures and checksums.
pub(crate) fn install(workspace: &Workspace, release: Release, log: &Path) -> Result<()> {
    let Release { name: _, debian, moves: _ } = release;
    let found = private_apt::sources_of(debian).with_context(|| {
        format!("put the kernel to {} by hand", release.image(workspace).display())
    })?;
    let apt = PrivateApt::new(release.directory(workspace).join("apt"), Target::VirtualMachine)?;
    let mut packages = kernels(&apt, &found, log)?;
    if packages.is_empty() {
        packages = kernels(&apt, &sources::archived(&found), log)?;
    }
    let image = first_image(&apt, &packages, log)
        .with_context(|| format!("no source has a kernel of Debian {debian}"))?;
    // Renamed last: an interrupted setup leaves no half of a kernel.
    fs::rename(&image, release.image(workspace))
        .with_context(|| format!("rename {}", image.display()))?;
    apt.remove()
}

/// The kernels that the sources have, in the order in which they are to be tried.
fn kernels(apt: &PrivateApt, sources: &[Source], log: &Path) -> Result<Vec<String>> {
    apt.update(sources, log)?;
    let mut packages = Vec::new();
    for meta in META_PACKAGES {
        for package in kernel_packages(&apt.show(meta)?) {
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
    }
    Ok(packages)
}

/// The first that can be had: while a mirror is being updated its index may name what it has not yet,
/// or has not any more.
fn first_image(apt: &PrivateApt, packages: &[String], log: &Path) -> Result<PathBuf> {
    let mut failure = None;
    for package in packages {
        match image(apt, package, log) {
            Ok(image) => return Ok(image),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => bail!("neither of {} is there", META_PACKAGES.join(", ")),
    }
}

fn image(apt: &PrivateApt, package: &str, log: &Path) -> Result<PathBuf> {
    let carrier = binary_package(&apt.show(package)?).unwrap_or_else(|| package.to_owned());
    let archive = apt.download(&carrier, log)?;
    let unpacked = apt.directory().join("unpacked");
    private_apt::unpack(&archive, &unpacked, log)?;
    let release = package.trim_start_matches("linux-image-");
    [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")]
        .into_iter()
        .map(|path| unpacked.join(path))
        .find(|path| path.is_file())
        .with_context(|| format!("{carrier} has no kernel"))
}

/// The packages that a meta package's versions depend on, in the words of `apt-cache show`.
///
/// Versions come newest first.
fn kernel_packages(shown: &str) -> Vec<String> {
    let all = dependencies(shown);
    all.filter(|package| package.starts_with("linux-image-")).map(str::to_owned).collect()
}

/// From Debian 14 on a kernel is in a package beside the one that has it booted.
fn binary_package(shown: &str) -> Option<String> {
    dependencies(shown).find(|package| package.starts_with("linux-binary-")).map(str::to_owned)
}

fn dependencies(shown: &str) -> impl Iterator<Item = &str> {
    let depends = shown.lines().filter_map(|line| line.strip_prefix("Depends: "));
    depends
        .flat_map(|depends| depends.split(','))
        .filter_map(|dependency| dependency.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_comes_first() {
        let shown = "Package: linux-image-cloud-amd64\nVersion: 5.10.262-1\n\
                     Depends: linux-image-5.10.0-46-cloud-amd64 (= 5.10.262-1)\n\n\
                     Package: linux-image-cloud-amd64\nVersion: 5.10.223-1\n\
                     Depends: linux-image-5.10.0-32-cloud-amd64 (= 5.10.223-1)\n";
        let expected = ["linux-image-5.10.0-46-cloud-amd64", "linux-image-5.10.0-32-cloud-amd64"];
        assert_eq!(kernel_packages(shown), expected);
        assert_eq!(kernel_packages(""), [""; 0]);
        let newer = "Depends: linux-base-cloud-amd64 (= 7.2.13-1), \
                     linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n";
        assert_eq!(kernel_packages(newer), ["linux-image-7.2.13+deb14-cloud-amd64"]);
    }

    #[test]
    fn a_kernel_may_be_in_a_package_of_its_own() {
        let shown = "Depends: dracut | linux-initramfs-tool, linux-base-7.2.13+deb14-cloud-amd64 \
                     (= 7.2.13-1), linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n";
        let expected = Some("linux-binary-7.2.13+deb14-cloud-amd64".to_owned());
        assert_eq!(binary_package(shown), expected);
        assert_eq!(binary_package("Depends: kmod, linux-base (>= 4.3~)\n"), None);
    }
}
