//! `cargo xtask chart`: `deploy/holdfast.yaml` from the Helm chart, and the tests of both.
//!
//! Debian has no Helm, but there is its engine as a Python library; so the tests are in Python.

use anyhow::Result;

use crate::{
    console,
    setup::{self, Scope},
    workspace::Workspace,
};

/// Writes the manifest, or says how it differs.
const RENDER: &str = "deploy/tests/chart.py";
const TESTS: &str = "deploy/tests";

/// Options of `cargo xtask chart`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail if the manifest is not the chart's, then run the tests of both.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let Args { check: only_check } = *args;
    setup::ensure(workspace, Scope::Tests)?;
    if only_check {
        console::headline("build");
        console::run_visible(workspace.cargo().args(["build", "--package", "holdfast"]))?;
        return check(workspace);
    }
    console::headline("render the chart");
    console::run_visible(setup::chart::python(workspace)?.arg(RENDER))
}

/// The checks, for which the agent has been built and everything been installed.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    console::headline("chart");
    console::run_visible(setup::chart::python(workspace)?.args([RENDER, "--check"]))?;
    console::run_visible(
        setup::chart::python(workspace)?
            .args(["-m", "unittest", "discover", "--start-directory", TESTS])
            // Its options, and what it says, are compared with the manifests.
            .env("HOLDFAST_BINARY", workspace.target.join("debug/holdfast")),
    )
}
