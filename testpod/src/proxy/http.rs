//! As much of HTTP/1.1 as a probe and a test's client need.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// No request that comes here is longer.
const LONGEST: usize = 8192;

/// Who says nothing for so long has nothing to say.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

pub(super) const OK: &str = "200 OK";
pub(super) const NOT_FOUND: &str = "404 Not Found";
pub(super) const UNAVAILABLE: &str = "503 Service Unavailable";

/// The method and the path of the request.
pub(super) async fn request(stream: &mut TcpStream) -> io::Result<(String, String)> {
    let mut head = Vec::new();
    timeout(REQUEST_WITHIN, async {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let room = LONGEST - head.len();
            if stream.take(room as u64).read_buf(&mut head).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(())
    })
    .await??;
    let text = String::from_utf8_lossy(&head);
    let mut words = text.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
    Ok((words.next().unwrap_or_default(), words.next().unwrap_or_default()))
}

/// Answers, and says that nothing more will come.
pub(super) async fn answer(stream: &mut TcpStream, status: &str) -> io::Result<()> {
    let body = format!("{status}\n");
    let head = "Content-Type: text/plain\r\nConnection: close\r\nContent-Length:";
    let answer = format!("HTTP/1.1 {status}\r\n{head} {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
