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
use testbed::{
    clock::{monotonic_ns, sleep_until},
    processor::bind_self,
};

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
    /// For how many slices of time, those of other loops included.
    #[arg(long)]
    slices: u64,
    /// How long one is, in milliseconds.
    #[arg(long)]
    slice: u64,
    /// When the first one begins, in nanoseconds of `CLOCK_MONOTONIC`; now, if not told.
    #[arg(long)]
    from: Option<u64>,
    /// How many loops have the slices in turn.
    #[arg(long, default_value_t = 1)]
    loops: u64,
    /// Which of them this one is, from 0.
    #[arg(long, default_value_t = 0)]
    turn: u64,
    /// The only processor to run on.
    #[arg(long)]
    processor: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// connect(), a request, its answer, close.
    Connect,
    /// Requests over one connection.
    Request,
    /// Requests for much over one connection; counted in bytes of their answers.
    Bytes,
}

/// Ends a connection at once, with a reset: a loop would otherwise run out of local ports, which
/// rest for a minute in TIME_WAIT.
const NO_LINGER: Option<Duration> = Some(Duration::ZERO);

/// What is asked for where requests are counted: an answer of a head and the few digits of a port.
const LITTLE: &str = "/port";
/// What is asked for where bytes are: of an answer as long as this a request is no part that counts.
const MUCH: &str = "/bytes/1048576";
/// What one read takes at most.
const BUFFER: usize = 64 << 10;
/// Of a slice, the part that is left to what the loop before this one has still to end.
const REST: u64 = 10;

pub(crate) fn run(args: &Args) -> Result<bool> {
    let Args { to, what, slices, slice, from, loops, turn, processor } = args;
    if let Some(processor) = processor {
        bind_self(*processor)?;
    }
    let path = match what {
        What::Connect | What::Request => LITTLE,
        What::Bytes => MUCH,
    };
    let mut buffer = vec![0; BUFFER];
    let mut request = |stream: &TcpStream| request(stream, *to, path, &mut buffer);
    let begun = Instant::now();
    let kept = connect(*to)?;
    // The first way through the proxy is longer than all others.
    request(&kept)?;
    let mut longest = begun.elapsed();
    let slice_ns = slice * 1_000_000;
    let from = from.unwrap_or_else(monotonic_ns);
    let is_late = monotonic_ns() > from + turn * slice_ns + slice_ns / REST;
    let (mut count, mut rates) = (0, Vec::new());
    for number in (*turn..*slices).step_by(*loops as usize) {
        let begins = from + number * slice_ns;
        sleep_until(begins + slice_ns / REST);
        let (before, begun) = (count, Instant::now());
        while monotonic_ns() < begins + slice_ns {
            let begun = Instant::now();
            match what {
                What::Connect => request(&connect(*to)?).map(|_| count += 1)?,
                What::Request => request(&kept).map(|_| count += 1)?,
                What::Bytes => count += request(&kept)?,
            }
            longest = longest.max(begun.elapsed());
        }
        // None if the processor was away for all of it, or what was begun before was not done.
        let done = count - before;
        rates.push((done > 0).then(|| done as f64 / begun.elapsed().as_secs_f64()));
    }
    report::event(
        "round",
        0,
        json!({
            "count": count,
            "per_second": rates,
            "longest_ms": longest.as_secs_f64() * 1e3,
            "is_late": is_late,
        }),
    );
    Ok(true)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).context("connect")?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_linger(NO_LINGER)?;
    Ok(stream)
}

/// One request and its answer, of which the body's length is told; the connection stays.
fn request(mut stream: &TcpStream, to: SocketAddr, path: &str, buffer: &mut [u8]) -> Result<u64> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let mut read_into = |buffer: &mut [u8]| -> Result<usize> {
        let read = stream.read(buffer)?;
        ensure!(read > 0, "the connection ended within an answer");
        Ok(read)
    };
    let mut len = 0;
    let head = loop {
        len += read_into(&mut buffer[len..])?;
        let text = &buffer[..len];
        if let Some(end) = text.windows(END_OF_HEAD.len()).position(|four| four == END_OF_HEAD) {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    let body = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<usize>().ok())
        .context("an answer without a length")?;
    let mut got = len - head - END_OF_HEAD.len();
    while got < body {
        got += read_into(buffer)?;
    }
    ensure!(got == body, "more than an answer has come");
    Ok(body as u64)
}
