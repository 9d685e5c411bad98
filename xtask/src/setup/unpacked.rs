//! Debian packages that are unpacked into `.tools` instead of being installed.
//!
//! A browser would bring a machine a menu entry and twenty libraries, Prometheus a service that
//! starts at once. The tests want one program of each.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::private_apt::{self, PrivateApt, Target};
use crate::workspace::{Workspace, find_program};

/// A program that comes this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpacked {
    /// Chromium without a window.
    Chromium,
    /// Prometheus' own check of rules and metrics.
    Promtool,
}

/// Has no window, and needs no libraries of a desktop.
const CHROMIUM: &str = "chromium-headless-shell";

/// Data that lies beside it, without which it does not start.
const CHROMIUM_DATA: &str = "chromium-common";

/// Letters as wide as those of most desktops, for text and for code.
const FONTS: &str = "fonts-liberation";

/// Has promtool.
const PROMETHEUS: &str = "prometheus";

/// Starts the browser with the libraries and fonts beside it and nothing of the machine's fonts:
/// a picture looks the same everywhere.
const LAUNCHER: &str = r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export FONTCONFIG_FILE="$here/fonts.conf"
export LD_LIBRARY_PATH="@LIBRARIES@"
exec "$here/root/usr/lib/chromium/chromium-headless-shell" "$@"
"#;

/// fontconfig's settings: what nobody knows is sans-serif. Its cache goes below `XDG_CACHE_HOME`.
const FONTS_CONF: &str = r#"<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir prefix="relative">root/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
  <alias><family>serif</family><prefer><family>Liberation Serif</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>Liberation Mono</family></prefer></alias>
  <match target="pattern">
    <edit name="family" mode="append_last"><string>Liberation Sans</string></edit>
  </match>
</fontconfig>
"#;

// === impl Unpacked ===

impl Unpacked {
    pub(super) const ALL: [Self; 2] = [Self::Chromium, Self::Promtool];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chromium => "Chromium",
            Self::Promtool => "promtool",
        }
    }

    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Chromium => "shows the node page to its tests (100 MB to download)",
            Self::Promtool => "checks metrics and alert rules (19 MB to download)",
        }
    }

    /// Whether the one that the tests would take is there and runs.
    pub(super) fn is_there(self, workspace: &Workspace) -> bool {
        let named = env::var_os(self.variable()).map(PathBuf::from);
        runs(&self.chosen(named, find_program("promtool"), workspace))
    }

    /// As the testbed does: what the variable names comes first, then the machine's promtool.
    fn chosen(
        self,
        named: Option<PathBuf>,
        machines_promtool: Option<PathBuf>,
        workspace: &Workspace,
    ) -> PathBuf {
        let found = match self {
            Self::Chromium => named,
            Self::Promtool => named.filter(|path| path.is_file()).or(machines_promtool),
        };
        found.unwrap_or_else(|| self.program(workspace))
    }

    /// By which the tests are told of another one.
    fn variable(self) -> &'static str {
        match self {
            Self::Chromium => "HOLDFAST_CHROMIUM",
            Self::Promtool => "HOLDFAST_PROMTOOL",
        }
    }

    /// How a person puts it there.
    pub(super) fn by_hand(self, workspace: &Workspace) -> String {
        let program = self.program(workspace);
        match self {
            Self::Chromium => format!(
                "# {}, or what {} names: a script that starts a Chromium with the arguments it gets",
                program.display(),
                self.variable()
            ),
            Self::Promtool => format!(
                "# promtool, of any Prometheus release, to {}, or {} with its path",
                program.display(),
                self.variable()
            ),
        }
    }

    /// Downloads and unpacks it.
    pub(super) fn install(self, workspace: &Workspace, log: &Path) -> Result<()> {
        let sources = private_apt::sources_of(&private_apt::host_release()?)
            .with_context(|| self.by_hand(workspace))?;
        let directory = self.directory(workspace);
        let partial = directory.with_extension("partial");
        private_apt::remove_if_there(&partial)?;
        let apt = PrivateApt::new(partial.join("apt"), Target::ThisMachine)?;
        apt.update(&sources, log)?;
        let root = partial.join("root");
        match self {
            Self::Chromium => {
                let wanted = [CHROMIUM, CHROMIUM_DATA, FONTS];
                for archive in apt.download_closure(&wanted, log)? {
                    private_apt::unpack(&archive, &root, log)?;
                }
                write_launcher(&partial)?;
            }
            Self::Promtool => {
                private_apt::unpack(&apt.download(PROMETHEUS, log)?, &root, log)?;
                let promtool = root.join("usr/bin/promtool");
                fs::rename(&promtool, partial.join("promtool"))
                    .with_context(|| format!("{PROMETHEUS} without {}", promtool.display()))?;
                private_apt::remove_if_there(&root)?;
            }
        }
        apt.remove()?;
        // Renamed last: an interrupted setup leaves nothing half.
        private_apt::remove_if_there(&directory)?;
        fs::rename(&partial, &directory)
            .with_context(|| format!("rename {}", partial.display()))?;
        if !runs(&self.program(workspace)) {
            bail!("{} does not run", self.program(workspace).display());
        }
        Ok(())
    }

    fn program(self, workspace: &Workspace) -> PathBuf {
        self.directory(workspace).join(match self {
            Self::Chromium => "chromium",
            Self::Promtool => "promtool",
        })
    }

    fn directory(self, workspace: &Workspace) -> PathBuf {
        workspace.tools().join(match self {
            Self::Chromium => "chromium",
            Self::Promtool => "prometheus",
        })
    }
}

fn runs(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Writes what starts the browser that was unpacked into `directory`.
fn write_launcher(directory: &Path) -> Result<()> {
    let root = directory.join("root");
    let mut libraries = Vec::new();
    collect_library_directories(&root, &mut libraries)?;
    libraries.sort();
    let libraries: Vec<String> = libraries
        .iter()
        .filter_map(|library| library.strip_prefix(directory).ok())
        .map(|library| format!("$here/{}", library.display()))
        .collect();
    let launcher = directory.join("chromium");
    fs::write(&launcher, LAUNCHER.replace("@LIBRARIES@", &libraries.join(":")))
        .and_then(|()| fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", launcher.display()))?;
    let fonts = directory.join("fonts.conf");
    fs::write(&fonts, FONTS_CONF).with_context(|| format!("write {}", fonts.display()))
}

/// Finds the directories with shared libraries: some packages have one of their own, which their
/// programs know by an absolute path that is not this one.
fn collect_library_directories(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        directory.read_dir().with_context(|| format!("list {}", directory.display()))?.flatten();
    let mut has_library = false;
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() {
            collect_library_directories(&path, found)?;
        } else {
            has_library |= path.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.ends_with(".so") || name.contains(".so.")
            });
        }
    }
    if has_library {
        found.push(directory.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_named_a_program_downloads_none() {
        let directory = tempfile::tempdir().unwrap();
        let [root, target] = ["root", "target"].map(|name| directory.path().join(name));
        let workspace = Workspace { root, target };
        let [own, machines] = ["own", "machines"].map(|name| directory.path().join(name));
        let chosen = |program: Unpacked, named: Option<&PathBuf>| {
            program.chosen(named.cloned(), Some(machines.clone()), &workspace)
        };
        fs::write(&own, []).unwrap();
        assert_eq!(chosen(Unpacked::Chromium, Some(&own)), own);
        assert_eq!(chosen(Unpacked::Promtool, Some(&own)), own);
        let unpacked = Unpacked::Chromium.program(&workspace);
        assert_eq!(chosen(Unpacked::Chromium, None), unpacked);
        assert_eq!(chosen(Unpacked::Promtool, None), machines);
        // The tests take a promtool wherever there is one, and no other browser than the one named.
        fs::remove_file(&own).unwrap();
        assert_eq!(chosen(Unpacked::Chromium, Some(&own)), own);
        assert_eq!(chosen(Unpacked::Promtool, Some(&own)), machines);
    }

    #[test]
    fn the_launcher_finds_every_directory_with_libraries_from_wherever_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let libraries = directory.path().join("root/usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(libraries.join("own")).unwrap();
        fs::create_dir_all(libraries.join("data")).unwrap();
        for file in ["libone.so.1", "own/libtwo.so", "data/libone.txt"] {
            fs::write(libraries.join(file), []).unwrap();
        }
        write_launcher(directory.path()).unwrap();
        let launcher = fs::read_to_string(directory.path().join("chromium")).unwrap();
        assert!(
            launcher.contains(
                "LD_LIBRARY_PATH=\"$here/root/usr/lib/x86_64-linux-gnu:\
                 $here/root/usr/lib/x86_64-linux-gnu/own\"\n"
            ),
            "{launcher}"
        );
        assert!(!launcher.contains(&directory.path().display().to_string()), "{launcher}");
    }
}
