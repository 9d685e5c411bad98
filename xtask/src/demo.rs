//! `cargo xtask demo`: builds the agent and the testbed as users run them, and shows both.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    console,
    setup::{self, Scope},
    workspace::{self, Workspace},
};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Options of the demo itself: --json, --trials N, --proxy-delay SECONDS.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "DEMO OPTIONS")]
    options: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, args: Args) -> Result<()> {
    let Args { options } = args;
    workspace::require_root("demo")?;
    setup::ensure(workspace, Scope::Demo)?;
    console::headline("build");
    console::run_visible(workspace.cargo().args([
        "build",
        "--release",
        "-p",
        "holdfast",
        "-p",
        "testbed",
        "--bins",
    ]))?;
    let release = workspace.target.join("release");
    let demo = release.join("holdfast-demo");
    console::headline("demo");
    // Replaced by it, so that signals and its exit status need no passing on.
    let error = Command::new(&demo)
        .arg("--agent")
        .arg(release.join("holdfast"))
        .args(options)
        .current_dir(&workspace.root)
        .exec();
    Err(error).with_context(|| format!("run {}", demo.display()))
}
