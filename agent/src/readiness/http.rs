//! One GET over a socket that is already in the right network namespace.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpSocket, time::timeout};

use crate::{
    core::ReadyEndpoint,
    netns::{Entrance, Netns},
};

/// A whole probe: Istio's own request timeout (`pilot-agent wait --requestTimeoutMillis`).
const TIMEOUT: Duration = Duration::from_millis(500);

/// Asks once. `Ok(true)`: the endpoint answered 200; any other answer, a refused connection and a
/// timeout are `Ok(false)`. The body is not read: the status line is all that counts, and the
/// answer may come from anything in the pod.
///
/// # Errors
///
/// If the namespace cannot be entered.
pub(super) async fn is_ready(
    entrance: &Entrance,
    netns: &Arc<Netns>,
    address: SocketAddr,
    endpoint: ReadyEndpoint,
) -> io::Result<bool> {
    let socket = entrance
        .run(netns, move || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .await?;
    let socket = TcpSocket::from_std_stream(socket.into());
    match timeout(TIMEOUT, get(socket, address, endpoint)).await {
        Ok(Ok(status)) => Ok(status == StatusCode::OK),
        Ok(Err(_)) | Err(_) => Ok(false),
    }
}

async fn get(
    socket: TcpSocket,
    address: SocketAddr,
    endpoint: ReadyEndpoint,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let stream = socket.connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(endpoint.path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let mut response = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response?,
        // The connection only makes progress while it is polled; it may end in the very moment in
        // which it delivers the answer.
        _ = connection => response.await?,
    };
    Ok(response.status())
}
