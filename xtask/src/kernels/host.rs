//! The tests on this machine's own kernel.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Tests,
    machine::{self, Process},
    verdict,
};

/// Runs the tests and returns their output, in the form of a virtual machine's console.
pub(crate) fn run(binary: &Path, tests: Tests, timeout: Duration, log: &Path) -> Result<String> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(RELEASE).with_context(|| format!("read {RELEASE}"))?;
    let mut command = Command::new(binary);
    command
        .args(verdict::TEST_OPTIONS)
        .args(tests.filter())
        .envs(tests.variables().iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let start = Instant::now();
    let mut process = Process::start(&mut command)?;
    let output = machine::follow(&mut process, start + timeout, log)?;
    // What has closed its output without ending is killed when it is dropped.
    let status = match process.ended()? {
        Some(status) => status.code().unwrap_or(1),
        None => verdict::OUT_OF_TIME,
    };
    Ok(verdict::console(&release, &output, status))
}
