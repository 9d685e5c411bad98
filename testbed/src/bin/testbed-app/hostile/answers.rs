//! A readiness endpoint that answers as no proxy does.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::report;

/// The path that is asked for; any other was led there by an answer.
const READY_PATH: &str = "/healthz/ready";
/// Between two slow bytes.
const SLOWLY: Duration = Duration::from_millis(20);
/// How long one answer may take: far longer than anybody should listen to it.
const ENOUGH: Duration = Duration::from_secs(30);
/// What is sent at a time where the amount is the attack.
const CHUNK: [u8; 16 * 1024] = [b'a'; 16 * 1024];
/// The proxy's accept queue; nobody ever takes anything out of it.
const BACKLOG: i32 = 16;

/// Where, and how.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// The readiness port, on 127.0.0.1.
    #[arg(long, default_value_t = 15021)]
    port: u16,
    /// The proxy's port, on which it listens and accepts nobody.
    #[arg(long, default_value_t = 15001)]
    proxy_port: u16,
    /// Always 200, in place of all the others in turn.
    #[arg(long)]
    ready: bool,
}

type Answer = fn(&mut TcpStream, u16) -> io::Result<()>;

/// All that is no answer, in turn.
const ANSWERS: [(&str, Answer); 12] = [
    ("closes at once", |_, _| Ok(())),
    ("redirects to itself", |stream, port| redirect(stream, &format!("http://127.0.0.1:{port}/x"))),
    ("redirects to v6", |stream, port| redirect(stream, &format!("http://[::1]:{port}/x"))),
    ("redirects to metadata", |stream, _| redirect(stream, "http://169.254.169.254/latest/")),
    ("redirects without end", |stream, _| redirect(stream, READY_PATH)),
    ("bytes of no protocol", |stream, _| stream.write_all(&[0xff; 4096])),
    ("slow bytes", |stream, _| {
        b"HTTP/1.1 200 OK\r\n".iter().try_for_each(|byte| {
            thread::sleep(SLOWLY);
            stream.write_all(&[*byte])
        })?;
        silent(stream)
    }),
    ("endless status line", |stream, _| {
        stream.write_all(b"HTTP/1.1 200 ")?;
        endless(stream)
    }),
    ("endless headers", |stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            stream.write_all(b"x-a: b\r\n")?;
        }
    }),
    ("endless 100 Continue", |stream, _| {
        loop {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
    }),
    ("503 with an endless packed body", |stream, _| {
        stream.write_all(b"HTTP/1.1 503 No\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0")?;
        endless(stream)
    }),
    ("no answer", |stream, _| silent(stream)),
];

pub(super) fn run(args: &Args) -> Result<bool> {
    let _proxy = listen(args.proxy_port)?;
    let listener: TcpListener = listen(args.port)?.into();
    report::event("listening", 0, json!({"port": args.port}));
    for (turn, stream) in listener.incoming().enumerate() {
        let mut stream = stream.context("accept a question")?;
        let (port, ready) = (args.port, args.ready);
        thread::spawn(move || {
            // The asker may go at any time.
            let _: io::Result<()> = answer(&mut stream, port, (!ready).then_some(turn));
        });
    }
    Ok(true)
}

fn answer(stream: &mut TcpStream, port: u16, turn: Option<usize>) -> io::Result<()> {
    stream.set_read_timeout(Some(ENOUGH))?;
    stream.set_write_timeout(Some(ENOUGH))?;
    let mut request = [0; 1024];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..length]);
    if let Some(path) = request.split(' ').nth(1).filter(|path| *path != READY_PATH) {
        report::event("followed", 0, json!({"path": path}));
    }
    let Some(turn) = turn else {
        return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    };
    let (name, answer) = ANSWERS[turn % ANSWERS.len()];
    if turn < ANSWERS.len() {
        report::event(
            "answers",
            turn as u32,
            json!({"name": name, "left": ANSWERS.len() - turn - 1}),
        );
    }
    answer(stream, port)
}

fn redirect(stream: &mut TcpStream, to: &str) -> io::Result<()> {
    write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

fn endless(stream: &mut TcpStream) -> io::Result<()> {
    loop {
        stream.write_all(&CHUNK)?;
    }
}

/// Until the asker goes.
fn silent(stream: &mut TcpStream) -> io::Result<()> {
    stream.read(&mut [0; 64]).map(drop)
}

fn listen(port: u16) -> Result<Socket> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listening = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok::<_, io::Error>(socket)
    };
    listening().with_context(|| format!("listen on {address}"))
}
