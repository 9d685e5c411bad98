//! Applications that mean harm: what a pod can do to its node without any right on it.

mod answers;
mod cgroups;
mod forger;
mod forks;
mod lend;

use std::{io, mem::size_of, net::SocketAddr};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use socket2::{Domain, Protocol, Socket, Type};

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Forks children that begin a connect under a name of their own and end at once.
    Forks(forks::Args),
    /// Makes cgroups below its own, moves to the deepest and dials from there.
    Cgroups(cgroups::Args),
    /// Sends forged packets of all kinds over its own loopback.
    Forge(forger::Args),
    /// Listens on the proxy's port and answers the readiness port in ways nobody expects.
    Answer(answers::Args),
    /// Makes a socket and gives it to whoever asks.
    Lend(lend::Args),
    /// Takes a socket that another process has made, and dials with it.
    Borrow(lend::Args),
}

pub(crate) fn run(command: &Command) -> Result<bool> {
    match command {
        Command::Forks(args) => forks::run(args),
        Command::Cgroups(args) => cgroups::run(args),
        Command::Forge(args) => forger::run(args),
        Command::Answer(args) => answers::run(args),
        Command::Lend(args) => lend::lend(args),
        Command::Borrow(args) => lend::borrow(args),
    }
}

/// A socket that has begun to connect to `to` and does not wait.
fn begin(to: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
        .context("make a socket")?;
    socket.set_nonblocking(true).context("make it non-blocking")?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error).context("begin a connect"),
    }
    Ok(socket)
}

/// Sets an option that is an int.
fn set_int(socket: &Socket, level: libc::c_int, name: libc::c_int, value: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the value is a c_int that outlives the call, and its own size is passed with it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
