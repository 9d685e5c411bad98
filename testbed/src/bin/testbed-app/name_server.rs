//! The cluster's DNS server: one table, both families, UDP and TCP; every query is reported.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::{NAMESERVER_V4, NAMESERVER_V6, clock::monotonic_ns, dns};

use crate::report;

const PORT: u16 = 53;
/// The longest query that any resolver sends over UDP.
const MAX_QUERY: usize = 4096;
const BACKLOG: i32 = 128;
/// One `ip` command, on a machine that has much else to do.
const ADDRESS_WITHIN: Duration = Duration::from_secs(10);

/// Serves from threads of its own until the process ends.
pub(crate) fn start() -> Result<()> {
    // The IPv6 address comes last and its absence is noticed, while an IPv4 socket can be bound to
    // any address in a namespace that has none yet, and answers from another one for ever.
    for ip in [IpAddr::V6(NAMESERVER_V6), IpAddr::V4(NAMESERVER_V4)] {
        let address = SocketAddr::new(ip, PORT);
        let context = || format!("serve DNS on {address}");
        let udp = bind(address, Type::DGRAM, Protocol::UDP).with_context(context)?;
        let tcp = bind(address, Type::STREAM, Protocol::TCP).with_context(context)?;
        tcp.listen(BACKLOG).with_context(context)?;
        thread::spawn(move || serve_udp(&udp.into()));
        thread::spawn(move || {
            while let Ok((connection, peer)) = tcp.accept() {
                // A client that breaks off is no reason to stop.
                let _ = serve_connection(&connection, peer.as_socket());
            }
        });
    }
    Ok(())
}

/// Waits for the address, which comes to the namespace a moment later than this process.
fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let deadline = Instant::now() + ADDRESS_WITHIN;
    loop {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_reuse_address(true)?;
        match socket.bind(&address.into()) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(2));
            }
            result => return result.map(|()| socket),
        }
    }
}

fn serve_udp(socket: &std::net::UdpSocket) {
    let mut buffer = [0; MAX_QUERY];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if let Some(answer) = answer(&buffer[..length], "udp", Some(from)) {
                    // The client may have gone, which the next receive would tell as an error.
                    let _ = socket.send_to(&answer, from);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                eprintln!("testbed-app: DNS server on descriptor {}: {error}", socket.as_raw_fd());
                return;
            }
        }
    }
}

fn serve_connection(mut connection: &Socket, peer: Option<SocketAddr>) -> io::Result<()> {
    let mut length = [0; 2];
    connection.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    connection.read_exact(&mut query)?;
    if let Some(answer) = answer(&query, "tcp", peer) {
        // An answer of this server is far below 64 KiB.
        connection.write_all(&(answer.len() as u16).to_be_bytes())?;
        connection.write_all(&answer)?;
    }
    Ok(())
}

fn answer(query: &[u8], over: &str, from: Option<SocketAddr>) -> Option<Vec<u8>> {
    let ns = monotonic_ns();
    let answer = dns::answer(query)?;
    let (name, kind) = dns::question(query)?;
    let from = from.map(|from| from.ip());
    report::event(
        "dns_query",
        0,
        json!({"name": name, "type": kind, "over": over, "from": from, "ns": ns}),
    );
    Some(answer)
}
