//! Clients that look names up, as resolvers of several kinds do it.

mod go;
mod musl;

use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::json;
use testbed::{
    clock::monotonic_ns,
    dns::{self, Kind},
};

use crate::report;

/// What to look up, and how.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Whose algorithm.
    #[arg(long)]
    resolver: Resolver,
    /// The name.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Resolver {
    Glibc,
    Musl,
    Go,
    Tcp,
}

/// Where resolvers find their nameservers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS: u16 = 53;
/// What resolvers allow a query by default.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Both queries of a lookup, each with an id of its own.
const QUERIES: [(u16, Kind); 2] = [(0x5a01, Kind::A), (0x5a02, Kind::Aaaa)];

/// Looks up once; true when there was an answer.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let Args { resolver, name } = args;
    let nameserver = nameserver()?;
    let start_ns = monotonic_ns();
    report::event("looking-up", 0, json!({"name": name, "start_ns": start_ns}));
    let start_ns = monotonic_ns();
    let found = match resolver {
        Resolver::Glibc => glibc(name),
        Resolver::Musl => musl::lookup(name, nameserver),
        Resolver::Go => go::lookup(name, nameserver),
        Resolver::Tcp => over_tcp(name, nameserver),
    };
    let (outcome, addresses) = match &found {
        Ok(addresses) => ("ok".to_owned(), addresses.clone()),
        Err(error) => (report::error_name(error), Vec::new()),
    };
    report::event(
        "lookup",
        0,
        json!({
            "start_ns": start_ns,
            "end_ns": monotonic_ns(),
            "outcome": outcome,
            "addresses": addresses,
        }),
    );
    Ok(found.is_ok())
}

fn nameserver() -> Result<SocketAddr> {
    let text = fs::read_to_string(RESOLV_CONF).with_context(|| format!("read {RESOLV_CONF}"))?;
    let address: IpAddr = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok())
        .with_context(|| format!("no nameserver in {RESOLV_CONF}"))?;
    Ok(SocketAddr::new(address, DNS))
}

/// std asks getaddrinfo() for both families.
fn glibc(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// The addresses in the answer to one of a lookup's queries; an error for any answer but success.
fn read_answer(answer: &[u8]) -> io::Result<Vec<IpAddr>> {
    match dns::response_code(answer) {
        Some(0) => dns::addresses(answer).ok_or_else(|| ErrorKind::InvalidData.into()),
        code => Err(io::Error::other(format!("response code {code:?}"))),
    }
}

/// One connection for each query, the message after its length.
fn over_tcp(name: &str, nameserver: SocketAddr) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for (id, kind) in QUERIES {
        let query = dns::query(id, name, kind);
        let mut message = (query.len() as u16).to_be_bytes().to_vec();
        message.extend(query);
        let mut stream = TcpStream::connect(nameserver)?;
        stream.set_read_timeout(Some(QUERY_TIMEOUT))?;
        stream.write_all(&message)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        found.extend(read_answer(&answer)?);
    }
    Ok(found)
}
