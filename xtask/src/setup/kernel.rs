//! Fetches the kernels of other Debian releases with apt, under a configuration of its own.
//!
//! The machine's sources tell mirror and keys; its own lists, cache and package state are neither
//! read nor changed, and root is not needed.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::sources::{self, Source};
use crate::{console, kernels::Release, workspace::Workspace};

/// Depends on the newest kernel of a release, without drivers for hardware that qemu lacks.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// apt's configuration of this machine.
const ETC_APT: &str = "/etc/apt";

/// Tells the release that the machine's sources are for.
const OS_RELEASE: &str = "/etc/os-release";

/// Downloads one release's kernel to where [`Release::image`] says.
pub(crate) fn install(workspace: &Workspace, release: Release, log: &Path) -> Result<()> {
    let Release { version: _, debian } = release;
    let os_release =
        fs::read_to_string(OS_RELEASE).with_context(|| format!("read {OS_RELEASE}"))?;
    let host = codename(&os_release).with_context(|| format!("{OS_RELEASE} has no codename"))?;
    let found = sources::for_release(&sources::read(Path::new(ETC_APT))?, host, debian);
    if found.is_empty() {
        bail!(
            "no Debian mirror in {ETC_APT}: put the kernel to {} by hand",
            release.image(workspace).display()
        );
    }
    let directory = release.directory(workspace);
    let apt = PrivateApt::new(directory.join("apt"))?;
    // The sources fail one by one (third parties, releases partly archived); what counts is
    // whether one of them has the kernel.
    let package = match apt.newest_kernel(&found, log)? {
        Some(package) => package,
        None => apt
            .newest_kernel(&sources::archived(&found), log)?
            .with_context(|| format!("no source has {META_PACKAGE} of {debian}"))?,
    };
    let archive = apt.download(&package, log)?;
    let unpacked = apt.directory.join("unpacked");
    console::run_logged(Command::new("dpkg-deb").arg("-x").args([&archive, &unpacked]), log)?;
    let image = unpacked.join("boot").join(package.replacen("linux-image", "vmlinuz", 1));
    // Renamed last: an interrupted setup leaves no half of a kernel.
    fs::rename(&image, release.image(workspace))
        .with_context(|| format!("{package} without {}", image.display()))?;
    fs::remove_dir_all(&apt.directory)
        .with_context(|| format!("remove {}", apt.directory.display()))
}

/// `VERSION_CODENAME` of os-release(5).
fn codename(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"')).filter(|codename| !codename.is_empty())
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

/// apt with a directory of its own for everything.
struct PrivateApt {
    directory: PathBuf,
}

// === impl PrivateApt ===

impl PrivateApt {
    fn new(directory: PathBuf) -> Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", directory.display()));
            }
            _ => {}
        }
        // The names that apt expects; it does not make them itself.
        for name in ["sources", "state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let status = directory.join("state/status");
        fs::write(&status, []).with_context(|| format!("create {}", status.display()))?;
        Ok(Self { directory })
    }

    /// Reads the sources' indexes and names the newest kernel in them, if there is one.
    fn newest_kernel(&self, sources: &[Source], log: &Path) -> Result<Option<String>> {
        let file = self.directory.join("sources/debian.sources");
        fs::write(&file, sources::render(sources))
            .with_context(|| format!("write {}", file.display()))?;
        // Its exit status tells only that some source failed; the log has the reason.
        let _: Result<()> = console::run_logged(self.command("apt-get").arg("update"), log);
        let output = self
            .command("apt-cache")
            .args(["show", META_PACKAGE])
            .output()
            .context("run apt-cache")?;
        Ok(kernel_package(&String::from_utf8_lossy(&output.stdout)).map(str::to_owned))
    }

    /// Downloads a package, signature and checksum verified by apt, and returns its file.
    fn download(&self, package: &str, log: &Path) -> Result<PathBuf> {
        let mut command = self.command("apt-get");
        // It downloads to where it stands.
        command.args(["download", package]).current_dir(&self.directory);
        console::run_logged(&mut command, log)?;
        self.directory
            .read_dir()
            .with_context(|| format!("list {}", self.directory.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get download {package} left no file"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let directory = |name: &str| self.directory.join(name).into_os_string();
        for (key, value) in [
            ("Dir::Etc::SourceList", OsString::from("/dev/null")),
            ("Dir::Etc::SourceParts", directory("sources")),
            ("Dir::State", directory("state")),
            ("Dir::State::Status", directory("state/status")),
            ("Dir::Cache", directory("cache")),
            ("APT::Architecture", "amd64".into()),
            // The download user may not enter a developer's home directory.
            ("APT::Sandbox::User", "root".into()),
            // Indexes of releases that get no more updates have expired.
            ("Acquire::Check-Valid-Until", "false".into()),
            // Indexes that nobody reads here and that are as large as the rest.
            ("Acquire::Languages", "none".into()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
            ("Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled", "false".into()),
        ] {
            let mut option = OsString::from(key);
            option.push("=");
            option.push(value);
            command.arg("-o").arg(option);
        }
        command
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
    fn the_newest_kernel_is_the_first_dependency_shown() {
        let shown = "Package: linux-image-cloud-amd64\nVersion: 5.10.262-1\n\
                     Depends: linux-image-5.10.0-46-cloud-amd64 (= 5.10.262-1)\n\n\
                     Package: linux-image-cloud-amd64\nVersion: 5.10.223-1\n\
                     Depends: linux-image-5.10.0-32-cloud-amd64 (= 5.10.223-1)\n";
        assert_eq!(kernel_package(shown), Some("linux-image-5.10.0-46-cloud-amd64"));
        assert_eq!(kernel_package(""), None);
    }
}
