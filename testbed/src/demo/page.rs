//! The agent's node page, kept as a file.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

use super::SOON;
use crate::Agent;

/// The agent's option, and a port that nobody else has.
pub(super) const OPTION: &str = "--page-address=127.0.0.1:0";

/// The page in the form that needs no agent any more.
const PATH: &str = "/?save";

/// Asks the agent for its page and writes it to `file`.
pub(super) fn save(agent: &Agent, file: &Path) -> Result<()> {
    let line = agent.wait_message(SOON, "the node page is served")?;
    let address = line["address"].as_str().context("the page is served nowhere")?;
    let address: SocketAddr = address.parse().with_context(|| format!("parse {address}"))?;
    let page = get(address).with_context(|| format!("get the node page from {address}"))?;
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    fs::write(file, page).with_context(|| format!("write {}", file.display()))
}

fn get(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.set_read_timeout(Some(SOON)).context("set a timeout")?;
    // HTTP/1.0: the body is what it is, and ends with the connection.
    write!(stream, "GET {PATH} HTTP/1.0\r\nHost: {address}\r\n\r\n").context("ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "the answer is {status}: {body}");
    Ok(body.to_owned())
}
