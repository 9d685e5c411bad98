//! `holdfast cleanup`: removes what an agent has left on this node and no agent will take over.

use std::{path::Path, time::Duration};

use tokio::time::sleep;

use crate::{
    bpf::{self, Claim, Standing},
    cli::CleanupArgs,
    cluster::{self, DaemonSetName},
    health::{self, Liveness, Readiness},
    signals::told_to_stop,
};

/// How often a DaemonSet is asked for; its pods take seconds.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Something of an agent cannot be removed: the agent is there.
#[derive(Debug, thiserror::Error)]
#[error(
    "an agent works on this node and removes what is its own when it is uninstalled; nothing was \
     changed"
)]
pub struct AgentRuns;

/// Cleans up, or waits for those that do.
///
/// # Errors
///
/// [`AgentRuns`], or if the directory cannot be removed.
#[expect(clippy::print_stdout, reason = "what was done is the command's result")]
pub async fn run(args: CleanupArgs) -> anyhow::Result<()> {
    if let Some(daemonset) = &args.await_daemonset {
        return await_daemonset(&args, daemonset).await;
    }
    let text = match args.bpffs.clone().or_else(bpf::usual_bpffs) {
        Some(bpffs) => {
            bpf::require_bpffs(&bpffs)?;
            clean(&bpffs, args.skip_if_running)?
        }
        // Without one every program goes with its agent.
        None => "no BPF file system is mounted at /sys/fs/bpf: nothing can be left".to_owned(),
    };
    println!("{text}");
    if args.stay { stay(&args).await } else { Ok(()) }
}

fn clean(bpffs: &Path, skip_if_running: bool) -> anyhow::Result<String> {
    match Claim::try_take(bpffs)? {
        Some(claim) => {
            let Standing { pods: _, links, sentry } = claim.standing();
            claim.remove()?;
            let (place, programs) = (bpffs.display(), links + sentry);
            Ok(format!("{place}: {programs} programs of holdfast taken off, nothing is left"))
        }
        None if skip_if_running => Ok(AgentRuns.to_string()),
        None => Err(AgentRuns.into()),
    }
}

/// For a DaemonSet, whose pods must not end: says that it is ready, and waits to be told to stop.
async fn stay(args: &CleanupArgs) -> anyhow::Result<()> {
    let told = told_to_stop()?;
    if let Some(address) = args.health_address {
        let readiness = Readiness::default();
        readiness.stand_by();
        let server = health::server(address, readiness, Liveness::default())?;
        tokio::spawn(server.run());
    }
    told.cancelled().await;
    Ok(())
}

/// Waits until the DaemonSet's pods are ready, which they are once they have cleaned up.
#[expect(clippy::print_stdout, reason = "what was waited for is the command's result")]
async fn await_daemonset(args: &CleanupArgs, daemonset: &DaemonSetName) -> anyhow::Result<()> {
    let client = cluster::Server::new(args.kubeconfig.as_deref()).await?.client();
    loop {
        let rollout = cluster::rollout(client.clone(), daemonset).await?;
        if rollout.is_complete() {
            println!("DaemonSet {daemonset}: all {} nodes are clean", rollout.wanted);
            return Ok(());
        }
        sleep(ASK_EVERY).await;
    }
}
