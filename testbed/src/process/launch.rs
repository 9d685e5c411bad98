//! How a child gets into its cgroup, its namespace and its user before it executes anything.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Command, User};
use crate::{cgroup::Cgroup, netns::Netns};

/// How long a fresh binary may be busy: a fork that never executes would be somebody else's bug.
const BUSY_WITHIN: Duration = Duration::from_secs(2);

/// Which network namespace a process starts in.
pub(crate) enum Network<'a> {
    /// The caller's.
    Inherit,
    /// A fresh one that lives as long as the process.
    New,
    /// An existing one.
    Enter(&'a Netns),
}

/// Starts `command` with its output piped; the pidfd names exactly this child, for ever.
pub(super) fn launch(
    command: &Command,
    cgroup: Option<&Cgroup>,
    network: &Network<'_>,
) -> Result<(Child, OwnedFd)> {
    let Command { program, args, env, user, resolv_conf } = command;
    let placement = Placement {
        procs: cgroup.map(Cgroup::open_procs).transpose()?,
        network: match network {
            Network::Inherit => Namespace::Inherit,
            Network::New => Namespace::New,
            Network::Enter(netns) => Namespace::Enter(netns.handle()?),
        },
        user: *user,
        resolv_conf: resolv_conf
            .as_ref()
            .map(|path| CString::new(path.as_os_str().as_bytes()))
            .transpose()
            .context("a path with a zero byte")?,
    };
    let mut child = std::process::Command::new(program);
    child
        .args(args)
        .envs(env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: `take` makes system calls only, allocates nothing and takes no lock.
    unsafe {
        child.pre_exec(move || placement.take());
    }
    let child =
        spawn_patiently(&mut child).with_context(|| format!("start {}", program.display()))?;
    // Opened before anything can reap the child, so it cannot name a later process.
    let pidfd = open_pidfd(child.id()).context("open a pidfd")?;
    Ok((child, pidfd))
}

/// Where a child puts itself between fork and exec.
struct Placement {
    procs: Option<File>,
    network: Namespace,
    user: User,
    resolv_conf: Option<CString>,
}

enum Namespace {
    Inherit,
    New,
    Enter(File),
}

impl Placement {
    /// Runs in the forked child: nothing here may allocate or lock.
    fn take(&self) -> io::Result<()> {
        let Self { procs, network, user, resolv_conf } = self;
        // SAFETY: plain system calls on descriptors that the parent keeps open until after exec,
        // and on strings that end in zero and live as long as `self`.
        unsafe {
            // A container has its own session: Ctrl-C in the terminal is not meant for it.
            check(libc::setsid())?;
            if let Some(procs) = procs {
                let zero = b"0";
                let wrote = libc::write(procs.as_raw_fd(), zero.as_ptr().cast(), zero.len());
                if wrote < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            match network {
                Namespace::Inherit => {}
                Namespace::New => check(libc::unshare(libc::CLONE_NEWNET))?,
                Namespace::Enter(file) => {
                    check(libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET))?;
                }
            }
            if let Some(file) = resolv_conf {
                bind_mount(file, RESOLV_CONF)?;
            }
            // std's own uid() and gid() would apply before this hook and take setns' right away.
            if *user != User::default() {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setgid(user.gid))?;
                check(libc::setuid(user.uid))?;
            }
        }
        Ok(())
    }
}

/// Where every resolver looks for its nameservers.
const RESOLV_CONF: &CStr = c"/etc/resolv.conf";

/// Shows `file` in the place of `over`, to this process and its children alone.
fn bind_mount(file: &CStr, over: &CStr) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: the strings end in zero and outlive the calls; the pointers that are null may be.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        // A mount of a shared tree would show outside as well.
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(none, c"/".as_ptr(), none, private, none.cast()))?;
        check(libc::mount(file.as_ptr(), over.as_ptr(), none, libc::MS_BIND, none.cast()))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A binary that was written a moment ago is "busy" for as long as a child that another thread has
/// just forked still holds the writer's descriptor, until its own exec.
fn spawn_patiently(command: &mut std::process::Command) -> io::Result<Child> {
    let deadline = Instant::now() + BUSY_WITHIN;
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    check(fd)?;
    // SAFETY: the kernel has just handed out this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
