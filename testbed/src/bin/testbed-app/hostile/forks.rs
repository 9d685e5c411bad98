//! Processes that live for a millisecond, each under a name meant for whoever reads it.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use serde_json::json;

use crate::report;

/// How many live at the same time: what a pod's `pids.max` would leave it.
const ALIVE: usize = 64;
/// How long one lives.
const LIFE: Duration = Duration::from_millis(1);

/// Names that act on a terminal, a log, a page or a metric which shows them as they are; at most 15
/// bytes each.
const NAMES: [&[u8]; 8] = [
    b"\x1b[2J\x1b[31mred",
    b"a\nINFO forged",
    b"\r\x08\x08\x08\x7f",
    b"\xff\xfe\x80\xc3\x28",
    "\u{202e}txt.exe".as_bytes(),
    b"<script>x",
    b"\",\"level\":\"x",
    b"{a=\"b\"} 1\\",
];

/// For how long, and where the children dial.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where to, as ADDRESS:PORT.
    #[arg(long)]
    to: SocketAddr,
    /// For how many milliseconds.
    #[arg(long)]
    time: u64,
}

pub(super) fn run(args: &Args) -> Result<bool> {
    let until = Instant::now() + Duration::from_millis(args.time);
    let (mut forked, mut alive) = (0_usize, 0);
    while Instant::now() < until {
        if alive < ALIVE {
            // SAFETY: no other thread exists, so the child may do whatever the parent could.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => live(args.to, forked),
                Ok(ForkResult::Parent { .. }) => {
                    forked += 1;
                    alive += 1;
                }
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error).context("fork"),
            }
        }
        alive -= reap(alive >= ALIVE)?;
        if forked == ALIVE {
            report::event("under_way", 0, json!({}));
        }
    }
    while alive > 0 {
        alive -= reap(true)?;
    }
    report::event("forks", 0, json!({"forked": forked}));
    Ok(true)
}

fn live(to: SocketAddr, number: usize) -> ! {
    let mut name = NAMES[number % NAMES.len()].to_vec();
    name.push(0);
    // SAFETY: the name ends in zero and outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    // Whatever becomes of it: this process is about to end.
    let socket = super::begin(to);
    thread::sleep(LIFE);
    drop(socket);
    // SAFETY: ends the process without running anything of its parent's.
    unsafe { libc::_exit(0) }
}

/// Takes leave of children that have ended: of one at least if it is to wait.
fn reap(wait: bool) -> Result<usize> {
    let mut reaped = 0;
    let mut flags = if wait { WaitPidFlag::empty() } else { WaitPidFlag::WNOHANG };
    loop {
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(reaped),
            Ok(_) => reaped += 1,
            Err(error) => return Err(error).context("wait for a child"),
        }
        flags = WaitPidFlag::WNOHANG;
    }
}
