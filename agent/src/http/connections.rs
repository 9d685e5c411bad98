//! The connections of a server: whoever is slow, greedy or wrong costs the agent nothing and keeps
//! nobody else from an answer.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

/// Open connections, without those that last. Who asks regularly (kubelet, Prometheus) has one, for
/// milliseconds. With one more the oldest is cut, so that no number of idle clients keeps others out.
pub(crate) const MAX_CONNECTIONS: usize = 32;

/// From connect to the end of the request's headers.
pub(crate) const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// From connect to the end of an answer that does not last: the headers' time, the 2 s that the
/// agent's own task may take to answer, and some to read.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a request's headers; the least that hyper can be told. Probes send some hundred.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// After an error that concerns no single connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Where connections come from.
pub(crate) trait Listener: Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Who is at its other end, for whoever answers: an extension of each request.
    type Peer: Clone + Send + Sync + 'static;

    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

/// Lets an answer last: a stream goes on as long as its reader stays. An extension of each request.
/// Whoever lets answers last bounds their number himself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lasting(Arc<AtomicBool>);

/// The answer lasts until this is dropped; then it has as long as any other.
#[derive(Debug)]
pub(crate) struct Lasts(Lasting);

// === impl Lasting ===

impl Lasting {
    /// From now on.
    pub(crate) fn begin(&self) -> Lasts {
        self.0.store(true, Ordering::Relaxed);
        Lasts(self.clone())
    }

    fn goes_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Lasts ===

impl Drop for Lasts {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

/// Answers by `router`, for ever; `what` is served, in a word. Dropped, it cuts all connections.
pub(crate) async fn answer<L: Listener>(listener: &L, what: &'static str, router: &Router) {
    let mut tasks = JoinSet::new();
    let mut open = VecDeque::<(AbortHandle, Lasting)>::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                open.retain(|(connection, _)| !connection.is_finished());
                let short = |(_, lasting): &(AbortHandle, Lasting)| !lasting.goes_on();
                if open.iter().filter(|connection| short(connection)).count() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.iter().position(short)
                    && let Some((oldest, _)) = open.remove(oldest)
                {
                    oldest.abort();
                }
                let lasting = Lasting::default();
                let served = serve(stream, peer, router.clone(), lasting.clone());
                open.push_back((tasks.spawn(served), lasting));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(of = what, %error, "requests cannot be taken; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<S, P>(stream: S, peer: P, router: Router, lasting: Lasting)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + 'static,
{
    let answers = TowerToHyperService::new(router);
    let told = lasting.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(told.clone());
        answers.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(MAX_HEADER_BYTES)
        // kubelet opens a connection for each probe.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let too_long = async {
        loop {
            sleep(CONNECTION_WITHIN).await;
            if !lasting.goes_on() {
                return;
            }
        }
    };
    tokio::select! {
        // Whatever a client does wrong is its own affair.
        _ = connection => {}
        () = too_long => {}
    }
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
