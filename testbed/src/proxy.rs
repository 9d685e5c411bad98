//! The mesh's proxy: a real Envoy, and a watcher of its readiness that no agent has a part in.

pub(crate) mod config;
mod observer;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub use self::observer::{Endpoint, Readiness, ReadyObserver};
use crate::{
    mesh::Mesh,
    node,
    pod::PodSpec,
    process::{Command, Process, User},
    redirect::Inbound,
};

/// Where the binary is when it is not where `cargo xtask setup` puts it.
const ENVOY_VARIABLE: &str = "HOLDFAST_ENVOY";
/// Envoy drains nothing here: a second is ample for an orderly end.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running proxy. Dropping it kills it.
#[must_use = "dropping a proxy kills it"]
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    ready: ReadyObserver,
}

impl Proxy {
    pub(crate) fn command(node: &node::Inner, spec: &PodSpec, mesh: Mesh) -> Result<Command> {
        let config = node.file(&format!("envoy-{}-{}.json", spec.namespace, spec.name));
        fs::write(&config, config::of(spec, mesh).to_string())
            .with_context(|| format!("write {}", config.display()))?;
        let User { uid, gid } = user(spec, mesh);
        Ok(Command::new(node.envoy()?)
            .arg("--config-path")
            .arg(config)
            // Hot restart shares memory by a number that all Envoys of a machine would fight for.
            .arg("--disable-hot-restart")
            .args(["--concurrency", "1", "--log-level", "warning"])
            .user(uid, gid))
    }

    pub(crate) fn new(process: Process, ready: ReadyObserver) -> Self {
        Self { process, ready }
    }

    /// The moment, in nanoseconds of `CLOCK_MONOTONIC`, at which its readiness endpoint first
    /// answered 200.
    pub fn wait_ready(&self, timeout: Duration) -> Result<u64> {
        self.ready
            .wait(timeout)
            .with_context(|| format!("the proxy's log:\n{}", self.process.stderr().join("\n")))
    }

    /// Waits as [`Self::wait_ready`], and gives all that is known of the moment.
    pub fn wait_readiness(&self, timeout: Duration) -> Result<Readiness> {
        self.ready
            .wait_readiness(timeout)
            .with_context(|| format!("the proxy's log:\n{}", self.process.stderr().join("\n")))
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// SIGKILL: the crash.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// SIGTERM: the orderly end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.process.stop(STOP_WITHIN)
    }
}

/// Whom the proxy of this pod runs as: TPROXY takes capabilities, which Istio gives to root.
pub(crate) fn user(spec: &PodSpec, mesh: Mesh) -> User {
    let user = mesh.user();
    if spec.redirect.inbound == Inbound::Tproxy { User { uid: 0, ..user } } else { user }
}

/// Envoy's binary at a path that user 1337 can reach: a checkout below `/root` is not one, then a
/// copy in the node's folder is used.
pub(crate) fn reachable_envoy(node_dir: &Path) -> Result<PathBuf> {
    let binary = installed_envoy()?;
    if is_reachable(&binary) {
        return Ok(binary);
    }
    let copy = node_dir.join("envoy");
    copy_for_all(&binary, &copy)?;
    Ok(copy)
}

/// A second name or a copy of a program, which everybody may run.
pub(crate) fn copy_for_all(binary: &Path, copy: &Path) -> Result<()> {
    fs::hard_link(binary, copy)
        .or_else(|_| fs::copy(binary, copy).map(drop))
        .and_then(|()| fs::set_permissions(copy, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("copy {} to {}", binary.display(), copy.display()))
}

pub(crate) fn installed_envoy() -> Result<PathBuf> {
    let binary = match std::env::var_os(ENVOY_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/envoy/envoy"),
    };
    match fs::canonicalize(&binary) {
        Ok(path) if path.is_file() => Ok(path),
        _ => bail!(
            "no Envoy at {}: run `cargo xtask setup`, or set {ENVOY_VARIABLE}",
            binary.display()
        ),
    }
}

/// Whether every folder on the way, and the file itself, can be searched and run by anybody.
pub(crate) fn is_reachable(file: &Path) -> bool {
    const OTHERS_EXECUTE: u32 = 0o001;
    file.ancestors().all(|path| {
        fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & OTHERS_EXECUTE != 0)
    })
}
