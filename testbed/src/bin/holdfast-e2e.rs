//! `cargo xtask e2e`, once everything is built.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use testbed::{
    agent_binary,
    e2e::{
        Report,
        cluster::{self, ClusterError, Options, Outcome},
        node,
    },
    interrupt::{INTERRUPTED, Interrupt, clean_up_when_interrupted},
};

/// The cluster cannot be reached (`EX_UNAVAILABLE` of sysexits.h, as the agent uses it).
const UNAVAILABLE: u8 = 69;

/// Exit codes.
const EXIT_CODES: &str = "\
Exit codes: 0 all cases hold, 1 one does not, or something else has failed, 69 the cluster cannot be
reached, 130 interrupted.";

/// Makes pods whose proxies come late, and shows what becomes of their connects under holdfast.
///
/// On a cluster it applies the manifest, waits for the agents, makes namespaces of its own with pods
/// of holdfast's own image, and removes all of it again. Without --kubeconfig it plays the same cases
/// on a node of the testbed (needs root).
#[derive(Parser)]
#[command(name = "holdfast-e2e", after_help = EXIT_CODES)]
struct Args {
    /// The cluster to use.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context to use [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// Play on a node of the testbed.
    #[arg(long, conflicts_with = "kubeconfig")]
    testbed: bool,
    /// How to bring the image to the cluster's node: a shell command in which {} stands for the
    /// archive's path; without {} it gets the archive on its standard input. Such as "ctr -n k8s.io
    /// images import {}" or "kind load image-archive {}".
    #[arg(long, value_name = "COMMAND", requires = "kubeconfig", requires = "image_archive")]
    image_import: Option<String>,
    /// The image's archive; `cargo xtask e2e` builds and names it.
    #[arg(long, value_name = "FILE")]
    image_archive: Option<PathBuf>,
    /// The image, if it is another than the manifest's.
    #[arg(long, value_name = "REFERENCE", requires = "kubeconfig")]
    image: Option<String>,
    /// What to apply.
    #[arg(long, value_name = "FILE", default_value = "deploy/holdfast.yaml")]
    manifest: PathBuf,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// Leave everything on the cluster, the cases' pods too; the next run takes it over.
    #[arg(long, requires = "kubeconfig")]
    keep: bool,
    /// How long the rollout, and each case, may take.
    #[arg(long, value_name = "DURATION", default_value = "3m",
          value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The holdfast binary, for the testbed [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("holdfast-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    match &args.kubeconfig {
        Some(kubeconfig) => on_cluster(args, kubeconfig.clone()),
        None => on_testbed(args),
    }
}

fn on_testbed(args: &Args) -> Result<ExitCode> {
    clean_up_when_interrupted("holdfast-e2e")?;
    let agent = agent_binary(args.agent.clone())?;
    let report = node::run(&agent)?;
    show(args, &report)?;
    Ok(verdict(&report))
}

fn on_cluster(args: &Args, kubeconfig: PathBuf) -> Result<ExitCode> {
    let options = Options {
        kubeconfig,
        context: args.context.clone(),
        import: args.image_import.clone().zip(args.image_archive.clone()),
        image: args.image.clone(),
        manifest: args.manifest.clone(),
        keep: args.keep,
        timeout: args.timeout,
    };
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let Outcome { report, left } = runtime.block_on(async {
        let mut interrupt = Interrupt::watch()?;
        let outcome = cluster::run(&options, async || interrupt.wait().await).await;
        Ok::<_, anyhow::Error>(outcome)
    })?;
    for what in &left {
        eprintln!("holdfast-e2e: not removed: {what}");
    }
    match report {
        Ok(report) => {
            show(args, &report)?;
            let code = verdict(&report);
            Ok(if left.is_empty() { code } else { ExitCode::FAILURE })
        }
        Err(error) => {
            eprintln!("holdfast-e2e: {error}");
            Ok(match error {
                ClusterError::Interrupted => ExitCode::from(INTERRUPTED),
                error if error.is_unreachable() => ExitCode::from(UNAVAILABLE),
                _ => ExitCode::FAILURE,
            })
        }
    }
}

fn show(args: &Args, report: &Report) -> Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        let line = serde_json::to_string(report).context("write the report")?;
        writeln!(out, "{line}")
    } else {
        report.write_table(&mut out)
    }
    .context("write to standard output")
}

fn verdict(report: &Report) -> ExitCode {
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
