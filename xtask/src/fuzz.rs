//! `cargo xtask fuzz`: libFuzzer on every place where foreign bytes come in (`agent/src/fuzzing.rs`).
//!
//! Only holdfast's own crates are instrumented, and the code of others that is compiled into them (all
//! that is generic, such as serde's). So the dependencies are those of any other build, and a stable
//! compiler does: LLVM's pass is asked for by name, in each call of the compiler (`fuzz/wrapper.rs`).

mod output;
pub(crate) mod wrapper;

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::output::Outcome;
use crate::{
    console,
    workspace::{Workspace, find_program},
};

/// How long each target runs, in seconds, unless told otherwise.
const LONG: u64 = 60;

/// The same as a part of all tests for whoever waits for them: twelve targets on two cores take half a
/// minute. The seeds and what is near them are tried in that time.
const SHORT: u64 = 5;

/// An input that takes longer than this many seconds is reported as if it had failed. Far more than
/// any takes on a machine that has much else to do.
const TIMEOUT: u64 = 60;

/// More memory than this, in MiB, is reported as well. The agent's own limit is 32.
const MAX_MEMORY: u64 = 512;

/// The variables that `fuzz/src/main.rs` reads.
const WHICH: &str = "HOLDFAST_FUZZ";
const SEEDS: &str = "HOLDFAST_FUZZ_SEEDS";

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs.
    #[arg(long, default_value_t = LONG)]
    seconds: u64,
    /// Repeats a run; without it each one begins elsewhere.
    #[arg(long)]
    seed: Option<u32>,
    /// Gives one target this file, once, and nothing else: what an earlier run has found.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Only these; without them all.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

// === impl Args ===

impl Args {
    /// As a part of all tests: at length where nobody waits, which CI systems say by `CI`.
    pub(crate) fn of_tests() -> Self {
        let seconds = if std::env::var_os("CI").is_some() { LONG } else { SHORT };
        // The same in each run: a change is judged by itself.
        Self { seconds, seed: Some(1), input: None, targets: Vec::new() }
    }
}

/// `cargo xtask fuzz`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let Args { seconds, seed, input, targets } = args;
    console::headline("fuzz");
    ensure!(
        find_program("c++").is_some(),
        "libFuzzer is C++, and there is no compiler for it: `cargo xtask setup` installs g++"
    );
    let program = build(workspace)?;
    let known = list(&program)?;
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target {unknown}; these are: {}", known.join(", "));
    }
    if let Some(input) = input {
        let [target] = &targets[..] else { bail!("--input wants one target: whose input it is") };
        return console::run_visible(Command::new(&program).env(WHICH, target).arg(input));
    }
    let chosen = if targets.is_empty() { known } else { targets.clone() };
    let seed = seed.unwrap_or_else(|| any_seed(SystemTime::now()));
    let fuzzer =
        Fuzzer { program, directory: workspace.target.join("fuzz"), seconds: *seconds, seed };
    console::line(&format!("{} targets, {seconds} s each, --seed {seed}", chosen.len()));
    let mut outcomes = fuzzer.run_all(&chosen)?;
    outcomes.sort_by(|(a, _), (b, _)| a.cmp(b));
    output::print(&outcomes);
    let broken: Vec<&str> = outcomes
        .iter()
        .filter(|(_, outcome)| !outcome.is_good())
        .map(|(target, _)| target.as_str())
        .collect();
    for target in &broken {
        fuzzer.tell(target)?;
    }
    if broken.is_empty() { Ok(()) } else { bail!("broken: {}", broken.join(", ")) }
}

/// Builds the fuzzers and returns where they are. All packages are named, so that the features of
/// the dependencies, and so their builds, are those of `cargo build --workspace`.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    console::step("build the fuzzers", || {
        let this = own_copy(workspace)?;
        let mut command = workspace.cargo();
        command
            .args(["build", "--workspace", "--bin", "holdfast-fuzz"])
            .args(["--features", "holdfast-fuzz/libfuzzer"])
            .env("RUSTC_WORKSPACE_WRAPPER", this)
            .env(wrapper::WANTED, "1")
            // What is fuzzed runs no eBPF program.
            .env("AYA_BUILD_SKIP", "1");
        console::run_logged(&mut command, &workspace.log("fuzz/build.log")?)
    })?;
    Ok(workspace.target.join("debug/holdfast-fuzz"))
}

/// This program under a name of its own: cargo may have built another one in its place since it was
/// started, as `cargo xtask test` has it do.
fn own_copy(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.target.join("fuzz");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let copy = directory.join("rustc-wrapper");
    fs::copy("/proc/self/exe", &copy).with_context(|| format!("write {}", copy.display()))?;
    Ok(copy)
}

fn list(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program)
        .env(WHICH, "list")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    // libFuzzer tells each time which sanitizers it does without.
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}\n{said}", program.display(), output.status);
    let names = String::from_utf8(output.stdout).context("the fuzzers' names")?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Another one each time; libFuzzer takes 0 for none.
fn any_seed(now: SystemTime) -> u32 {
    let nanos = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).subsec_nanos();
    nanos.max(1)
}

/// How to run a target.
struct Fuzzer {
    program: PathBuf,
    /// Of what is kept from one run to the next: what has been found, for each target.
    directory: PathBuf,
    seconds: u64,
    seed: u32,
}

// === impl Fuzzer ===

impl Fuzzer {
    /// As many at a time as there are processors.
    fn run_all(&self, targets: &[String]) -> Result<Vec<(String, Outcome)>> {
        let left = Mutex::new(targets.iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<Vec<(String, Outcome)>> {
            let mut done = Vec::new();
            while let Some(target) = next() {
                done.push((target.clone(), self.run(target)?));
            }
            Ok(done)
        };
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let mut all = Vec::new();
            for worker in workers {
                all.extend(worker.join().map_err(|_| anyhow::anyhow!("a worker has panicked"))??);
            }
            Ok(all)
        })
    }

    fn run(&self, target: &str) -> Result<Outcome> {
        let (corpus, found) = (self.corpus(target), self.found(target));
        for directory in [&corpus, &found] {
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        let log = self.log(target);
        let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        // A prefix, not a directory: the last character counts.
        let prefix = format!("{}/", found.display());
        let status = Command::new(&self.program)
            .env(WHICH, target)
            .env(SEEDS, &corpus)
            // What would be logged is thrown away, but takes time.
            .env_remove("RUST_LOG")
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MAX_MEMORY}"))
            .arg(format!("-seed={}", self.seed))
            .arg(format!("-artifact_prefix={prefix}"))
            .arg("-print_final_stats=1")
            .arg(&corpus)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .status()
            .with_context(|| format!("run {} on {target}", self.program.display()))?;
        let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        Outcome::read(&String::from_utf8_lossy(&text), status.success())
            .with_context(|| format!("{target}: {status}; {} has the details", log.display()))
    }

    /// How to go on with what was found.
    fn tell(&self, target: &str) -> Result<()> {
        let log = self.log(target);
        let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        console::headline(&format!("{target} is broken"));
        for line in output::panic(&text) {
            console::line(line);
        }
        if let Some(input) = output::artifact(&text) {
            console::line(&format!("again: cargo xtask fuzz {target} --input {input}"));
            console::line(
                "when it is mended, keep it: agent/src/fuzzing/tests.rs has a place for it",
            );
        }
        console::line(&format!("all of it: {}", log.display()));
        Ok(())
    }

    fn corpus(&self, target: &str) -> PathBuf {
        self.directory.join(target).join("corpus")
    }

    fn found(&self, target: &str) -> PathBuf {
        self.directory.join(target).join("found")
    }

    fn log(&self, target: &str) -> PathBuf {
        self.directory.join(target).join("log")
    }
}
