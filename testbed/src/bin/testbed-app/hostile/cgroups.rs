//! Cgroups below the pod's own: what a container with a delegated or writable tree can make.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::{cgroup2_mount, clock::monotonic_ns};

use crate::report;

/// How long the process stays in a cgroup.
const BETWEEN_MOVES: Duration = Duration::from_millis(1);

/// How many, and where to dial from the deepest.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many levels, one below the other.
    #[arg(long)]
    depth: u32,
    /// How many side by side, directly below its own.
    #[arg(long)]
    width: u32,
    /// Where to, as ADDRESS:PORT.
    #[arg(long)]
    to: SocketAddr,
}

pub(super) fn run(args: &Args) -> Result<bool> {
    let own = own_cgroup()?;
    for number in 0..args.width {
        let side = own.join(format!("w{number}"));
        fs::create_dir(&side).with_context(|| format!("create {}", side.display()))?;
    }
    let mut deepest = own.clone();
    for _ in 0..args.depth {
        deepest.push("d");
        fs::create_dir(&deepest).with_context(|| format!("create {}", deepest.display()))?;
    }
    move_to(&deepest)?;
    report::event("nested", 0, json!({"depth": args.depth, "width": args.width}));
    // A socket stays where it was made, wherever its process goes.
    let socket = Socket::new(Domain::for_address(args.to), Type::STREAM, Some(Protocol::TCP))
        .context("make a socket")?;
    let restless = thread::spawn(move || {
        let _: Result<()> = (0..u32::MAX).try_for_each(|turn| {
            move_to(if turn % 2 == 0 { &own } else { &deepest })?;
            thread::sleep(BETWEEN_MOVES);
            Ok(())
        });
    });
    let start_ns = monotonic_ns();
    report::event("connecting", 0, json!({"to": args.to.to_string(), "start_ns": start_ns}));
    let dialled = socket.connect(&args.to.into());
    report::attempt(0, start_ns, &dialled);
    // The cgroups go with the container.
    drop(restless);
    Ok(dialled.is_ok())
}

/// Moves this process, all its threads.
fn move_to(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("move to {}", cgroup.display()))
}

fn own_cgroup() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("this process is in no cgroup of version 2")?;
    Ok(cgroup2_mount()?.join(path))
}
