//! Applications that look names up, each as its runtime's resolver does.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use serde::Deserialize;

use super::{parse, testbed_app};
use crate::process::{Command, Process};

const PYTHON: &str = include_str!("../../scripts/lookup.py");
const NODE_JS: &str = include_str!("../../scripts/lookup.js");

/// A way to look up a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// glibc's getaddrinfo(): both queries on one connected socket that asks for its errors.
    Glibc,
    /// The same, from Python.
    Python,
    /// The same, from Node.js' `dns.lookup()`.
    NodeLookup,
    /// c-ares, behind Node.js' `dns.resolve4()`.
    NodeResolve,
    /// musl's algorithm: both queries on one socket that is not connected.
    Musl,
    /// Go's own resolver: a connected socket for each query.
    Go,
    /// A query over TCP, as after a truncated answer.
    Tcp,
}

impl Resolver {
    /// Every one of them.
    pub const ALL: [Self; 7] = [
        Self::Glibc,
        Self::Python,
        Self::NodeLookup,
        Self::NodeResolve,
        Self::Musl,
        Self::Go,
        Self::Tcp,
    ];
}

/// A client that looks `name` up once. Only those that go through getaddrinfo() try the search list
/// of resolv.conf; all take their nameserver from there.
pub fn lookup(resolver: Resolver, name: &str) -> Result<Command> {
    let app = |way: &str| Ok(testbed_app()?.args(["lookup", "--resolver", way, name]));
    let node = |way: &str| Ok(Command::new("node").args(["-e", NODE_JS, "--", way, name]));
    match resolver {
        Resolver::Glibc => app("glibc"),
        Resolver::Musl => app("musl"),
        Resolver::Go => app("go"),
        Resolver::Tcp => app("tcp"),
        Resolver::Python => Ok(Command::new("python3").args(["-c", PYTHON, name])),
        Resolver::NodeLookup => node("lookup"),
        Resolver::NodeResolve => node("resolve4"),
    }
}

/// One lookup as the application saw it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Lookup {
    /// When it was begun.
    pub start_ns: u64,
    /// When it was over.
    pub end_ns: u64,
    /// `ok`, or the error as the runtime names it.
    pub outcome: String,
    /// What was found.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

impl Process {
    /// Waits for the end of the lookup.
    pub fn wait_lookup(&self, timeout: Duration) -> Result<Lookup> {
        parse(self.wait_record(timeout, |line| line["event"] == "lookup")?)
    }
}
