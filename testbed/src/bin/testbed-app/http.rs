//! The smallest HTTP/1.1 client that can verify a body.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
};

use serde_json::json;
use socket2::Socket;
use testbed::{clock::monotonic_ns, pattern};

use crate::report;

pub(crate) fn request(to: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Sends the request, unless a Fast Open has done so, then reads and verifies the answer.
pub(crate) fn exchange(
    mut socket: &Socket,
    index: u32,
    path: &str,
    send: Option<&[u8]>,
) -> io::Result<bool> {
    if let Some(request) = send {
        socket.write_all(request)?;
    }
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    Ok(judge(index, path, &answer))
}

/// Reports whether `answer` is a complete and right response.
pub(crate) fn judge(index: u32, path: &str, answer: &[u8]) -> bool {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    let head = answer
        .windows(END_OF_HEAD.len())
        .position(|window| window == END_OF_HEAD)
        .unwrap_or(answer.len());
    let body = answer.get(head + END_OF_HEAD.len()..).unwrap_or_default();
    let status = String::from_utf8_lossy(&answer[..head])
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse::<u16>().ok())
        .unwrap_or_default();
    let expected = path.strip_prefix("/bytes/").and_then(|length| length.parse().ok());
    let ok = status == 200 && expected.is_none_or(|length| pattern::matches(body, length));
    let mut fields =
        json!({"status": status, "bytes": body.len(), "ok": ok, "end_ns": monotonic_ns()});
    if expected.is_none() {
        fields["text"] = json!(String::from_utf8_lossy(body));
    }
    report::event("body", index, fields);
    ok
}
