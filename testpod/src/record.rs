//! What the parts of a test pod print: one JSON object a line.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::TestpodError;

/// One line: when, and what.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Nanoseconds of `CLOCK_MONOTONIC`: the same clock for all containers of a node, and for the
    /// agent's log.
    pub mono_ns: u64,
    /// The same instant by the node's wall clock, as RFC 3339 has it.
    pub wall: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The proxy runs; its readiness endpoint says 503.
    ProxyStarted {
        /// How long it takes its time from now on.
        delay_ms: u64,
    },
    /// Somebody listens on the proxy's port.
    ProxyListening {
        /// The port.
        port: u16,
    },
    /// The readiness endpoint says 200 from this instant on, and no earlier.
    ProxyReady,
    /// The proxy ends.
    ProxyEnded {
        /// Why.
        reason: End,
    },
    /// The client runs and connects now.
    ClientStarted {
        /// Where to.
        to: String,
    },
    /// A connect() has come to its end.
    Attempt(Attempt),
    /// The client has made all its attempts.
    ClientDone {
        /// How many of them connected.
        connected: u32,
        /// How many did not.
        failed: u32,
    },
}

/// Why a proxy ends.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was told to die after some time.
    DieAfter,
    /// The client asked for it.
    Quit,
    /// A signal.
    Signal,
}

/// One connect().
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Counted from 1.
    pub number: u32,
    /// When connect() was called, in nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// When it returned.
    pub end_ns: u64,
    /// `connected`, or the error's name such as `ECONNREFUSED`.
    pub outcome: String,
    /// The status of the answer to a GET over the connection, if one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

// === impl Record ===

impl Record {
    fn now(event: Event) -> Self {
        Self::at(now(), event)
    }

    fn at(mono_ns: u64, event: Event) -> Self {
        let past = Duration::from_nanos(now().saturating_sub(mono_ns));
        let wall = SystemTime::now() - past;
        Self { mono_ns, wall: humantime::format_rfc3339_micros(wall).to_string(), event }
    }

    /// The records among a container's lines.
    #[must_use]
    pub fn all(log: &str) -> Vec<Self> {
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn print(&self) -> Result<(), TestpodError> {
        let mut line =
            serde_json::to_vec(self).map_err(|error| TestpodError::Write(error.into()))?;
        line.push(b'\n');
        // In one piece, so that who reads along never sees half a line.
        let mut out = io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush()).map_err(TestpodError::Write)
    }
}

// === impl Attempt ===

impl Attempt {
    /// The outcome of a connect() that succeeded.
    pub const CONNECTED: &str = "connected";
    /// The outcome where nobody listens.
    pub const REFUSED: &str = "ECONNREFUSED";

    /// Whether it came to a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.outcome == Self::CONNECTED
    }

    /// Whether nobody listened.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.outcome == Self::REFUSED
    }

    /// How long connect() took.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.end_ns.saturating_sub(self.start_ns))
    }
}

/// Prints an event of this instant.
pub(crate) fn tell(event: Event) -> Result<(), TestpodError> {
    Record::now(event).print()
}

/// Prints an event of an instant that has passed.
pub(crate) fn tell_of(mono_ns: u64, event: Event) -> Result<(), TestpodError> {
    Record::at(mono_ns, event).print()
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> u64 {
    // The clock always exists and the pointer is nix's own: there is nothing that can fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_flat_and_read_back() {
        let attempt = Attempt {
            number: 1,
            start_ns: 10,
            end_ns: 40,
            outcome: Attempt::REFUSED.to_owned(),
            status: None,
        };
        let record = Record {
            mono_ns: 40,
            wall: "2026-01-01T00:00:00.000000Z".to_owned(),
            event: Event::Attempt(attempt),
        };
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(
            line,
            r#"{"mono_ns":40,"wall":"2026-01-01T00:00:00.000000Z","event":"attempt","number":1,"start_ns":10,"end_ns":40,"outcome":"ECONNREFUSED"}"#
        );
        let log = format!("holdfast: a word of somebody else\n{line}\n{{\"event\":\"other\"}}\n");
        assert_eq!(Record::all(&log), [record]);
    }

    #[test]
    fn the_wall_clock_tells_the_same_instant_as_the_monotonic_one() {
        let second = 1_000_000_000;
        let later = now();
        let wall = |ns| {
            let record = Record::at(ns, Event::ProxyReady);
            humantime::parse_rfc3339(&record.wall).unwrap()
        };
        let apart = wall(later).duration_since(wall(later - 10 * second)).unwrap();
        // Two readings of two clocks: apart by what the machine does between them.
        assert!((9..=11).contains(&apart.as_secs()), "{apart:?}");
    }
}
