//! The fault suite: what must not refuse a connection, and must not keep one waiting past its
//! deadline.
//!
//! Each [`Fault`] breaks something while real applications start, and counts what became of their
//! connects. A trial is one connect that holdfast has to keep waiting, unless the fault says
//! otherwise.

mod agent;
mod api;
mod churn;
mod footprint;
mod report;
mod resources;
mod start;
mod tally;
mod tenant;
mod upgrade;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::tally::{Due, Tally};

pub use self::report::{Report, Row, replace_in, rows_in};
use crate::{
    AgentOptions, Node, Process,
    light::{self, ENABLED, NAMESPACE, SOON, node},
};

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name in the table.
    pub name: &'static str,
    /// What is done, and what counts as a trial if that is not one connect.
    pub what: &'static str,
    /// How many trials.
    pub trials: Trials,
    run: fn(&Run, &mut Tally) -> Result<()>,
}

/// How many trials a fault has. A fault may end with some more, to finish what it has begun.
#[derive(Clone, Copy, Debug)]
pub struct Trials {
    /// As part of every test run.
    pub bounded: u32,
    /// By `cargo xtask faults`.
    pub full: u32,
}

/// How a fault is run.
#[derive(Debug)]
struct Run {
    /// The agent under test.
    binary: PathBuf,
    /// With all trials, or as part of a test run.
    full: bool,
    /// From which everything random comes.
    seed: u64,
    trials: u32,
}

/// All faults, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    [
        agent::FAULTS,
        upgrade::FAULTS,
        api::FAULTS,
        churn::FAULTS,
        resources::maps::FAULTS,
        resources::process::FAULTS,
        resources::files::FAULTS,
        resources::takeover::FAULTS,
        tenant::FAULTS,
    ]
    .into_iter()
    .flatten()
}

// === impl Fault ===

impl Fault {
    /// Runs it. The row says what became of the connects.
    ///
    /// # Errors
    ///
    /// If the fault could not be made, or something else than the connects was not as it has to be.
    pub fn run(&self, binary: &Path, full: bool, seed: u64) -> Result<Row> {
        let trials = if full { self.trials.full } else { self.trials.bounded };
        let run = Run { binary: binary.to_owned(), full, seed, trials };
        let mut tally = Tally::default();
        (self.run)(&run, &mut tally)
            .with_context(|| format!("fault {:?}, seed {seed}", self.name))?;
        Ok(tally.into_row(self.name))
    }
}

// === impl Run ===

impl Run {
    /// How many trials it is to make.
    fn trials(&self) -> u32 {
        self.trials
    }

    /// The source of everything random; a fault that needs several gives each its own `stream`.
    fn random(&self, stream: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The agent as a DaemonSet runs it: another one follows.
    fn agent(&self) -> AgentOptions {
        AgentOptions::new(&self.binary).log_level("info").arg("--on-exit").arg("keep")
    }
}

/// Waits until nothing is left of what `left` finds; `what` says so otherwise.
fn nothing_left<T: std::fmt::Debug>(what: &str, left: impl Fn() -> Result<Vec<T>>) -> Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + SOON;
    loop {
        let left = left()?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{what}: {left:?}");
        thread::sleep(LOOK_EVERY);
    }
}

/// The second container of the agent's pod, as far as it is to be before an agent may end.
fn sentry(node: &Node, options: &AgentOptions) -> Result<Process> {
    let sentry = node.start_sentry(options)?;
    sentry.wait_log(SOON, |line| line["message"] == "waiting for an agent to end")?;
    Ok(sentry)
}
