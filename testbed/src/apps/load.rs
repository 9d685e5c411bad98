//! An application that opens new connections at a steady pace, whatever becomes of those before.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;
use serde::Deserialize;

use super::{parse, testbed_app};
use crate::process::{Command, Process};

/// A client that opens `rate` connections a second for `time`, to these destinations in turn. Each
/// sends a small request, checks the answer and closes; none waits for another.
pub fn load(to: &[SocketAddr], rate: u32, time: Duration) -> Result<Command> {
    let mut command = testbed_app()?.arg("load");
    for to in to {
        command = command.args(["--to", &to.to_string()]);
    }
    let (rate, time) = (rate.to_string(), time.as_millis().to_string());
    Ok(command.args(["--rate", &rate, "--time", &time]))
}

/// What became of the connections of [`load`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Load {
    /// Opened altogether.
    pub started: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// connect() failed with ECONNREFUSED.
    pub refused: u64,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub refused_at_ns: Vec<u64>,
    /// connect() failed with anything else, a timeout above all.
    pub failed: u64,
    /// Connected, then reset.
    pub reset: u64,
    /// Connected, then closed without a complete answer.
    pub cut: u64,
    /// Still under way when the client gave up waiting for the last ones.
    pub unfinished: u64,
    /// The longest time from connect() to its success, in milliseconds.
    pub longest_wait_ms: f64,
    /// How many had waited longer than a second when connect() succeeded.
    pub waited_over_1s: u64,
    /// By how much the client was behind its own pace at worst, in milliseconds.
    pub longest_lag_ms: f64,
    /// Names and numbers of the errors in `failed`.
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
}

/// A client that begins connects to this destination for `time` and closes each at once.
pub fn flood(to: SocketAddr, time: Duration) -> Result<Command> {
    let (to, time) = (to.to_string(), time.as_millis().to_string());
    Ok(testbed_app()?.args(["flood", "--to", &to, "--time", &time]))
}

/// What [`flood`] has done.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Flood {
    /// Connects begun.
    pub begun: u64,
    /// In so many seconds.
    pub seconds: f64,
}

impl Process {
    /// Waits until the client of [`flood`] has ended.
    pub fn wait_flood(&self, timeout: Duration) -> Result<Flood> {
        parse(self.wait_record(timeout, |line| line["event"] == "flood")?)
    }

    /// Waits until the client of [`load`] has told what became of its connections.
    pub fn wait_load(&self, timeout: Duration) -> Result<Load> {
        parse(self.wait_record(timeout, |line| line["event"] == "load")?)
    }
}
