//! Connects that nobody waits for: each is begun and closed at once, as fast as the kernel takes them.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::report;

/// How to flood.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where to, as ADDRESS:PORT.
    #[arg(long)]
    to: SocketAddr,
    /// For how many milliseconds.
    #[arg(long)]
    time: u64,
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    let start = Instant::now();
    let time = Duration::from_millis(args.time);
    let mut begun = 0_u64;
    while start.elapsed() < time {
        let socket = Socket::new(Domain::for_address(args.to), Type::STREAM, Some(Protocol::TCP))
            .context("make a socket")?;
        socket.set_nonblocking(true).context("make it non-blocking")?;
        match socket.connect(&args.to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => begun += 1,
            // Every port is taken for the moment.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
            Ok(()) => begun += 1,
            Err(error) => return Err(error).context("begin a connect"),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    report::event("flood", 0, json!({"begun": begun, "seconds": seconds}));
    Ok(true)
}
