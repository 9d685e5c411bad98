//! Go's own resolver (`net/dnsclient_unix.go`): a connected socket for each query, both queries at
//! once, five seconds and two attempts each.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use testbed::dns::{self, Kind};

use super::{QUERIES, QUERY_TIMEOUT, read_answer};

const ATTEMPTS: u32 = 2;
/// What it offers with EDNS; larger answers come over TCP.
const MAX_ANSWER: usize = 1232;

pub(super) fn lookup(name: &str, nameserver: SocketAddr) -> io::Result<Vec<IpAddr>> {
    thread::scope(|scope| {
        let both = QUERIES.map(|(id, kind)| scope.spawn(move || query(name, nameserver, id, kind)));
        let mut found = Vec::new();
        for one in both {
            found.extend(one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(found)
    })
}

fn query(name: &str, nameserver: SocketAddr, id: u16, kind: Kind) -> io::Result<Vec<IpAddr>> {
    let query = dns::query(id, name, kind);
    let mut last = io::Error::from(ErrorKind::TimedOut);
    for _ in 0..ATTEMPTS {
        match exchange(&query, nameserver) {
            Ok(answer) => return read_answer(&answer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(query: &[u8], nameserver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match nameserver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(nameserver)?;
    socket.send(query)?;
    let deadline = Instant::now() + QUERY_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut buffer = [0; MAX_ANSWER];
        let length = socket.recv(&mut buffer)?;
        let answer = &buffer[..length];
        // Anything else is an answer to somebody else's query.
        if dns::id(answer) == dns::id(query) && dns::question(answer) == dns::question(query) {
            return Ok(answer.to_vec());
        }
    }
}
