//! `cargo xtask test`: everything that has to pass.

use std::time::Instant;

use anyhow::Result;

use crate::{
    chart, console, fuzz, kernels, miri,
    setup::{self, Scope},
    workspace::{self, Workspace},
};

/// The tests wait for timeouts of the kernel far more than they compute, so more of them than
/// there are cores run at once; many more would disturb each other's measurements.
const DEFAULT_THREADS: usize = 4;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many tests of one binary run at the same time.
    #[arg(long, default_value_t = DEFAULT_THREADS)]
    test_threads: usize,
    /// Leave out the virtual machines with other kernels.
    #[arg(long)]
    no_kernels: bool,
    /// Only tests whose names contain this.
    filter: Option<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let Args { test_threads, no_kernels, filter } = args;
    workspace::require_root("test")?;
    let start = Instant::now();
    let mut stages = Vec::new();
    let mut stage = |name: &'static str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let start = Instant::now();
        work()?;
        stages.push((name, console::seconds(start.elapsed())));
        Ok(())
    };

    stage("setup", &mut || setup::ensure(workspace, Scope::Tests))?;
    // The tests start these programs; cargo builds them for `test` only in their own packages.
    stage("build", &mut || {
        console::headline("build");
        console::run_visible(workspace.cargo().args(["build", "--workspace", "--bins"]))
    })?;
    stage("tests", &mut || {
        console::headline("tests");
        let mut command = workspace.cargo();
        command.args(["test", "--workspace"]).args(filter).arg("--");
        command.arg(format!("--test-threads={test_threads}"));
        console::run_visible(&mut command)
    })?;
    // They have no names that a filter could choose.
    if filter.is_none() {
        stage("bytes", &mut || miri::run_or_sanitize(workspace))?;
        stage("fuzz", &mut || fuzz::run(workspace, &fuzz::Args::of_tests()))?;
        stage("chart", &mut || chart::check(workspace))?;
    }
    if !no_kernels {
        stage("kernels", &mut || kernels::run(workspace, &kernels::Args::all()))?;
    }

    console::headline(&format!("all passed in {}", console::seconds(start.elapsed())));
    console::table(stages.iter().map(|(name, duration)| (*name, duration.as_str())));
    Ok(())
}
