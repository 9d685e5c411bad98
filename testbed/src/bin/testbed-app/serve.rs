//! The servers: the backend outside the pods, a plain listener, and the process that only waits.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{Router, body::Bytes, extract::Path, http::StatusCode, routing::get};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::{
    BACKEND_PORTS,
    clock::{monotonic_ns, sleep_until},
    pattern,
};

use crate::{name_server, report};

/// Larger bodies would only measure memory.
const MAX_BODY: usize = 64 << 20;
/// Bodies up to here are parts of one that is kept: where bytes a second are measured, making them
/// would be a part of it.
const KEPT_BODY: usize = 1 << 20;
/// For the backend: never the bottleneck of a test that dials a thousand times at once.
const BACKEND_BACKLOG: i32 = 4096;

/// Where and how to listen.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ListenArgs {
    /// The port, on 127.0.0.1 and ::1.
    #[arg(long)]
    port: u16,
    /// The accept queue's length.
    #[arg(long, default_value_t = 128)]
    backlog: i32,
    /// Not before this instant, in nanoseconds of CLOCK_MONOTONIC.
    #[arg(long, default_value_t = 0)]
    at: u64,
    /// Milliseconds between the two addresses.
    #[arg(long, default_value_t = 0)]
    between: u64,
    /// Only on 127.0.0.1.
    #[arg(long)]
    v4: bool,
    /// Leave every connection in the queue, where it costs nothing.
    #[arg(long)]
    never_accept: bool,
}

/// Where to serve.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// The port, on every address.
    #[arg(long)]
    pub(crate) port: u16,
}

/// Accepts and keeps every connection; each is reported with its peer.
pub(crate) fn listen(args: &ListenArgs) -> Result<bool> {
    sleep_until(args.at);
    // Before anybody can be accepted: whatever comes of it comes after this instant.
    let mono_ns = monotonic_ns();
    let mut sockets = vec![bind((Ipv4Addr::LOCALHOST, args.port).into(), args.backlog)?];
    if args.between > 0 {
        thread::sleep(Duration::from_millis(args.between));
    }
    if !args.v4 {
        sockets.push(bind((Ipv6Addr::LOCALHOST, args.port).into(), args.backlog)?);
    }
    let both_ns = monotonic_ns();
    report::event(
        "listening",
        0,
        json!({"port": args.port, "mono_ns": mono_ns, "both_ns": both_ns}),
    );
    if args.never_accept {
        return pause();
    }
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(move || {
                let mut kept = Vec::new();
                while let Ok((connection, peer)) = socket.accept() {
                    let peer = peer.as_socket().map(|peer| peer.to_string());
                    report::event("accepted", 0, json!({"peer": peer}));
                    kept.push(connection);
                }
            });
        }
    });
    Ok(true)
}

fn bind(address: SocketAddr, backlog: i32) -> Result<Socket> {
    let listening = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok::<_, std::io::Error>(socket)
    };
    listening().with_context(|| format!("listen on {address}"))
}

/// Serves the backend's ports and names in this process's namespace until killed.
pub(crate) fn outside() -> Result<bool> {
    name_server::start()?;
    serve(&BACKEND_PORTS)
}

/// Serves HTTP on these ports until killed.
pub(crate) fn serve(ports: &[u16]) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(async {
        let mut servers = tokio::task::JoinSet::new();
        let visits = Visits::default();
        for &port in ports {
            let app = Router::new()
                .route("/bytes/{length}", get(bytes))
                .route("/port", get(move || async move { port.to_string() }))
                .merge(visits.routes());
            for address in [
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            ] {
                let socket = bind(address, BACKEND_BACKLOG)?;
                socket.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(socket.into())?;
                servers.spawn(axum::serve(listener, app.clone()).into_future());
            }
        }
        report::event("listening", 0, json!({"ports": ports}));
        while let Some(ended) = servers.join_next().await {
            ended.context("a server panicked")?.context("serve")?;
        }
        Ok(true)
    })
}

async fn bytes(Path(length): Path<usize>) -> Result<Bytes, StatusCode> {
    static BEGINNING: LazyLock<Bytes> = LazyLock::new(|| pattern::bytes(KEPT_BODY).into());
    if length > MAX_BODY {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let is_kept = length <= KEPT_BODY;
    Ok(if is_kept { BEGINNING.slice(..length) } else { pattern::bytes(length).into() })
}

/// How often each name was visited: what a client has sent, it may not live to tell.
#[derive(Clone, Default)]
struct Visits(Arc<Mutex<HashMap<String, u64>>>);

impl Visits {
    fn routes(&self) -> Router {
        let visit = {
            let visits = self.clone();
            async move |Path(name): Path<String>| visits.add(name, 1)
        };
        let ask = {
            let visits = self.clone();
            async move |Path(name): Path<String>| visits.add(name, 0)
        };
        Router::new().route("/visit/{name}", get(visit)).route("/visits/{name}", get(ask))
    }

    fn add(&self, name: String, by: u64) -> String {
        let mut visits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = visits.entry(name).or_default();
        *count += by;
        count.to_string()
    }
}

/// Waits to be killed.
pub(crate) fn pause() -> Result<bool> {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
