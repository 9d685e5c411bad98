//! A socket that one pod makes and another one dials with.

use std::{
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::clock::monotonic_ns;

use crate::report;

/// By which way, and where to.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// A unix socket that both see.
    #[arg(long)]
    via: PathBuf,
    /// Where to, as ADDRESS:PORT.
    #[arg(long)]
    to: SocketAddr,
}

pub(super) fn lend(args: &Args) -> Result<bool> {
    let listener = UnixListener::bind(&args.via).context("listen on the unix socket")?;
    report::event("lending", 0, json!({}));
    let mut lent = Vec::new();
    loop {
        let (stream, _) = listener.accept().context("accept a borrower")?;
        let socket = Socket::new(Domain::for_address(args.to), Type::STREAM, Some(Protocol::TCP))
            .context("make a socket")?;
        let descriptors = [socket.as_raw_fd()];
        sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::empty(),
            None,
        )
        .context("pass a socket on")?;
        // Its maker keeps it too, so that the borrower's end is not the socket's.
        lent.push(socket);
    }
}

pub(super) fn borrow(args: &Args) -> Result<bool> {
    let stream = UnixStream::connect(&args.via).context("ask for a socket")?;
    let socket = Socket::from(receive(&stream)?);
    let start_ns = monotonic_ns();
    report::event("connecting", 0, json!({"to": args.to.to_string(), "start_ns": start_ns}));
    let dialled = socket.connect(&args.to.into());
    report::attempt(0, start_ns, &dialled);
    Ok(dialled.is_ok())
}

fn receive(stream: &UnixStream) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(RawFd);
    let fd = stream.as_raw_fd();
    let message = recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::empty())
        .context("receive a socket")?;
    let descriptor = message.cmsgs().context("read a message")?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    let descriptor = descriptor.context("a message without a socket")?;
    // SAFETY: the kernel has just made this descriptor for this process, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
