//! The step between the testbed's `posix_spawn` and a container's program: this process goes where the
//! program belongs, and becomes it.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid, dup2_stdin, setgid, setgroups, setsid, setuid},
};

/// How long a fresh binary may be busy: a fork that never executes would be somebody else's bug.
const BUSY_WITHIN: Duration = Duration::from_secs(2);

/// Where every resolver looks for its nameservers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cgroup's directory.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// A handle on the network namespace.
    #[arg(long)]
    netns: Option<PathBuf>,
    /// In a network namespace of its own.
    #[arg(long, conflicts_with = "netns")]
    new_netns: bool,
    /// What is to be seen as /etc/resolv.conf.
    #[arg(long)]
    resolv_conf: Option<PathBuf>,
    #[arg(long, requires = "gid")]
    uid: Option<u32>,
    #[arg(long, requires = "uid")]
    gid: Option<u32>,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only if something failed, which is then told through the pipe on standard input.
pub(crate) fn run(args: &Args) -> Result<bool> {
    // Closed by the exec, by which the parent knows of it.
    let mut parent = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Err(error) = become_program(args);
    write!(parent, "{error:#}")?;
    Ok(false)
}

fn become_program(args: &Args) -> Result<Infallible> {
    let Args { cgroup, netns, new_netns, resolv_conf, uid, gid, command } = args;
    dup2_stdin(File::open("/dev/null").context("open /dev/null")?).context("close stdin")?;
    // A container has its own session: Ctrl-C in the terminal is not meant for it.
    setsid().context("begin a session")?;
    if let Some(cgroup) = cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0")
            .with_context(|| format!("enter the cgroup {}", cgroup.display()))?;
    }
    if *new_netns {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    }
    if let Some(path) = netns {
        let netns = File::open(path).context("open a network namespace")?;
        setns(&netns, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
    }
    if let Some(file) = resolv_conf {
        bind_mount(file, Path::new(RESOLV_CONF))
            .with_context(|| format!("show {} as {RESOLV_CONF}", file.display()))?;
    }
    if let (Some(uid), Some(gid)) = (uid, gid) {
        setgroups(&[]).context("drop all groups")?;
        setgid(Gid::from_raw(*gid)).context("change the group")?;
        setuid(Uid::from_raw(*uid)).context("change the user")?;
    }
    let (program, arguments) = command.split_first().context("no program")?;
    Err(execute_patiently(Command::new(program).args(arguments))).context("execute it")
}

/// Shows `file` in the place of `over`, to this process and its children alone.
fn bind_mount(file: &Path, over: &Path) -> nix::Result<()> {
    let none: Option<&Path> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // A mount of a shared tree would show outside as well.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(file), over, none, MsFlags::MS_BIND, none)
}

/// A binary that was written a moment ago is "busy" for as long as a child that another thread has
/// just forked still holds the writer's descriptor, until its own exec.
fn execute_patiently(command: &mut Command) -> io::Error {
    let deadline = Instant::now() + BUSY_WITHIN;
    loop {
        let error = command.exec();
        if error.kind() != io::ErrorKind::ExecutableFileBusy || Instant::now() >= deadline {
            return error;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
