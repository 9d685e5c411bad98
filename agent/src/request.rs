//! One HTTP request of which only the answer's status counts: the body is not read, a redirect not
//! followed. The answer may come from anything that runs in a pod, so it is read up to a limit:
//! hyper passes over interim answers (`100 Continue`) as fast as they come, within one poll, and a
//! task that does not come back from a poll is beyond any timeout.

use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

/// How much of an answer is read, in bytes. Proxies' status and headers take some hundred. hyper
/// takes no buffer below 8 KiB.
const MAX_ANSWER: usize = 16 * 1024;

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
    S: AsyncRead + AsyncWrite,
{
    let (answer, question) = tokio::io::split(stream);
    let stream = tokio::io::join(answer.take(MAX_ANSWER as u64), question);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_ANSWER).handshake(TokioIo::new(stream)).await?;
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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        sync::mpsc,
        thread,
        time::Duration,
    };

    use tokio::net::TcpStream;

    use super::*;

    /// Long enough for anything that should happen soon, on any machine.
    const SOON: Duration = Duration::from_secs(20);

    /// What comes of a server that answers with `once`, then with `again` until nobody listens.
    fn asked(once: &'static [u8], again: &'static [u8]) -> Result<StatusCode, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0);
            stream.write_all(once).unwrap();
            while stream.write_all(again).is_ok() {}
        });
        let (told, answered) = mpsc::channel();
        // Not a timeout of the runtime's own: what is tested is whether it would get its turn.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let status = runtime.unwrap().block_on(async {
                let stream = TcpStream::connect(address).await.unwrap();
                let request = Request::get("/").body(Empty::new()).unwrap();
                status(stream, request).await.map_err(|error| error.to_string())
            });
            told.send(status).unwrap();
        });
        let answer = answered.recv_timeout(SOON).expect("the answer is read without end");
        server.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_without_end_is_read_to_its_limit() {
        let cut = "connection closed before message completed";
        assert_eq!(asked(b"", b"HTTP/1.1 100 Continue\r\n\r\n").unwrap_err(), cut);
        let too_large = "message head is too large";
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n").unwrap_err(), too_large);
        assert_eq!(asked(b"HTTP/1.1 200 ", b"aaaaaaaa").unwrap_err(), too_large);
    }

    #[test]
    fn the_body_is_not_read_and_interim_answers_are_passed_over() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n";
        assert_eq!(asked(answer, b"aaaaaaaa").unwrap(), 503);
    }
}
