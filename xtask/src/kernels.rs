//! `cargo xtask kernels`: the kernel tests on every supported kernel, and which feature works where.
//!
//! A kernel of Debian boots under qemu's software emulation, with a memory file system that holds
//! busybox and the statically linked test binary, runs the tests and switches off. The same binary
//! runs on this machine's own kernel, if root has started it.

mod cpio;
mod host;
mod machine;
mod matrix;
mod record;
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
use serde_json::{Value, json};

use crate::{
    console, elf,
    setup::{self, Scope},
    workspace::{self, Workspace},
};

pub(crate) use releases::{Kernel, RELEASES, Release};
use verdict::{Cost, Verdict};

/// Package and integration test that make up the binary.
const PACKAGE: &str = "holdfast";
const TEST: &str = "kernel";

/// Process 1 of the machines.
const INIT: &[u8] = include_bytes!("kernels/init.sh");

/// Mount points, and where busybox puts its commands.
const DIRECTORIES: [&str; 5] = ["bin", "dev", "proc", "sys", "tmp"];

/// How long the tests may take on one kernel, in case they hang: with nothing else to do, two cores
/// have done all kernels in half of it.
const DEFAULT_TIMEOUT_SECONDS: u64 = 1_200;

/// The tests wait for retransmissions and deadlines most of the time: a machine needs a third of a
/// core.
const JOBS_PER_CORE: usize = 2;

/// Options of `cargo xtask kernels`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this kernel, such as 5.10; may be repeated.
    #[arg(long = "kernel", value_name = "VERSION", value_parser = Kernel::parse)]
    kernels: Vec<Kernel>,
    /// How many kernels are tried at the same time [default: two per core].
    #[arg(long)]
    jobs: Option<usize>,
    /// Seconds that the tests may take on one kernel.
    #[arg(long, default_value_t = DEFAULT_TIMEOUT_SECONDS)]
    timeout: u64,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// Only measure what the programs cost, and write it down for later runs to compare with.
    #[arg(long, conflicts_with = "json")]
    record: bool,
}

/// Which tests run, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tests {
    /// All.
    All,
    /// Those that measure the programs, without a judgement.
    Record,
}

/// What one kernel left behind.
struct Outcome {
    kernel: Kernel,
    verdict: Verdict,
    console: String,
    log: PathBuf,
    duration: Duration,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let Args { kernels, jobs, timeout, json, record } = args;
    // The images are Debian's for amd64, and the test binary is built for the host.
    ensure!(cfg!(target_arch = "x86_64"), "the kernel tests need an x86_64 machine to build on");
    setup::ensure(workspace, Scope::Tests)?;
    console::headline("kernels");
    let kernels = chosen(workspace, kernels)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = jobs.unwrap_or(cores * JOBS_PER_CORE).clamp(1, kernels.len());

    let binary = console::step("building the tests as a static binary", || build_test(workspace))?;
    let initramfs = workspace.log("kernels/initramfs.cpio")?;
    fs::write(&initramfs, archive(&binary)?)
        .with_context(|| format!("write {}", initramfs.display()))?;

    let bench = Bench {
        workspace,
        binary,
        initramfs,
        tests: if *record { Tests::Record } else { Tests::All },
        timeout: Duration::from_secs(*timeout),
    };
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || -> Result<()> {
        while let Some(&kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = bench.try_kernel(kernel)?;
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
    // This machine's own last, as in the documents.
    outcomes.sort_by_key(|outcome| match outcome.kernel {
        Kernel::Of(release) => RELEASES.iter().position(|it| *it == release),
        Kernel::Host => Some(RELEASES.len()),
    });
    if *record {
        return record_all(workspace, &outcomes, args.kernels.is_empty());
    }
    report(&outcomes, *json)
}

/// The kernels that were asked for, or all that can be had.
fn chosen(workspace: &Workspace, asked: &[Kernel]) -> Result<Vec<Kernel>> {
    let is_usable = |kernel: Kernel| match kernel {
        Kernel::Host => workspace::is_root(),
        Kernel::Of(release) => release.image(workspace).is_file(),
    };
    if let Some(kernel) = asked.iter().copied().find(|kernel| !is_usable(*kernel)) {
        bail!("--kernel {}: {}", kernel.name(), why_not(kernel));
    }
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    let (usable, others): (Vec<_>, Vec<_>) = Kernel::all().partition(|kernel| is_usable(*kernel));
    for kernel in others {
        console::line(&format!("left out: {} ({})", kernel.name(), why_not(kernel)));
    }
    ensure!(!usable.is_empty(), "there is no kernel to try");
    Ok(usable)
}

const fn why_not(kernel: Kernel) -> &'static str {
    match kernel {
        Kernel::Host => "tests on this machine's own kernel need root",
        Kernel::Of(_) => "it could not be downloaded; target/setup/setup.log says why",
    }
}

/// What all kernels are tried with.
struct Bench<'a> {
    workspace: &'a Workspace,
    binary: PathBuf,
    initramfs: PathBuf,
    tests: Tests,
    timeout: Duration,
}

// === impl Bench ===

impl Bench<'_> {
    /// Runs the tests on one kernel and judges what they say.
    fn try_kernel(&self, kernel: Kernel) -> Result<Outcome> {
        let Self { workspace, binary, initramfs, tests, timeout } = self;
        let name = kernel.name();
        console::line(&format!("Linux {name} begins"));
        let log = workspace.log(&format!("kernels/{name}.log"))?;
        let start = Instant::now();
        let console = match kernel {
            Kernel::Host => host::run(binary, *tests, *timeout, &log)?,
            Kernel::Of(release) => {
                machine::boot(&release.image(workspace), initramfs, *tests, *timeout, &log)?
            }
        };
        let verdict = verdict::judge(&console);
        let duration = start.elapsed();
        let ending = if verdict.failure.is_none() { "passed" } else { "failed" };
        console::line(&format!("Linux {name} {ending} after {}", console::seconds(duration)));
        Ok(Outcome { kernel, verdict, console, log, duration })
    }
}

// === impl Tests ===

impl Tests {
    /// By which name the tests are chosen.
    const fn filter(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Record => Some("cost::"),
        }
    }

    /// What they find in their environment.
    const fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::All => &[],
            Self::Record => &[("HOLDFAST_RECORD", "1")],
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// The head of its column: by which version it is known, and why that one is there.
    fn label(&self) -> String {
        let version = record::version(&self.verdict.kernel);
        match self.kernel {
            Kernel::Host => format!("{version} (host)"),
            Kernel::Of(Release { moves: true, name, .. }) => format!("{version} ({name})"),
            Kernel::Of(release) => release.name.to_owned(),
        }
    }

    /// As programs read it.
    fn json(&self, label: &str) -> Value {
        let Self { kernel: _, verdict, console: _, log: _, duration } = self;
        let program = |cost: &Cost| {
            let Cost { instructions, verified, peak_states, verifier_us } = *cost;
            json!({
                "instructions": instructions,
                "verified": verified,
                "peak_states": peak_states,
                "verifier_us": verifier_us,
            })
        };
        let programs: serde_json::Map<_, _> =
            verdict.costs.iter().map(|(name, cost)| (name.clone(), program(cost))).collect();
        json!({
            "kernel": label,
            "release": verdict.kernel,
            "passed": verdict.passed,
            "failed": verdict.failed,
            "failure": verdict.failure,
            "seconds": duration.as_secs_f64(),
            "programs": programs,
        })
    }
}

fn record_all(workspace: &Workspace, outcomes: &[Outcome], anew: bool) -> Result<()> {
    show_failures(outcomes)?;
    let verdicts: Vec<&Verdict> = outcomes.iter().map(|outcome| &outcome.verdict).collect();
    show_costs(outcomes);
    record::write(workspace, &verdicts, anew)
}

/// Prints the tables, and for failed kernels what their tests said.
fn report(outcomes: &[Outcome], json: bool) -> Result<()> {
    let failures = show_failures(outcomes);
    let labels: Vec<String> = outcomes.iter().map(Outcome::label).collect();
    let verdicts: Vec<&Verdict> = outcomes.iter().map(|outcome| &outcome.verdict).collect();
    let rows = matrix::rows(&verdicts);

    show_costs(outcomes);
    console::headline("features");
    let header = |first: &str| -> Vec<String> {
        [first.to_owned()].into_iter().chain(labels.iter().cloned()).collect()
    };
    let cells: Vec<Vec<String>> = rows.iter().map(matrix::Row::text).collect();
    for line in matrix::table(&header("feature"), &cells) {
        console::line(&line);
    }
    console::headline("kernels");
    console::line(&format!("{:<28} {:>6} {:>6} {:>8}", "kernel", "passed", "failed", "seconds"));
    for Outcome { verdict, duration, .. } in outcomes {
        let Verdict { kernel, passed, failed, failure, .. } = verdict;
        let row = format!(
            "{kernel:<28} {passed:>6} {failed:>6} {:>8.1}  {}",
            duration.as_secs_f64(),
            failure.as_deref().unwrap_or_default()
        );
        console::line(row.trim_end());
    }
    if json {
        let kernels: Vec<Value> =
            outcomes.iter().zip(&labels).map(|(outcome, label)| outcome.json(label)).collect();
        let features: Vec<Value> = rows.iter().map(|row| row.json(&labels)).collect();
        console::result(&json!({"kernels": kernels, "features": features}))?;
    }
    failures?;
    let gaps = matrix::gaps(&verdicts, &labels);
    ensure!(gaps.is_empty(), "the matrix has gaps:\n  {}", gaps.join("\n  "));
    Ok(())
}

/// What the tests of failed kernels said.
fn show_failures(outcomes: &[Outcome]) -> Result<()> {
    let mut failures = 0;
    for Outcome { kernel, verdict, console, log, duration: _ } in outcomes {
        let Some(failure) = &verdict.failure else { continue };
        failures += 1;
        console::headline(&format!("Linux {}: {failure}", kernel.name()));
        for line in verdict::test_output(console).lines() {
            console::line(line);
        }
        console::line(&format!("(all of it: {})", log.display()));
    }
    ensure!(failures == 0, "the tests failed on {failures} of {} kernels", outcomes.len());
    Ok(())
}

/// Instructions and verified instructions of each program, and the verifier's time, which depends on
/// the machine and is judged by nobody.
fn show_costs(outcomes: &[Outcome]) {
    console::headline("programs: instructions/verified");
    let labels = outcomes.iter().map(Outcome::label);
    let header: Vec<String> = ["program".to_owned()].into_iter().chain(labels).collect();
    let mut names: Vec<&String> =
        outcomes.iter().flat_map(|outcome| outcome.verdict.costs.keys()).collect();
    names.sort();
    names.dedup();
    let row = |first: &str, cell: &dyn Fn(&Verdict) -> String| -> Vec<String> {
        let cells = outcomes.iter().map(|outcome| cell(&outcome.verdict));
        [first.to_owned()].into_iter().chain(cells).collect()
    };
    let mut rows: Vec<Vec<String>> = names
        .into_iter()
        .map(|name| {
            row(name, &|verdict| match verdict.costs.get(name) {
                Some(Cost { instructions, verified, .. }) => format!("{instructions}/{verified}"),
                None => "-".into(),
            })
        })
        .collect();
    rows.push(row("verifier's time", &|verdict| {
        let micros: u32 = verdict.costs.values().map(|cost| cost.verifier_us).sum();
        format!("{:.1} ms", f64::from(micros) / 1_000.0)
    }));
    for line in matrix::table(&header, &rows) {
        console::line(&line);
    }
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
        Self {
            kernels: Vec::new(),
            jobs: None,
            timeout: DEFAULT_TIMEOUT_SECONDS,
            json: false,
            record: false,
        }
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
