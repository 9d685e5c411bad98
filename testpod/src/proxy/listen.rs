//! A port of every address of the pod.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::sleep,
};

use crate::TestpodError;

/// As most servers have it.
const BACKLOG: i32 = 1024;

/// After a failed accept(), such as for a lack of descriptors: it would fail again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Listening sockets of both families; kubelet probes the pod's address, of either.
pub(super) struct Listeners {
    v4: TcpListener,
    /// Missing where the kernel has no IPv6.
    v6: Option<TcpListener>,
}

// === impl Listeners ===

impl Listeners {
    pub(super) fn open(port: u16) -> Result<Self, TestpodError> {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        Ok(Self {
            v4: listen(v4).map_err(|source| TestpodError::Listen { address: v4, source })?,
            v6: listen(v6).ok(),
        })
    }

    /// Has each connection served by a task of its own.
    pub(super) async fn serve<W>(self, work: impl Fn(TcpStream) -> W)
    where
        W: Future<Output = io::Result<()>> + 'static,
    {
        let Self { v4, v6 } = self;
        loop {
            let accepted = tokio::select! {
                accepted = v4.accept() => accepted,
                accepted = accept(v6.as_ref()) => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let work = work(stream);
                    spawn_local(async move {
                        // The other side sees the same error.
                        let _: io::Result<()> = work.await;
                    });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A successor must not wait for its predecessor's connections to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}
