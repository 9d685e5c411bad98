//! `cargo xtask demo`, `bench` and `faults`: build the agent and the testbed as users run them,
//! and have a program of the testbed show what they do.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    console, image,
    setup::{self, Scope},
    workspace::{self, Workspace},
};

/// The demo's option that names where the node page is kept.
const PAGE: &str = "--page";

/// The option of fault suite and benchmarks that runs nothing.
const LIST: &str = "--list";

/// The benchmarks' option that only shows, or writes, what an earlier run has measured.
const FROM: &str = "--from";

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Options of the demo itself: --json, --trials N, --proxy-delay SECONDS, --page FILE.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "DEMO OPTIONS")]
    options: Vec<OsString>,
}

/// Options of `cargo xtask faults`.
#[derive(clap::Args)]
pub(crate) struct FaultsArgs {
    /// Options of the suite itself: --json, --bounded, --seed N, --list, --write FILE, or names of
    /// faults.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// Options of the benchmarks themselves: --json FILE, --write, --from FILE, --runs N, --quick,
    /// --record, --list, or names of parts.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, args: Args) -> Result<()> {
    let mut options = args.options;
    if !has(&options, PAGE) {
        options.push(PAGE.into());
        options.push(shown(workspace, &workspace.target.join("demo/node.html")).into());
    }
    show(workspace, "demo", "holdfast-demo", options, release_agent)
}

pub(crate) fn faults(workspace: &Workspace, args: FaultsArgs) -> Result<()> {
    let program = "holdfast-faults";
    if has(&args.options, LIST) {
        return tell(workspace, program, args.options);
    }
    show(workspace, "faults", program, args.options, release_agent)
}

pub(crate) fn bench(workspace: &Workspace, args: BenchArgs) -> Result<()> {
    let program = "holdfast-bench";
    if has(&args.options, LIST) || has(&args.options, FROM) {
        return tell(workspace, program, args.options);
    }
    show(workspace, "bench", program, args.options, shipped_agent)
}

/// Whether an option is given, as `--option` or as `--option=value`.
fn has(options: &[OsString], name: &str) -> bool {
    let name = name.as_bytes();
    options.iter().any(|option| {
        let rest = option.as_encoded_bytes().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
    })
}

/// Runs a program for its words alone: no agent has to be built, and nothing has to be fast.
fn tell(workspace: &Workspace, program: &str, options: Vec<OsString>) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "-p", "testbed", "--bin", program, "--"]);
    console::run_visible(command.args(options))
}

/// A path as a person in the checkout, where the program runs, types it.
fn shown(workspace: &Workspace, path: &Path) -> PathBuf {
    path.strip_prefix(&workspace.root).unwrap_or(path).to_owned()
}

fn show(
    workspace: &Workspace,
    command: &'static str,
    program: &str,
    options: Vec<OsString>,
    build: impl FnOnce(&Workspace) -> Result<PathBuf>,
) -> Result<()> {
    workspace::require_root(command)?;
    setup::ensure(workspace, Scope::Demo)?;
    console::headline("build");
    let agent = build(workspace)?;
    let program = workspace.target.join("release").join(program);
    console::headline(command);
    // Replaced by it, so that signals and its exit status need no passing on.
    let error = Command::new(&program)
        .arg("--agent")
        .arg(agent)
        .args(options)
        .current_dir(&workspace.root)
        .exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

/// Agent and testbed, optimized.
fn release_agent(workspace: &Workspace) -> Result<PathBuf> {
    release(workspace, &["-p", "holdfast", "-p", "testbed"])?;
    Ok(workspace.target.join("release/holdfast"))
}

/// The testbed, optimized, and the agent that ships: memory and the time of a start depend on how it is
/// built.
fn shipped_agent(workspace: &Workspace) -> Result<PathBuf> {
    release(workspace, &["-p", "testbed"])?;
    image::binary(workspace)
}

fn release(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    console::run_visible(workspace.cargo().args(["build", "--release", "--bins"]).args(packages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_with_its_value_or_without() {
        let options = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(has(&options(&["a", "--from", "b"]), FROM));
        assert!(has(&options(&["--from=b"]), FROM));
        assert!(!has(&options(&["--fromage", "from"]), FROM));
    }
}
