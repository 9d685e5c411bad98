//! Blocking clients: one thread for each socket.

use std::{io, net::SocketAddr, process, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nix::{
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use serde_json::json;
use socket2::Socket;
use testbed::clock::monotonic_ns;

use crate::{epoll, http, report, socket};

/// What to dial, and how.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where to, as ADDRESS:PORT.
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// Dial an IPv4 destination from an IPv6 socket.
    #[arg(long)]
    pub(crate) v4_mapped: bool,
    /// How many sockets at once.
    #[arg(long, default_value_t = 1)]
    pub(crate) count: u32,
    /// All sockets from one thread, with epoll.
    #[arg(long, conflicts_with_all = ["fast_open", "connect_timeout"])]
    pub(crate) nonblocking: bool,
    /// One line when all have begun and one when all have ended, in the place of two for each: where
    /// thousands end at once the lines would be what is measured.
    #[arg(long, requires = "nonblocking")]
    pub(crate) sum: bool,
    /// TCP Fast Open with the request of --get as payload.
    #[arg(long, requires = "get")]
    pub(crate) fast_open: Option<FastOpen>,
    /// TCP_SYNCNT.
    #[arg(long)]
    pub(crate) syncnt: Option<i32>,
    /// TCP_USER_TIMEOUT in milliseconds.
    #[arg(long, value_parser = milliseconds)]
    pub(crate) user_timeout: Option<Duration>,
    /// SO_SNDTIMEO in milliseconds.
    #[arg(long, value_parser = milliseconds)]
    pub(crate) send_timeout: Option<Duration>,
    /// Give up after this many milliseconds.
    #[arg(long, value_parser = milliseconds)]
    pub(crate) connect_timeout: Option<Duration>,
    /// Then request this path and verify its body.
    #[arg(long)]
    pub(crate) get: Option<String>,
    /// Print TCP_SYNCNT after the connect.
    #[arg(long)]
    pub(crate) sockopts_after: bool,
    /// Print TCP_INFO after the connect.
    #[arg(long)]
    pub(crate) tcp_info: bool,
    /// Keep the connection for this many milliseconds.
    #[arg(long, value_parser = milliseconds)]
    pub(crate) hold_open: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FastOpen {
    /// sendto() with MSG_FASTOPEN instead of connect().
    Sendto,
    /// TCP_FASTOPEN_CONNECT.
    Connect,
}

fn milliseconds(text: &str) -> std::result::Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

/// Dials; true when every socket did what was asked of it.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if args.nonblocking {
        return epoll::run(args);
    }
    if args.count == 1 {
        // In the main thread, whose id the kernel shows as the process's.
        return dial_and_report(args, 0, &socket::new(args).context("make a socket")?);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..args.count)
            .map(|index| {
                scope.spawn(move || {
                    dial_and_report(args, index, &socket::new(args).context("make a socket")?)
                })
            })
            .collect();
        let mut all_ok = true;
        for thread in threads {
            all_ok &= thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(all_ok)
    })
}

/// The socket is the parent's, the connect() is the child's.
pub(crate) fn run_in_child(args: &Args) -> Result<bool> {
    let socket = socket::new(args).context("make a socket")?;
    // SAFETY: no other thread exists, so the child may do whatever the parent could.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Child => dial_and_report(args, 0, &socket),
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).context("wait for the child")?;
            Ok(matches!(status, WaitStatus::Exited(_, 0)))
        }
    }
}

/// From a namespace of this process's own, still in the pod's cgroup.
pub(crate) fn run_in_own_netns(args: &Args) -> Result<bool> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let status =
        process::Command::new("ip").args(["link", "set", "lo", "up"]).status().context("run ip")?;
    ensure!(status.success(), "bring loopback up: {status}");
    run(args)
}

fn dial_and_report(args: &Args, index: u32, socket: &Socket) -> Result<bool> {
    let to = socket::destination(args);
    let start_ns = monotonic_ns();
    report::event(
        "connecting",
        index,
        json!({"to": to.to_string(), "start_ns": start_ns, "pid": process::id()}),
    );
    let request = args.get.as_deref().map(|path| http::request(to, path));
    let start_ns = monotonic_ns();
    let dialled = dial(args, socket, to, request.as_deref());
    report::attempt(index, start_ns, &dialled);
    if dialled.is_err() {
        return Ok(false);
    }
    after(args, index, socket, request.as_deref())
}

fn dial(args: &Args, socket: &Socket, to: SocketAddr, request: Option<&[u8]>) -> io::Result<()> {
    match (args.fast_open, args.connect_timeout) {
        (Some(FastOpen::Sendto), _) => socket
            .send_to_with_flags(request.unwrap_or_default(), &to.into(), libc::MSG_FASTOPEN)
            .map(drop),
        (_, Some(timeout)) => socket.connect_timeout(&to.into(), timeout),
        (_, None) => socket.connect(&to.into()),
    }
}

fn after(args: &Args, index: u32, socket: &Socket, request: Option<&[u8]>) -> Result<bool> {
    inspect(args, index, socket)?;
    let mut ok = true;
    if let Some(path) = &args.get {
        // sendto() has carried the whole request: it is far below one segment.
        let unsent = request.filter(|_| args.fast_open != Some(FastOpen::Sendto));
        ok = http::exchange(socket, index, path, unsent).unwrap_or_else(|error| {
            let outcome = report::error_name(&error);
            report::event("error", index, json!({"step": "get", "outcome": outcome}));
            false
        });
    }
    if let Some(time) = args.hold_open {
        thread::sleep(time);
    }
    Ok(ok)
}

/// What was asked to be printed after the connect.
pub(crate) fn inspect(args: &Args, index: u32, socket: &Socket) -> Result<()> {
    if args.sockopts_after {
        report::event("sockopts", index, socket::options(socket)?);
    }
    if args.tcp_info {
        report::event("tcp_info", index, socket::tcp_info(socket)?);
    }
    Ok(())
}
