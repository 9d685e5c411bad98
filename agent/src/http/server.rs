//! The server behind what the agent answers over TCP. Anybody in the cluster may reach the port.

use std::{io, net::SocketAddr};

use axum::Router;
use tokio::net::{TcpListener, TcpStream};

use super::{
    ListenAddress,
    connections::{self, Listener},
};

/// What is served, in words, and the option that says where.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Such as `health`.
    pub what: &'static str,
    /// Such as `--health-address`.
    pub option: &'static str,
}

/// It cannot be served there.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve {} on {address}: {source}; name another address with {}", .purpose.what, .purpose.option)]
pub struct ListenError {
    /// What was to be served.
    pub purpose: Purpose,
    /// Where it was to be served.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Listens, and has to be run.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    purpose: Purpose,
    router: Router,
}

// === impl Server ===

impl Server {
    /// Listens on `address`, to answer by `router`.
    ///
    /// # Errors
    ///
    /// If the address is somebody else's or may not be taken.
    pub fn bind(
        address: ListenAddress,
        purpose: Purpose,
        router: Router,
    ) -> Result<Self, ListenError> {
        let (listener, bound) = address.listen().map_err(|(address, source)| ListenError {
            purpose,
            address,
            source,
        })?;
        Ok(Self { listener, address: bound, purpose, router })
    }

    /// Where it listens; with port 0 asked for, the one that the kernel chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers, for ever.
    pub async fn run(self) {
        let Self { listener, address: _, purpose, router } = self;
        connections::answer(&listener, purpose.what, &router).await;
    }
}

// === impl Listener ===

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}
