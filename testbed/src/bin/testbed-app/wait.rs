//! What applications and hooks do instead: ask the proxy until it says that it is ready, then go on.

use std::{fs::File, io::Read as _, net::SocketAddr, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::{
    Mesh,
    clock::{monotonic_ns, sleep_until},
};

use crate::report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ask the proxy, with a pause of so many milliseconds after each answer. Without it
    /// nobody is asked.
    #[arg(long, value_name = "MILLISECONDS")]
    every: Option<u64>,
    /// Wait for a byte from this named pipe instead: it is told at once, and takes no time from anybody.
    #[arg(long, value_name = "FIFO", conflicts_with = "every")]
    until: Option<PathBuf>,
    /// Ask nobody before this moment, in nanoseconds of CLOCK_MONOTONIC.
    #[arg(long, value_name = "NANOSECONDS", default_value_t = 0)]
    first_at: u64,
    /// Then boot for so long.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    boot: u64,
    /// Boot while waiting, not after it.
    #[arg(long)]
    boot_beside: bool,
    /// Then dial this, as ADDRESS:PORT; without it end.
    #[arg(long)]
    to: Option<SocketAddr>,
}

/// Waits, boots, dials; true when that came to a connection, or none was wanted.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let started_ns = monotonic_ns();
    report::event("started", 0, json!({"ns": started_ns}));
    let waited_ns = match (&args.until, args.every) {
        (Some(bell), _) => {
            let bell = File::open(bell).with_context(|| format!("open {}", bell.display()))?;
            (&bell).read_exact(&mut [0]).context("wait for a byte from the named pipe")?;
            Some(monotonic_ns())
        }
        (None, Some(every)) => {
            wait(args.first_at, Duration::from_millis(every));
            Some(monotonic_ns())
        }
        (None, None) => None,
    };
    let boots_from = if args.boot_beside { started_ns } else { monotonic_ns() };
    if args.boot > 0 {
        sleep_until(boots_from + args.boot * 1_000_000);
    }
    // Not before the connect: the line wakes who reads it.
    let told = || waited_ns.map(|ns| report::event("waited", 0, json!({"ns": ns})));
    let Some(to) = args.to else {
        told();
        return Ok(true);
    };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
        .context("make a socket")?;
    let start_ns = monotonic_ns();
    let dialled = socket.connect(&to.into());
    report::attempt(0, start_ns, &dialled);
    told();
    Ok(dialled.is_ok())
}

fn wait(first_at: u64, every: Duration) {
    let endpoint = Mesh::Istio.endpoint();
    sleep_until(first_at);
    while !endpoint.is_ready() {
        thread::sleep(every);
    }
}
