//! Connections at a steady pace from one thread: an open loop, so that those that wait do not keep
//! later ones from being opened.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::clock::monotonic_ns;

use crate::{http, report};

/// How to load.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where to, as ADDRESS:PORT; several are taken in turn.
    #[arg(long, required = true)]
    to: Vec<SocketAddr>,
    /// Connections a second.
    #[arg(long)]
    rate: u32,
    /// For how many milliseconds.
    #[arg(long)]
    time: u64,
}

/// A small answer: what is loaded is the opening of connections.
const PATH: &str = "/bytes/64";
const OK: &[u8] = b"HTTP/1.1 200";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const BODY: usize = 64;
const BATCH: usize = 512;
/// After the last connection has been opened: longer than any hold that the tests set.
const FINISH_WITHIN: Duration = Duration::from_secs(30);
/// epoll counts in whole milliseconds; waking up that often keeps a pace of 1,000 a second.
const TICK: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Count {
    started: u64,
    ok: u64,
    refused: u64,
    refused_at_ns: Vec<u64>,
    failed: u64,
    reset: u64,
    cut: u64,
    longest_wait: Duration,
    waited_over_1s: u64,
    longest_lag: Duration,
    errors: BTreeMap<String, u64>,
}

struct Connection {
    socket: Socket,
    to: SocketAddr,
    opened: Instant,
    answer: Option<Vec<u8>>,
}

/// Loads; true when every connection was answered.
pub(crate) fn run(args: &Args) -> Result<bool> {
    // A pause of the proxy leaves thousands of connections open at once.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of files")?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll set")?;
    let mut open: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut count = Count::default();
    let total = u64::from(args.rate) * args.time / 1000;
    let every = Duration::from_secs(1) / args.rate;
    let start = Instant::now();
    report::event("loading", 0, json!({"rate": args.rate, "time_ms": args.time}));
    let ends = start + Duration::from_millis(args.time) + FINISH_WITHIN;
    let mut events = vec![EpollEvent::empty(); BATCH];
    while (count.started < total || free.len() < open.len()) && Instant::now() < ends {
        while count.started < total {
            let due = start + every * u32::try_from(count.started).unwrap_or(u32::MAX);
            let now = Instant::now();
            if due > now {
                break;
            }
            count.longest_lag = count.longest_lag.max(now - due);
            let to = args.to[(count.started % args.to.len() as u64) as usize];
            count.started += 1;
            let slot = free.pop().unwrap_or_else(|| {
                open.push(None);
                open.len() - 1
            });
            open[slot] = open_one(to, slot, &epoll, &mut count);
            if open[slot].is_none() {
                free.push(slot);
            }
        }
        let tick = EpollTimeout::try_from(TICK).context("a millisecond")?;
        let woken = match epoll.wait(&mut events, tick) {
            Err(nix::errno::Errno::EINTR) => 0,
            woken => woken.context("wait for sockets")?,
        };
        for event in &events[..woken] {
            let slot = event.data() as usize;
            if let Some(Some(connection)) = open.get_mut(slot)
                && connection.advance(&mut count)
            {
                // Closing takes the socket out of the epoll set as well.
                open[slot] = None;
                free.push(slot);
            }
        }
    }
    let unfinished = (open.len() - free.len()) as u64;
    let Count {
        started,
        ok,
        refused,
        refused_at_ns,
        failed,
        reset,
        cut,
        longest_wait,
        waited_over_1s,
        longest_lag,
        errors,
    } = count;
    let ms = |duration: Duration| duration.as_micros() as f64 / 1000.0;
    report::event(
        "load",
        0,
        json!({
            "started": started,
            "ok": ok,
            "refused": refused,
            "refused_at_ns": refused_at_ns,
            "failed": failed,
            "reset": reset,
            "cut": cut,
            "unfinished": unfinished,
            "longest_wait_ms": ms(longest_wait),
            "waited_over_1s": waited_over_1s,
            "longest_lag_ms": ms(longest_lag),
            "errors": errors,
        }),
    );
    Ok(ok == started)
}

/// `None` when it is over already.
fn open_one(to: SocketAddr, slot: usize, epoll: &Epoll, count: &mut Count) -> Option<Connection> {
    let opened = Instant::now();
    let attempt = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        // Edge-triggered: the first event is the end of connect(), later ones bring the answer.
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&socket, EpollEvent::new(interest, slot as u64))?;
        Ok::<_, io::Error>(socket)
    };
    match attempt() {
        Ok(socket) => Some(Connection { socket, to, opened, answer: None }),
        Err(error) => {
            count.connect_failed(&error);
            None
        }
    }
}

impl Connection {
    /// True when it is over.
    fn advance(&mut self, count: &mut Count) -> bool {
        let Some(answer) = &mut self.answer else {
            match self.socket.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => {
                    count.connect_failed(&error);
                    return true;
                }
            }
            let waited = self.opened.elapsed();
            count.longest_wait = count.longest_wait.max(waited);
            count.waited_over_1s += u64::from(waited > Duration::from_secs(1));
            self.answer = Some(Vec::new());
            // A fresh connection's buffer takes a request of a hundred bytes whole.
            if let Err(error) = (&self.socket).write_all(&http::request(self.to, PATH)) {
                count.broken(&error);
                return true;
            }
            return false;
        };
        let mut chunk = [0; 4096];
        loop {
            match (&self.socket).read(&mut chunk) {
                Ok(0) => {
                    if is_complete(answer) {
                        count.ok += 1;
                    } else {
                        count.cut += 1;
                    }
                    return true;
                }
                Ok(read) => answer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    count.broken(&error);
                    return true;
                }
            }
        }
    }
}

impl Count {
    fn connect_failed(&mut self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::ECONNREFUSED) {
            self.refused += 1;
            self.refused_at_ns.push(monotonic_ns());
        } else {
            // A reset can only follow a connection, however soon.
            self.broken(error);
        }
    }

    fn broken(&mut self, error: &io::Error) {
        if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
            self.reset += 1;
        } else {
            self.failed += 1;
            *self.errors.entry(report::error_name(error)).or_default() += 1;
        }
    }
}

fn is_complete(answer: &[u8]) -> bool {
    let head = answer.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD);
    answer.starts_with(OK)
        && head.is_some_and(|head| answer.len() == head + END_OF_HEAD.len() + BODY)
}
