//! Applications that dial out of a pod, in several runtimes and styles.
//!
//! They all print one JSON object a line: `connecting` before connect() is called, `connect` when
//! it has returned (or the runtime's own event has come), then what else was asked for. Times are
//! nanoseconds of `CLOCK_MONOTONIC`.

pub mod hostile;
mod load;
mod lookup;
mod wait;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

pub use self::{
    load::{Flood, Load, flood, load},
    lookup::{Lookup, Resolver, lookup},
    wait::{Waiter, waiter},
};
use crate::process::{Command, Process};

/// Where the helper binary is when it is not beside the running one.
const APP_VARIABLE: &str = "HOLDFAST_TESTBED_APP";
const APP: &str = "testbed-app";
const PYTHON: &str = include_str!("../scripts/client.py");
const NODE_JS: &str = include_str!("../scripts/client.js");

/// The testbed's own application: a small binary with subcommands.
pub fn testbed_app() -> Result<Command> {
    Ok(Command::new(testbed_app_path()?))
}

/// Where it is.
pub(crate) fn testbed_app_path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(APP_VARIABLE) {
        return Ok(path.into());
    }
    let me = std::env::current_exe().context("find the running binary")?;
    // Tests run from target/<profile>/deps, the demo from target/<profile> itself.
    let beside =
        me.ancestors().skip(1).take(2).map(|dir| dir.join(APP)).find(|path| path.is_file());
    match beside {
        Some(path) => Ok(path),
        None => bail!(
            "no {APP} beside {}: run `cargo build -p testbed --bins`, or set {APP_VARIABLE}",
            me.display()
        ),
    }
}

/// How TCP Fast Open is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastOpen {
    /// `sendto()` with `MSG_FASTOPEN` and the request as payload, instead of connect().
    Sendto,
    /// `TCP_FASTOPEN_CONNECT`: connect() returns at once, the first write sends the SYN.
    Connect,
}

/// A client of [`testbed_app`]; becomes a [`Command`].
#[derive(Clone, Debug)]
pub struct Client {
    command: Command,
}

/// A client that dials `to`: blocking, one socket, nothing sent.
pub fn connect(to: SocketAddr) -> Result<Client> {
    Client::new("connect", to)
}

/// A client whose socket was made by the parent of the process that dials.
pub fn fork_connect(to: SocketAddr) -> Result<Client> {
    Client::new("fork-connect", to)
}

/// A client that first moves to a fresh network namespace of its own, with only loopback in it.
pub fn connect_in_own_netns(to: SocketAddr) -> Result<Client> {
    Client::new("in-netns", to)
}

impl Client {
    fn new(subcommand: &str, to: SocketAddr) -> Result<Self> {
        let command = testbed_app()?.arg(subcommand).arg("--to").arg(to.to_string());
        Ok(Self { command })
    }

    fn flag(mut self, name: &str) -> Self {
        self.command = self.command.arg(name);
        self
    }

    fn option(mut self, name: &str, value: &dyn ToString) -> Self {
        self.command = self.command.arg(name).arg(value.to_string());
        self
    }

    /// Dials an IPv4 destination from an `AF_INET6` socket.
    #[must_use]
    pub fn v4_mapped(self) -> Self {
        self.flag("--v4-mapped")
    }

    /// This many sockets at once, each in a thread of its own unless non-blocking.
    #[must_use]
    pub fn count(self, sockets: u32) -> Self {
        self.option("--count", &sockets)
    }

    /// All sockets from one thread, with epoll.
    #[must_use]
    pub fn nonblocking(self) -> Self {
        self.flag("--nonblocking")
    }

    /// One line `connecting` when all its sockets have begun and one `connects` when all have ended,
    /// with the instant before the first (`began_ns`), the ends of those that are connected (`ends_ns`) and
    /// how many are not (`failed`).
    /// Non-blocking sockets only.
    #[must_use]
    pub fn summed(self) -> Self {
        self.flag("--sum")
    }

    /// With TCP Fast Open.
    #[must_use]
    pub fn fast_open(self, way: FastOpen) -> Self {
        let way = match way {
            FastOpen::Sendto => "sendto",
            FastOpen::Connect => "connect",
        };
        self.option("--fast-open", &way)
    }

    /// Sets `TCP_SYNCNT` beforehand.
    #[must_use]
    pub fn syncnt(self, retries: u32) -> Self {
        self.option("--syncnt", &retries)
    }

    /// Sets `TCP_USER_TIMEOUT` beforehand.
    #[must_use]
    pub fn user_timeout(self, timeout: Duration) -> Self {
        self.option("--user-timeout", &timeout.as_millis())
    }

    /// Sets `SO_SNDTIMEO` beforehand, which also ends a blocking connect().
    #[must_use]
    pub fn send_timeout(self, timeout: Duration) -> Self {
        self.option("--send-timeout", &timeout.as_millis())
    }

    /// Gives up after this time by its own clock, as most client libraries do.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.option("--connect-timeout", &timeout.as_millis())
    }

    /// Then requests `path` over HTTP/1.1: `/bytes/<n>`, whose body is verified, `/port`, which
    /// answers with the backend's port, `/visit/<name>`, which counts a visit, or `/visits/<name>`,
    /// which only answers with their number.
    #[must_use]
    pub fn get(self, path: &str) -> Self {
        self.option("--get", &path)
    }

    /// Prints `TCP_SYNCNT` after the connect.
    #[must_use]
    pub fn sockopts_after(self) -> Self {
        self.flag("--sockopts-after")
    }

    /// Prints what `TCP_INFO` says after the connect.
    #[must_use]
    pub fn tcp_info(self) -> Self {
        self.flag("--tcp-info")
    }

    /// Keeps the connection open for this long before ending.
    #[must_use]
    pub fn hold_open(self, time: Duration) -> Self {
        self.option("--hold-open", &time.as_millis())
    }

    /// Runs as this user and group. The binary must be reachable for it.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.command = self.command.user(uid, gid);
        self
    }
}

impl From<Client> for Command {
    fn from(client: Client) -> Self {
        client.command
    }
}

/// A client that dials with asyncio and, when `get` is given, requests and verifies that path.
pub fn python_client(to: SocketAddr, get: Option<&str>) -> Command {
    script(Command::new("python3").arg("-c").arg(PYTHON), to, get)
}

/// A client that dials with Node.js' `net.connect()`, otherwise as [`python_client`].
pub fn node_client(to: SocketAddr, get: Option<&str>) -> Command {
    script(Command::new("node").arg("-e").arg(NODE_JS).arg("--"), to, get)
}

fn script(command: Command, to: SocketAddr, get: Option<&str>) -> Command {
    let command = command.arg(to.ip().to_string()).arg(to.port().to_string());
    match get {
        Some(path) => command.arg(path),
        None => command,
    }
}

/// Sends one forged SYN from a raw socket: 127.0.0.1, `source` to `destination`.
pub fn raw_syn(source: u16, destination: u16) -> Result<Command> {
    Ok(testbed_app()?.args([
        "raw-syn",
        "--source",
        &source.to_string(),
        "--destination",
        &destination.to_string(),
    ]))
}

/// A plain server on 127.0.0.1 and `::1` that accepts and keeps every connection.
pub fn listener(port: u16, backlog: u32) -> Result<Command> {
    Ok(testbed_app()?.args([
        "listen",
        "--port",
        &port.to_string(),
        "--backlog",
        &backlog.to_string(),
    ]))
}

/// As [`listener`], from an instant on (`CLOCK_MONOTONIC` nanoseconds), and one that accepts nobody:
/// connections wait in its queue. Its line `listening` has the instant as it was (`mono_ns`).
pub fn late_listener(port: u16, backlog: u32, at_ns: u64) -> Result<Command> {
    let at = at_ns.to_string();
    Ok(listener(port, backlog)?.args(["--never-accept", "--at", &at]))
}

/// As [`listener`], on 127.0.0.1 alone.
pub fn listener_v4(port: u16) -> Result<Command> {
    Ok(listener(port, 16)?.arg("--v4"))
}

/// As [`listener`], first on 127.0.0.1 alone, and on `::1` after `between`. Its line `listening` has
/// the instants before the first (`mono_ns`) and after the second (`both_ns`).
pub fn listener_in_steps(port: u16, between: Duration) -> Result<Command> {
    let between = between.as_millis().to_string();
    Ok(listener(port, 16)?.args(["--between", &between]))
}

/// A server on a port of every address, of both families, that answers `GET /port` with it.
pub fn serve(port: u16) -> Result<Command> {
    Ok(testbed_app()?.args(["serve", "--port", &port.to_string()]))
}

/// One connect() as the application saw it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Attempt {
    /// Which of the application's sockets, from 0.
    pub index: u32,
    /// When connect() was called.
    pub start_ns: u64,
    /// When it returned, or the runtime told of its end.
    pub end_ns: u64,
    /// `connected`, or the error's name such as `ECONNREFUSED`.
    pub outcome: String,
}

impl Attempt {
    /// How long the application waited.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.end_ns.saturating_sub(self.start_ns))
    }

    /// Whether it came to a connection.
    pub fn is_connected(&self) -> bool {
        self.outcome == "connected"
    }
}

/// What a client's HTTP request brought.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Body {
    /// Which of the application's sockets, from 0.
    pub index: u32,
    /// The HTTP status.
    pub status: u16,
    /// The body's length.
    pub bytes: usize,
    /// Whether the body is what it should be, byte by byte.
    pub ok: bool,
    /// The body, unless it is the pattern of `/bytes/<n>`.
    #[serde(default)]
    pub text: Option<String>,
}

impl Process {
    /// Waits for the end of the first socket's connect().
    pub fn wait_attempt(&self, timeout: Duration) -> Result<Attempt> {
        parse(self.wait_record(timeout, |line| line["event"] == "connect")?)
    }

    /// Waits until `count` sockets' connect() have ended, in the order of their ends.
    pub fn wait_attempts(&self, timeout: Duration, count: usize) -> Result<Vec<Attempt>> {
        let mut seen = 0;
        self.wait_record(timeout, |line| {
            seen += usize::from(line["event"] == "connect");
            seen == count
        })
        .with_context(|| format!("wait for {count} connects"))?;
        self.records().into_iter().filter(|line| line["event"] == "connect").map(parse).collect()
    }

    /// Waits for the answer to the first socket's HTTP request.
    pub fn wait_body(&self, timeout: Duration) -> Result<Body> {
        parse(self.wait_record(timeout, |line| line["event"] == "body")?)
    }

    /// Waits until the client is about to call connect() and gives that moment.
    pub fn wait_connecting(&self, timeout: Duration) -> Result<u64> {
        let line = self.wait_record(timeout, |line| line["event"] == "connecting")?;
        line["start_ns"].as_u64().with_context(|| format!("no start_ns in {line}"))
    }
}

fn parse<T: for<'de> Deserialize<'de>>(line: serde_json::Value) -> Result<T> {
    let text = line.to_string();
    serde_json::from_value(line).with_context(|| format!("an application printed {text}"))
}
