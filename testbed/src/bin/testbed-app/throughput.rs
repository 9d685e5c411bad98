//! A closed loop: one thing after the other for some time, and how many there were.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::json;
use socket2::SockRef;

use crate::report;

/// Options of the loop.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The destination.
    #[arg(long)]
    to: SocketAddr,
    /// What to repeat.
    #[arg(long)]
    what: What,
    /// For how long, in milliseconds.
    #[arg(long = "for")]
    millis: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// connect(), a request, its answer, close.
    Connect,
    /// Requests over one connection.
    Request,
}

/// Ends a connection at once, with a reset: a loop would otherwise run out of local ports, which
/// rest for a minute in TIME_WAIT.
const NO_LINGER: Option<Duration> = Some(Duration::ZERO);

pub(crate) fn run(args: &Args) -> Result<bool> {
    let Args { to, what, millis } = args;
    let kept = connect(*to)?;
    // The first way through the proxy is longer than all others.
    request(&kept, *to)?;
    let time = Duration::from_millis(*millis);
    let mut count = 0_u64;
    let started = Instant::now();
    while started.elapsed() < time {
        match what {
            What::Connect => request(&connect(*to)?, *to)?,
            What::Request => request(&kept, *to)?,
        }
        count += 1;
    }
    let nanos = started.elapsed().as_nanos() as u64;
    report::event("round", 0, json!({"count": count, "nanos": nanos}));
    Ok(true)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).context("connect")?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_linger(NO_LINGER)?;
    Ok(stream)
}

/// One request and its answer; the connection stays.
fn request(mut stream: &TcpStream, to: SocketAddr) -> Result<()> {
    write!(stream, "GET /port HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let mut answer = [0; 1024];
    let mut len = 0;
    // The backend's answer to /port is a head and the few digits of its port.
    loop {
        let read = stream.read(&mut answer[len..])?;
        ensure!(read > 0, "the connection ended within an answer");
        len += read;
        let text = &answer[..len];
        if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
            let body = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|length| length.trim().parse::<usize>().ok())
                .context("an answer without a length")?;
            if len >= end + 4 + body {
                return Ok(());
            }
        }
    }
}
