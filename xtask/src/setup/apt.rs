//! Installs Debian packages.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{console, workspace};

/// Whether this process can install Debian packages, or the reason why not.
pub(crate) fn usable() -> Result<(), &'static str> {
    if workspace::find_program("apt-get").is_none() {
        Err("this machine has no apt-get")
    } else if !workspace::is_root() {
        Err("only root can install packages")
    } else {
        Ok(())
    }
}

/// Whether apt can install the package, as far as it knows now.
pub(crate) fn offers(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .output()
        .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// Installs packages; `refresh` reads the package indexes anew before.
///
/// A fresh container has no indexes and an old machine has outdated ones: they are read anew also
/// when the present ones do not lead to an installation.
pub(crate) fn install(packages: &[String], refresh: bool, log: &Path) -> Result<()> {
    if !refresh && let Some(removed) = removed_by(packages)? {
        match install_with(packages, &removed, log) {
            Ok(()) => return Ok(()),
            Err(error) => console::line(&format!("{error:#}")),
        }
    }
    let update = console::step("reading Debian's package indexes", || {
        console::run_logged(Command::new("apt-get").arg("update"), log)
    });
    if let Err(error) = update {
        // One broken third-party source must not be the end: the installation would tell.
        console::line(&format!("{error:#}"));
    }
    install_with(packages, &removed_by(packages)?.unwrap_or_default(), log)
}

fn install_with(packages: &[String], removed: &[String], log: &Path) -> Result<()> {
    for package in removed {
        console::line(&format!("note: {package} conflicts with these and will be removed"));
    }
    console::step(&format!("installing {}", packages.join(" ")), || {
        console::run_logged(install_command().args(packages), log)
    })
}

fn install_command() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends"])
        // Nobody is there to answer a package's questions.
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Packages that apt would remove to install these; `None` when it cannot install them.
fn removed_by(packages: &[String]) -> Result<Option<Vec<String>>> {
    let output = install_command()
        .arg("--simulate")
        .args(packages)
        .output()
        .context("run apt-get --simulate")?;
    let simulation = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success().then(|| removals(&simulation)))
}

/// `Remv <package> [<version>] ...` of `apt-get --simulate`.
fn removals(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_read_from_a_simulation() {
        let simulation = "Reading package lists...\nRemv qemu-utils [1:10.0] []\n\
                          Inst qemu-system-x86 (1:7.2 Debian:12 [amd64])\nRemv busybox [1:1.35]\n";
        assert_eq!(removals(simulation), ["qemu-utils", "busybox"]);
        assert!(removals("Inst strace (6.1)\n").is_empty());
    }
}
