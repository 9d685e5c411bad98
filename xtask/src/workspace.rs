//! Where things are, and who runs us.

use std::{
    env, error,
    ffi::OsString,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::ebpf_toolchain::TOOLS_DIR;

/// The checkout and its target directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

/// A command that loads eBPF programs or makes namespaces was started by somebody else than root.
#[derive(Debug)]
pub(crate) struct NotRoot {
    command: &'static str,
}

// === impl Workspace ===

impl Workspace {
    /// Asks cargo, since a user's configuration may put the target directory anywhere.
    pub(crate) fn locate() -> Result<Self> {
        // What cargo says now comes first: checkouts that share a target directory share this
        // binary too, and its own idea of where it was built.
        let own = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = own.parent().context("xtask/ has no parent directory")?;
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .context("run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", output.status);
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        let directory = |key: &str| -> Result<PathBuf> {
            let value = metadata.get(key).and_then(Value::as_str);
            Ok(PathBuf::from(value.with_context(|| format!("cargo metadata without {key}"))?))
        };
        Ok(Self { root: directory("workspace_root")?, target: directory("target_directory")? })
    }

    /// Where downloaded and self-built tools live; git ignores it.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(TOOLS_DIR)
    }

    /// A log file below the target directory, empty, with its directories made.
    pub(crate) fn log(&self, name: &str) -> Result<PathBuf> {
        let path = self.target.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(&path, []).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// A cargo that works on this workspace.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }
}

/// The cargo that started us, without what it told us about this package.
///
/// Build scripts watch those variables (ring's does): with them, every build by xtask and every
/// one by a developer would undo the other's.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(is_about_this_package) {
            command.env_remove(key);
        }
    }
    command
}

fn is_about_this_package(key: &str) -> bool {
    ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| key.starts_with(prefix))
}

/// Whether this process runs as root; `/proc/self` belongs to the effective user.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Refuses to go on for anybody but root, before minutes are spent on a build.
pub(crate) fn require_root(command: &'static str) -> Result<()> {
    if is_root() { Ok(()) } else { Err(NotRoot { command }.into()) }
}

/// Finds a program as a shell would; root's own directories are looked at also when PATH lacks them.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|program| {
            fs::metadata(program).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
        })
}

// === impl NotRoot ===

impl NotRoot {
    /// `EX_NOPERM` of sysexits.h, as the agent uses it.
    pub(crate) const EXIT_CODE: u8 = 77;
}

impl fmt::Display for NotRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command } = self;
        write!(
            f,
            "`cargo xtask {command}` loads eBPF programs and makes namespaces: run it as root"
        )
    }
}

impl error::Error for NotRoot {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_settings_of_cargo_survive() {
        assert!(is_about_this_package("CARGO_MANIFEST_DIR"));
        assert!(is_about_this_package("CARGO_PKG_NAME"));
        for key in ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_TERM_COLOR", "PATH"] {
            assert!(!is_about_this_package(key), "{key}");
        }
    }
}
