//! `cargo xtask kernels`: the kernel tests on every supported kernel.
//!
//! A kernel of Debian boots under qemu's software emulation, with a memory file system that holds
//! busybox and the statically linked test binary, runs the tests and switches off.

mod cpio;
mod machine;
mod releases;
mod verdict;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    console, elf,
    setup::{self, Scope},
    workspace::Workspace,
};

pub(crate) use releases::{RELEASES, Release};
use verdict::Verdict;

/// Package and integration test that make up the binary.
const PACKAGE: &str = "holdfast";
const TEST: &str = "kernel";

/// Process 1 of the machines.
const INIT: &[u8] = include_bytes!("kernels/init.sh");

/// Mount points, and where busybox puts its commands.
const DIRECTORIES: [&str; 5] = ["bin", "dev", "proc", "sys", "tmp"];

/// How long the tests may take on one kernel: they wait for about a quarter of it.
const DEFAULT_TIMEOUT_SECONDS: u64 = 360;

/// The tests wait for retransmissions and deadlines most of the time: a machine needs a third of a
/// core.
const JOBS_PER_CORE: usize = 2;

/// Options of `cargo xtask kernels`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this kernel, such as 5.10; may be repeated.
    #[arg(long = "kernel", value_name = "VERSION", value_parser = releases::parse)]
    kernels: Vec<Release>,
    /// How many machines run at the same time [default: two per core].
    #[arg(long)]
    jobs: Option<usize>,
    /// Seconds that the tests may take on one kernel.
    #[arg(long, default_value_t = DEFAULT_TIMEOUT_SECONDS)]
    timeout: u64,
}

/// What one kernel's machine left behind.
struct Outcome {
    release: Release,
    verdict: Verdict,
    console: String,
    log: PathBuf,
    duration: Duration,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let Args { kernels, jobs, timeout } = args;
    // The images are Debian's for amd64, and the test binary is built for the host.
    ensure!(cfg!(target_arch = "x86_64"), "the kernel tests need an x86_64 machine to build on");
    setup::ensure(workspace, Scope::Tests)?;
    let releases = if kernels.is_empty() { RELEASES.to_vec() } else { kernels.clone() };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = jobs.unwrap_or(cores * JOBS_PER_CORE).clamp(1, releases.len());

    console::headline("kernels");
    let binary = console::step("building the tests as a static binary", || build_test(workspace))?;
    let initramfs = workspace.log("kernels/initramfs.cpio")?;
    fs::write(&initramfs, archive(&binary)?)
        .with_context(|| format!("write {}", initramfs.display()))?;

    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        while let Some(&release) = releases.get(next.fetch_add(1, Ordering::Relaxed)) {
            console::line(&format!("Linux {} boots", release.version));
            let outcome = try_kernel(workspace, release, &initramfs, *timeout)?;
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("a machine's thread panicked"),
        })
    })?;
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|outcome| RELEASES.iter().position(|it| *it == outcome.release));
    report(&outcomes)
}

/// Boots one kernel and judges its console.
fn try_kernel(
    workspace: &Workspace,
    release: Release,
    initramfs: &Path,
    timeout: u64,
) -> Result<Outcome> {
    let log = workspace.log(&format!("kernels/{}.log", release.version))?;
    let start = Instant::now();
    let timeout = Duration::from_secs(timeout);
    let console = machine::boot(&release.image(workspace), initramfs, timeout, &log)?;
    let verdict = verdict::judge(&console);
    let duration = start.elapsed();
    let ending = if verdict.failure.is_none() { "passed" } else { "failed" };
    console::line(&format!(
        "Linux {} {ending} after {}",
        release.version,
        console::seconds(duration)
    ));
    Ok(Outcome { release, verdict, console, log, duration })
}

/// Prints the table, and for failed kernels what their tests said.
fn report(outcomes: &[Outcome]) -> Result<()> {
    for Outcome { release, verdict, console, log, duration: _ } in outcomes {
        if let Some(failure) = &verdict.failure {
            console::headline(&format!("Linux {}: {failure}", release.version));
            for line in verdict::test_output(console).lines() {
                console::line(line);
            }
            console::line(&format!("(all of it: {})", log.display()));
        }
    }
    console::headline("kernels");
    console::line(&format!("{:<28} {:>6} {:>6} {:>8}", "kernel", "passed", "failed", "seconds"));
    for Outcome { verdict, duration, .. } in outcomes {
        let Verdict { kernel, passed, failed, failure } = verdict;
        let row = format!(
            "{kernel:<28} {passed:>6} {failed:>6} {:>8.1}  {}",
            duration.as_secs_f64(),
            failure.as_deref().unwrap_or_default()
        );
        console::line(row.trim_end());
    }
    let failures = outcomes.iter().filter(|outcome| outcome.verdict.failure.is_some()).count();
    if failures > 0 {
        bail!("the tests failed on {failures} of {} kernels", outcomes.len());
    }
    Ok(())
}

/// Builds the integration test so that it runs where no library is.
fn build_test(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args(["rustc", "--quiet", "--package", PACKAGE, "--test", TEST])
        .args(["--message-format=json-render-diagnostics", "--"])
        // For the last crate alone: rlibs, the standard library among them, serve both ways of
        // linking, so that nothing else is built again.
        .args(["-Ctarget-feature=+crt-static", "-Cstrip=debuginfo"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("run cargo rustc")?;
    if !output.status.success() {
        bail!("cargo rustc --test {TEST}: {}", output.status);
    }
    let built = executable(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("cargo built no test {TEST}"))?;
    ensure!(elf::is_static(&built), "{} is linked dynamically", built.display());
    Ok(built)
}

/// The test's executable, from cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(
        |message| {
            let target = message.get("target")?;
            let is_it = message.get("reason")? == "compiler-artifact"
                && target.get("name")? == TEST
                && target.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
            is_it.then_some(())?;
            Some(PathBuf::from(message.get("executable")?.as_str()?))
        },
    )
}

/// The machines' first and only file system.
fn archive(test: &Path) -> Result<Vec<u8>> {
    let busybox = setup::static_busybox().context("no static busybox")?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = cpio::Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    archive.console();
    archive.executable("init", INIT);
    archive.executable("bin/busybox", &read(&busybox)?);
    archive.executable("kernel-tests", &read(test)?);
    Ok(archive.finish())
}

// === impl Args ===

impl Args {
    /// Every kernel, as `cargo xtask test` runs them.
    pub(crate) fn all() -> Self {
        Self { kernels: Vec::new(), jobs: None, timeout: DEFAULT_TIMEOUT_SECONDS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"holdfast"},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"kernel"},"executable":"/t/other"}
            {"reason":"compiler-artifact","target":{"kind":["test"],"name":"kernel"},"executable":"/t/deps/kernel-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/deps/kernel-1")));
        assert_eq!(executable("not JSON\n{}"), None);
    }
}
