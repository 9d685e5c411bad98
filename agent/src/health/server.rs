//! `/livez` and `/readyz`. Anybody in the cluster may reach the port, so whoever is slow, greedy or
//! wrong costs the agent nothing and keeps kubelet from no answer.

mod address;

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::get,
};
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

pub use self::address::HealthAddress;
use super::{Liveness, Readiness, liveness::Stuck, readiness::Report};

/// Open connections. kubelet has one for each probe, for milliseconds. With one more the oldest is
/// cut, so that no number of idle clients keeps kubelet out.
const MAX_CONNECTIONS: usize = 32;

/// From connect to the end of the request's headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// From connect to the end of the answer: the headers' time, liveness's 2 s, and some to read.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a request's headers; the least that hyper can be told. Probes send some hundred.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// After an error that concerns no single connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Health cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve health on {address}: {source}; name another with --health-address")]
pub struct HealthError {
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
    router: Router,
}

#[derive(Clone, Debug)]
struct Health {
    readiness: Readiness,
    liveness: Liveness,
}

// === impl Server ===

impl Server {
    /// Listens on `address`.
    ///
    /// # Errors
    ///
    /// If the address is somebody else's or may not be taken.
    pub fn bind(
        address: HealthAddress,
        readiness: Readiness,
        liveness: Liveness,
    ) -> Result<Self, HealthError> {
        let (listener, bound) = address.listen()?;
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(Health { readiness, liveness });
        Ok(Self { listener, address: bound, router })
    }

    /// Where it listens; with port 0 asked for, the one that the kernel chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers, for ever.
    pub async fn run(self) {
        let Self { listener, address: _, router } = self;
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
                    tracing::warn!(%error, "health requests cannot be taken; trying again");
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

async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    match health.liveness.check().await {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(stuck) => {
            if stuck == Stuck::Silent {
                // kubelet's Event may be gone when somebody asks why the agent was restarted.
                tracing::error!(reason = %stuck, "the agent is stuck");
            }
            (StatusCode::SERVICE_UNAVAILABLE, format!("{stuck}\n"))
        }
    }
}

async fn readyz(State(health): State<Health>, uri: Uri) -> (StatusCode, String) {
    let Report { is_ready, text } = health.readiness.report(is_verbose(&uri));
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

/// `?verbose`, whatever its value, as the API server takes it.
fn is_verbose(uri: &Uri) -> bool {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    parameters.any(|parameter| parameter.split('=').next() == Some("verbose"))
}

#[cfg(test)]
mod tests;
