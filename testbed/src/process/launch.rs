//! How a child gets into its cgroup, its namespace and its user before it executes anything.
//!
//! By `testbed-app launch`, which does that to itself and then becomes the program: this process has
//! hundreds of threads and megabytes of other nodes' objects, and a fork copies the tables of all its
//! pages. What is started without a hook between fork and exec costs none of that (`posix_spawn`).

use std::{
    io::{self, Read},
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Child, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{Command, User};
use crate::{apps, cgroup::Cgroup, netns::Netns};

/// Which network namespace a process starts in.
pub(crate) enum Network<'a> {
    /// The caller's.
    Inherit,
    /// A fresh one that lives as long as the process.
    New,
    /// An existing one.
    Enter(&'a Netns),
}

/// Starts `command` with its output piped; the pidfd names exactly this child, for ever. It is where
/// it belongs, and executes the program, when this returns.
pub(super) fn launch(
    command: &Command,
    cgroup: Option<&Cgroup>,
    network: &Network<'_>,
) -> Result<(Child, OwnedFd)> {
    let Command { program, args, env, user, resolv_conf } = command;
    let mut child = std::process::Command::new(apps::testbed_app_path()?);
    child.arg("launch");
    if let Some(cgroup) = cgroup {
        child.arg("--cgroup").arg(cgroup.path());
    }
    match network {
        Network::Inherit => {}
        Network::New => {
            child.arg("--new-netns");
        }
        Network::Enter(netns) => {
            child.arg("--netns").arg(netns.path());
        }
    }
    if let Some(file) = resolv_conf {
        child.arg("--resolv-conf").arg(file);
    }
    if *user != User::default() {
        let User { uid, gid } = user;
        child.arg("--uid").arg(uid.to_string()).arg("--gid").arg(gid.to_string());
    }
    let (failed, tell) = io::pipe().context("make a pipe")?;
    child
        .arg("--")
        .arg(program)
        .args(args)
        .envs(env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::from(tell))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut started = child.spawn().with_context(|| format!("start {}", program.display()))?;
    // This process's own end of the pipe.
    drop(child);
    match executing(&started, failed) {
        Ok(pidfd) => Ok((started, pidfd)),
        Err(error) => {
            // Nobody else has a handle to it. What matters is the error above.
            let _: io::Result<()> = started.kill();
            let _: io::Result<ExitStatus> = started.wait();
            Err(error.context(format!("start {}", program.display())))
        }
    }
}

/// The pidfd of a child that executes its program; until then it can write to the pipe why not.
fn executing(child: &Child, mut failed: impl Read) -> Result<OwnedFd> {
    // Opened before anything can reap the child, so it cannot name a later process.
    let pidfd = open_pidfd(child.id()).context("open a pidfd")?;
    // It ends with the exec.
    let mut error = String::new();
    failed.read_to_string(&mut error).context("read what became of a start")?;
    ensure!(error.is_empty(), error);
    Ok(pidfd)
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed out this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
