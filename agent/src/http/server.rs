//! The server behind what the agent answers over TCP. Anybody in the cluster may reach the port, so
//! whoever is slow, greedy or wrong costs the agent nothing and keeps nobody else from an answer.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::ListenAddress;

/// Open connections. Who asks regularly (kubelet, Prometheus) has one, for milliseconds. With one more
/// the oldest is cut, so that no number of idle clients keeps others out.
pub(crate) const MAX_CONNECTIONS: usize = 32;

/// From connect to the end of the request's headers.
pub(crate) const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// From connect to the end of the answer: the headers' time, the 2 s that the agent's own task may
/// take to answer, and some to read.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a request's headers; the least that hyper can be told. Probes send some hundred.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// After an error that concerns no single connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

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
        // Dropped with this future, it cuts all connections.
        let mut tasks = JoinSet::new();
        let mut open = VecDeque::<AbortHandle>::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    open.retain(|connection| !connection.is_finished());
                    if open.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
                    open.push_back(tasks.spawn(serve(stream, router.clone())));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(of = purpose.what, %error, "requests cannot be taken; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_HEADER_BYTES)
        // kubelet opens a connection for each probe.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whatever a client does wrong is its own affair.
    let _: Result<Result<(), hyper::Error>, _> = timeout(CONNECTION_WITHIN, connection).await;
}

/// accept(2): the connection that failed is gone, the next may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
