//! Applications that mean harm to the node they run on.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;

use super::testbed_app;
use crate::process::Command;

fn hostile(what: &str, to: SocketAddr) -> Result<Command> {
    Ok(testbed_app()?.args(["hostile", what, "--to", &to.to_string()]))
}

/// Forks for `time` as fast as it can: children that begin a connect to `to`, under names made for
/// terminals, logs and pages, and end after a millisecond. Prints `under_way` and `forks`.
pub fn forks(to: SocketAddr, time: Duration) -> Result<Command> {
    Ok(hostile("forks", to)?.arg("--time").arg(time.as_millis().to_string()))
}

/// Makes cgroups below its own, moves back and forth between it and the deepest, and dials `to` with
/// a socket made there. Prints `nested` and what a client prints.
pub fn cgroups(depth: u32, width: u32, to: SocketAddr) -> Result<Command> {
    let (depth, width) = (depth.to_string(), width.to_string());
    Ok(hostile("cgroups", to)?.args(["--depth", &depth, "--width", &width]))
}

/// Sends `count` forged packets to the proxy's port and to sockets of its own that dial `to`. A
/// forged SYN's sequence number is below `count`, and no other forged one has it. Prints
/// `under_way` and `forged`, and stays.
pub fn forge(to: SocketAddr, count: u32, seed: u64) -> Result<Command> {
    let (count, seed) = (count.to_string(), seed.to_string());
    Ok(hostile("forge", to)?.args(["--count", &count, "--seed", &seed]))
}

/// Listens on the proxy's port and on its readiness port, which it answers in ways that nobody
/// expects, each in its turn; with `ready` always with 200. Prints `listening`, `answers` for each
/// way with how many are `left`, and `followed` if anybody asks for another path than the readiness endpoint's.
pub fn answer(ready: bool) -> Result<Command> {
    let command = testbed_app()?.args(["hostile", "answer"]);
    Ok(if ready { command.arg("--ready") } else { command })
}

/// Makes a socket for whoever asks over the unix socket `via`. Prints `lending`.
pub fn lend(via: &Path, to: SocketAddr) -> Result<Command> {
    Ok(hostile("lend", to)?.arg("--via").arg(via))
}

/// Dials `to` with a socket that it is lent.
pub fn borrow(via: &Path, to: SocketAddr) -> Result<Command> {
    Ok(hostile("borrow", to)?.arg("--via").arg(via))
}
