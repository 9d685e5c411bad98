//! apt under a configuration of its own: packages are downloaded, none is installed.
//!
//! The machine's sources tell mirror and keys; its own lists and cache are neither read nor
//! changed, and root is not needed.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::sources::{self, Source};
use crate::console;

/// apt's configuration of this machine.
const ETC_APT: &str = "/etc/apt";

/// What this machine has installed.
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

/// Tells the release that the machine's sources are for.
const OS_RELEASE: &str = "/etc/os-release";

/// Where apt puts what it would install, below its directory.
const ARCHIVES: &str = "cache/archives";

/// For what the packages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A virtual machine, always amd64, of which apt knows nothing.
    VirtualMachine,
    /// This machine: what it has installed need not be downloaded.
    ThisMachine,
}

/// apt with a directory of its own for everything.
pub(super) struct PrivateApt {
    directory: PathBuf,
    target: Target,
}

/// The Debian release that this machine runs.
pub(super) fn host_release() -> Result<String> {
    let os_release =
        fs::read_to_string(OS_RELEASE).with_context(|| format!("read {OS_RELEASE}"))?;
    codename(&os_release)
        .map(str::to_owned)
        .with_context(|| format!("{OS_RELEASE} has no codename"))
}

/// The machine's sources with its release's suites exchanged for `release`'s.
pub(super) fn sources_of(release: &str) -> Result<Vec<Source>> {
    let found =
        sources::for_release(&sources::read(Path::new(ETC_APT))?, &host_release()?, release);
    if found.is_empty() {
        bail!("no Debian mirror in {ETC_APT}");
    }
    Ok(found)
}

/// `VERSION_CODENAME` of os-release(5).
fn codename(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"')).filter(|codename| !codename.is_empty())
}

/// Takes an archive's files out of it; nothing of the package is run.
pub(super) fn unpack(archive: &Path, root: &Path, log: &Path) -> Result<()> {
    console::run_logged(Command::new("dpkg-deb").arg("-x").args([archive, root]), log)
}

// === impl PrivateApt ===

impl PrivateApt {
    pub(super) fn new(directory: PathBuf, target: Target) -> Result<Self> {
        remove_if_there(&directory)?;
        // The names that apt expects; it does not make them itself.
        for name in ["sources", "state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let status = directory.join("state/status");
        match target {
            Target::VirtualMachine => fs::write(&status, []),
            // A copy: apt locks the directory of the file that it is shown.
            Target::ThisMachine => fs::copy(DPKG_STATUS, &status).map(drop),
        }
        .with_context(|| format!("create {}", status.display()))?;
        Ok(Self { directory, target })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the sources' indexes.
    pub(super) fn update(&self, sources: &[Source], log: &Path) -> Result<()> {
        let file = self.directory.join("sources/debian.sources");
        fs::write(&file, sources::render(sources))
            .with_context(|| format!("write {}", file.display()))?;
        // Its exit status tells only that some source failed (third parties, releases partly
        // archived); what counts is whether one of them has the package. The log has the reason.
        let _: Result<()> = console::run_logged(self.command("apt-get").arg("update"), log);
        Ok(())
    }

    /// What `apt-cache show` says of a package, newest version first; nothing of an unknown one.
    pub(super) fn show(&self, package: &str) -> Result<String> {
        let output =
            self.command("apt-cache").args(["show", package]).output().context("run apt-cache")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Downloads a package, signature and checksum verified by apt, and returns its file.
    pub(super) fn download(&self, package: &str, log: &Path) -> Result<PathBuf> {
        let mut command = self.command("apt-get");
        // It downloads to where it stands.
        command.args(["download", package]).current_dir(&self.directory);
        console::run_logged(&mut command, log)?;
        archives(&self.directory)?
            .into_iter()
            .find(|path| is_of(path, package))
            .with_context(|| format!("apt-get download {package} left no file"))
    }

    /// Downloads these packages and all that the first one depends on and the machine lacks.
    pub(super) fn download_closure(&self, packages: &[&str], log: &Path) -> Result<Vec<PathBuf>> {
        let mut command = self.command("apt-get");
        command.args(["install", "--yes", "--download-only", "--no-install-recommends"]);
        console::run_logged(command.args(packages.first()), log)?;
        let mut found = archives(&self.directory.join(ARCHIVES))?;
        for package in packages {
            // To install it apt needs nothing that the machine has, be it the package itself.
            if !found.iter().any(|path| is_of(path, package)) {
                found.push(self.download(package, log)?);
            }
        }
        Ok(found)
    }

    /// Removes its lists and what it has downloaded.
    pub(super) fn remove(self) -> Result<()> {
        remove_if_there(&self.directory)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let directory = |name: &str| self.directory.join(name).into_os_string();
        let mut options = vec![
            ("Dir::Etc::SourceList", OsString::from("/dev/null")),
            ("Dir::Etc::SourceParts", directory("sources")),
            ("Dir::State", directory("state")),
            ("Dir::State::Status", directory("state/status")),
            ("Dir::Cache", directory("cache")),
            // The download user may not enter a developer's home directory.
            ("APT::Sandbox::User", "root".into()),
            // Indexes of releases that get no more updates have expired.
            ("Acquire::Check-Valid-Until", "false".into()),
            // Indexes that nobody reads here and that are as large as the rest.
            ("Acquire::Languages", "none".into()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
            ("Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled", "false".into()),
        ];
        if self.target == Target::VirtualMachine {
            options.push(("APT::Architecture", "amd64".into()));
        }
        for (key, value) in options {
            let mut option = OsString::from(key);
            option.push("=");
            option.push(value);
            command.arg("-o").arg(option);
        }
        command
    }
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(directory
        .read_dir()
        .with_context(|| format!("list {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect())
}

/// Whether the archive is the package's: `NAME_VERSION_ARCHITECTURE.deb`.
fn is_of(archive: &Path, package: &str) -> bool {
    let name = archive.file_name().unwrap_or_default().as_encoded_bytes();
    name.strip_prefix(package.as_bytes()).is_some_and(|rest| rest.starts_with(b"_"))
}

/// Removes a directory with all that is in it.
pub(super) fn remove_if_there(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_release_is_read_quoted_or_not() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"\n"), Some("trixie"));
        assert_eq!(codename("ID=arch\n"), None);
    }

    #[test]
    fn an_archive_is_of_the_package_that_it_is_called_by() {
        let archive = Path::new("cache/archives/chromium-common_150.0.1-1~deb12u1_amd64.deb");
        assert!(is_of(archive, "chromium-common"));
        assert!(!is_of(archive, "chromium") && !is_of(archive, "common"));
    }
}
