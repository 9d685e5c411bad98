//! What a process takes of its machine.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use super::Process;

/// A process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Its memory in KiB.
    pub rss_kib: u64,
    /// Of it what no file is behind: heap and stacks, not the program itself.
    pub anonymous_kib: u64,
    /// The most that its memory ever was.
    pub peak_rss_kib: u64,
    /// Its threads.
    pub threads: u64,
    /// Processor time of all its threads since its start.
    pub cpu: Duration,
}

impl Process {
    /// What it takes now.
    pub fn usage(&self) -> Result<Usage> {
        let of = || format!("read what process {} takes", self.pid());
        let pid = i32::try_from(self.pid()).with_context(of)?;
        let status = procfs::process::Process::new(pid)
            .and_then(|process| process.status())
            .with_context(of)?;
        // Exact to the nanosecond, where /proc counts in hundredths of a second.
        let cpu = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).and_then(clock_gettime);
        Ok(Usage {
            rss_kib: status.vmrss.with_context(of)?,
            anonymous_kib: status.rssanon.with_context(of)?,
            peak_rss_kib: status.vmhwm.with_context(of)?,
            threads: status.threads,
            cpu: cpu.with_context(of)?.into(),
        })
    }
}
