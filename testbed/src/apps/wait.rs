//! Applications that wait for their proxy by themselves.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;

use super::testbed_app;
use crate::process::Command;

/// A process that asks the proxy whether it is ready, or boots, or dials, or all of them; becomes a
/// [`Command`]. Prints `started` with its moment, `waited` once the proxy has said that it is ready, then as
/// [`super::connect`].
#[derive(Clone, Debug)]
pub struct Waiter {
    command: Command,
}

/// One that does nothing yet.
pub fn waiter() -> Result<Waiter> {
    Ok(Waiter { command: testbed_app()?.arg("wait") })
}

impl Waiter {
    fn option(mut self, name: &str, value: &dyn ToString) -> Self {
        self.command = self.command.arg(name).arg(value.to_string());
        self
    }

    /// First asks the proxy until it says that it is ready, with this pause after each answer.
    #[must_use]
    pub fn every(self, pause: Duration) -> Self {
        self.option("--every", &pause.as_millis())
    }

    /// First waits for a byte from this named pipe instead of asking.
    #[must_use]
    pub fn until(self, bell: &Path) -> Self {
        self.option("--until", &bell.display())
    }

    /// Does not ask before this moment, in nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn first_at(self, ns: u64) -> Self {
        self.option("--first-at", &ns)
    }

    /// Then boots for so long.
    #[must_use]
    pub fn boot(self, time: Duration) -> Self {
        self.option("--boot", &time.as_millis())
    }

    /// Boots while it waits instead.
    #[must_use]
    pub fn boot_beside(mut self) -> Self {
        self.command = self.command.arg("--boot-beside");
        self
    }

    /// Then dials.
    #[must_use]
    pub fn to(self, to: SocketAddr) -> Self {
        self.option("--to", &to)
    }
}

impl From<Waiter> for Command {
    fn from(waiter: Waiter) -> Self {
        waiter.command
    }
}
