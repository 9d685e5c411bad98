//! What the node says of the agent and of itself.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use clap::{Args as _, Command, FromArgMatches as _};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{check, cli::CheckArgs, command::terminal::Style};

/// The variables that are options. No others are looked at: they may be anybody's secrets.
const PREFIX: &str = "HOLDFAST_";
const NODE_NAME: &str = "NODE_NAME";

/// The file systems that matter.
const MOUNTS: [&str; 3] = ["cgroup", "cgroup2", "bpf"];

/// Each file's name and content. `pid`: the agent's.
pub(super) fn files(pid: u32) -> Vec<(&'static str, io::Result<Vec<u8>>)> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    vec![
        ("agent/options.json", options(&process)),
        ("agent/process/status.txt", fs::read(process.join("status"))),
        ("agent/process/limits.txt", fs::read(process.join("limits"))),
        ("agent/process/descriptors.json", descriptors(&process)),
        ("node/kernel.txt", fs::read("/proc/version")),
        ("node/mounts.txt", mounts(&process)),
        ("node/check.txt", checked()),
    ]
}

/// The agent's command line, and the variables that are options.
fn options(process: &Path) -> io::Result<Vec<u8>> {
    let words = |text: Vec<u8>| {
        let words = text.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()
    };
    let arguments = words(fs::read(process.join("cmdline"))?);
    let mut variables = words(fs::read(process.join("environ"))?);
    variables.retain(|variable| {
        let name = variable.split('=').next().unwrap_or_default();
        name.starts_with(PREFIX) || name == NODE_NAME
    });
    variables.sort();
    pretty(&json!({ "arguments": arguments, "variables": variables }))
}

/// How many descriptors of which kind.
fn descriptors(process: &Path) -> io::Result<Vec<u8>> {
    let mut kinds = BTreeMap::<String, usize>::new();
    for entry in fs::read_dir(process.join("fd"))?.flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        // `socket:[123]`, `anon_inode:bpf-map`, or a path.
        let kind = match target.split_once(":[") {
            _ if target.starts_with('/') => "file",
            Some((kind, _)) => kind,
            None => &target,
        };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    pretty(&json!({ "open": kinds.values().sum::<usize>(), "kinds": kinds }))
}

fn mounts(process: &Path) -> io::Result<Vec<u8>> {
    let all = fs::read_to_string(process.join("mounts"))?;
    let wanted = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| MOUNTS.contains(&kind));
    let mut lines = all.lines().filter(wanted).collect::<Vec<_>>().join("\n");
    lines.push('\n');
    Ok(lines.into_bytes())
}

/// What `holdfast check` says with the variables that there are here.
fn checked() -> io::Result<Vec<u8>> {
    let command = CheckArgs::augment_args(Command::new("check"));
    let args = command
        .try_get_matches_from(["check"])
        .and_then(|found| CheckArgs::from_arg_matches(&found))
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error.kind().to_string()))?;
    let runtime = Runtime::new()?;
    let report = runtime.block_on(check::run(args));
    // A check that hangs has been told of.
    runtime.shutdown_background();
    Ok(report.table(Style::PLAIN).into_bytes())
}

fn pretty(value: &serde_json::Value) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(value)?)
}
