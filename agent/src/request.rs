//! One HTTP request of which only the answer's status counts: the body is not read, a redirect not
//! followed. The answer may come from anything that runs in a pod.

use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends `request` over `stream`, which ends with it.
///
/// # Errors
///
/// If no answer came that is one.
pub async fn status<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<StatusCode, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
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
