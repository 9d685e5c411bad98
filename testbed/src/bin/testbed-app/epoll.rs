//! A non-blocking client: every socket in one thread, as event-driven runtimes dial.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    process, thread,
};

use anyhow::{Context as _, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde_json::json;
use socket2::Socket;
use testbed::clock::monotonic_ns;

use crate::{
    connect::{Args, inspect},
    http, report, socket,
};

/// How many events one wait may bring.
const BATCH: usize = 256;

struct Connection {
    index: u32,
    socket: Socket,
    start_ns: u64,
    /// When connect() ended, if it came to a connection.
    connected_ns: Option<u64>,
    phase: Phase,
}

enum Phase {
    Connecting,
    Reading(Vec<u8>),
    Done { ok: bool },
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll set")?;
    let mut all = Vec::new();
    let began_ns = monotonic_ns();
    for index in 0..args.count {
        all.push(start(args, index, &epoll)?);
    }
    if args.sum {
        report::event("connecting", 0, json!({"count": args.count}));
    }
    let mut open = all.iter().filter(|one| !one.is_done()).count();
    let mut events = [EpollEvent::empty(); BATCH];
    while open > 0 {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).context("wait for sockets")?;
        for event in &events[..count] {
            let Some(one) = usize::try_from(event.data()).ok().and_then(|index| all.get_mut(index))
            else {
                continue;
            };
            let was_done = one.is_done();
            one.advance(args)?;
            if one.is_done() && !was_done {
                epoll.delete(&one.socket).context("leave the epoll set")?;
                open -= 1;
            }
        }
    }
    if args.sum {
        let ends: Vec<u64> = all.iter().filter_map(|one| one.connected_ns).collect();
        report::event(
            "connects",
            0,
            json!({"began_ns": began_ns, "failed": all.len() - ends.len(), "ends_ns": ends}),
        );
    }
    if let Some(time) = args.hold_open {
        thread::sleep(time);
    }
    Ok(all.iter().all(|one| matches!(one.phase, Phase::Done { ok: true })))
}

fn start(args: &Args, index: u32, epoll: &Epoll) -> Result<Connection> {
    let to = socket::destination(args);
    let socket = socket::new(args).context("make a socket")?;
    socket.set_nonblocking(true).context("set O_NONBLOCK")?;
    if !args.sum {
        let start_ns = monotonic_ns();
        report::event(
            "connecting",
            index,
            json!({"to": to.to_string(), "start_ns": start_ns, "pid": process::id()}),
        );
    }
    let start_ns = monotonic_ns();
    let mut connection =
        Connection { index, socket, start_ns, connected_ns: None, phase: Phase::Connecting };
    match connection.socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        // Over loopback a connect may well be over at once, either way.
        result => connection.connected(args, &result)?,
    }
    if !connection.is_done() {
        // Edge-triggered: a connected socket stays writable, which is of no interest any more.
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll
            .add(&connection.socket, EpollEvent::new(interest, u64::from(index)))
            .context("join the epoll set")?;
    }
    Ok(connection)
}

impl Connection {
    fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done { .. })
    }

    fn advance(&mut self, args: &Args) -> Result<()> {
        if matches!(self.phase, Phase::Connecting) {
            let result = match self.socket.take_error().context("read SO_ERROR")? {
                Some(error) => Err(error),
                None => Ok(()),
            };
            self.connected(args, &result)?;
        }
        if let Phase::Reading(answer) = &mut self.phase {
            match read_available(&self.socket, answer) {
                Ok(false) => {}
                Ok(true) => {
                    let path = args.get.as_deref().unwrap_or_default();
                    let ok = http::judge(self.index, path, answer);
                    self.phase = Phase::Done { ok };
                }
                Err(error) => {
                    let outcome = report::error_name(&error);
                    report::event("error", self.index, json!({"step": "get", "outcome": outcome}));
                    self.phase = Phase::Done { ok: false };
                }
            }
        }
        Ok(())
    }

    fn connected(&mut self, args: &Args, result: &io::Result<()>) -> Result<()> {
        self.connected_ns = result.is_ok().then(monotonic_ns);
        if !args.sum {
            report::attempt(self.index, self.start_ns, result);
        }
        if result.is_err() {
            self.phase = Phase::Done { ok: false };
            return Ok(());
        }
        inspect(args, self.index, &self.socket)?;
        self.phase = match &args.get {
            None => Phase::Done { ok: true },
            Some(path) => {
                let request = http::request(socket::destination(args), path);
                // A fresh connection's buffer takes a request of a hundred bytes whole.
                (&self.socket).write_all(&request).context("send the request")?;
                Phase::Reading(Vec::new())
            }
        };
        Ok(())
    }
}

/// Reads until the socket has no more for now; true at the end of the stream.
fn read_available(mut socket: &Socket, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 16 * 1024];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => return Ok(true),
            Ok(read) => into.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
