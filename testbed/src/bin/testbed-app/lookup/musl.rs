//! musl's resolver, step by step as `src/network/res_msend.c` of musl 1.2.5: what Alpine images
//! run. No static musl program has to be built or fetched for that.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use testbed::dns;

use super::{QUERIES, QUERY_TIMEOUT, read_answer};

/// `attempts` of resolv.conf, by default.
const ATTEMPTS: u32 = 2;
const SERVFAIL: u8 = 2;
/// As large as musl's buffer for an answer.
const MAX_ANSWER: usize = 4800;

pub(super) fn lookup(name: &str, nameserver: SocketAddr) -> io::Result<Vec<IpAddr>> {
    // One socket, not connected: an error of the network reaches nobody.
    let any: IpAddr = match nameserver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    let retry_every = QUERY_TIMEOUT / ATTEMPTS;
    let mut answers: [Option<Vec<u8>>; 2] = [None, None];
    let start = Instant::now();
    let mut sent: Option<Instant> = None;
    let mut servfail_retries = 0;
    while start.elapsed() < QUERY_TIMEOUT {
        if sent.is_none_or(|sent| sent.elapsed() >= retry_every) {
            for ((id, kind), answer) in QUERIES.iter().zip(&answers) {
                if answer.is_none() {
                    // musl does not look at what sendto() says.
                    let _ = socket.send_to(&dns::query(*id, name, *kind), nameserver);
                }
            }
            sent = Some(Instant::now());
            servfail_retries = 2 * QUERIES.len();
        }
        let waited = sent.map(|sent| sent.elapsed()).unwrap_or_default();
        let left = retry_every.saturating_sub(waited).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [0; MAX_ANSWER];
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_transient(&error) => continue,
            Err(error) => return Err(error),
        };
        let answer = &buffer[..length];
        // Only answers of the nameserver that was asked count.
        if from.ip() != nameserver.ip() || from.port() != nameserver.port() {
            continue;
        }
        let Some(index) = QUERIES.iter().position(|(id, _)| dns::id(answer) == Some(*id)) else {
            continue;
        };
        match dns::response_code(answer) {
            Some(0 | 3) => {
                answers[index].get_or_insert_with(|| answer.to_vec());
            }
            Some(SERVFAIL) if servfail_retries > 0 => {
                servfail_retries -= 1;
                let (id, kind) = QUERIES[index];
                let _ = socket.send_to(&dns::query(id, name, kind), nameserver);
            }
            _ => {}
        }
        if let [Some(first), Some(second)] = &answers {
            let mut found = read_answer(first)?;
            found.extend(read_answer(second)?);
            return Ok(found);
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
