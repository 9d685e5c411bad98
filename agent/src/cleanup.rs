//! `holdfast cleanup`: removes what an agent has left on this node and no agent will take over.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};

use crate::{
    bpf::{self, BpfError, Claim},
    cli::CleanupArgs,
    cluster::{self, DaemonSetName},
    health,
    signals::told_to_stop,
};

/// How often a DaemonSet is asked for; its pods take seconds.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How often the node is looked at by who stays: as often as kubelet asks whether it is clean.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a node has to be found clean until it counts as clean for good: whatever is of the agent that
/// was uninstalled has come back by then, if kubelet has started it once more.
const CLEAN_FOR: Duration = Duration::from_secs(60);

/// An agent that works for longer is not the one that was uninstalled: that one has its grace period, 30 s,
/// and is told to end as often as kubelet starts it.
const AGENT_FOR: Duration = Duration::from_secs(90);

/// Something of an agent cannot be removed: the agent is there.
#[derive(Debug, thiserror::Error)]
#[error(
    "an agent works on this node and removes what is its own when it is uninstalled; nothing was \
     changed"
)]
pub struct AgentRuns;

/// What a node was found to be, and left as.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// There is nowhere to leave anything: every program goes with its agent.
    NoBpffs,
    /// An agent works. Nothing was changed.
    Agent,
    /// Nothing is left.
    Clean {
        /// Where.
        bpffs: PathBuf,
        /// How many programs have come off a cgroup; `None`: the kernel tells only who has more
        /// rights than it takes to remove them.
        programs: Option<usize>,
    },
}

/// Cleans up, or waits for those that do.
///
/// # Errors
///
/// [`AgentRuns`], or if the directory cannot be removed.
pub async fn run(args: CleanupArgs) -> anyhow::Result<()> {
    if let Some(daemonset) = &args.await_daemonset {
        return await_daemonset(&args, daemonset).await;
    }
    if args.stay {
        return stay(&args).await;
    }
    let found = clean(&args)?;
    found.refuse_agent()?;
    say(&found);
    Ok(())
}

/// Removes what is left, unless an agent works.
fn clean(args: &CleanupArgs) -> Result<Found, BpfError> {
    let Some(bpffs) = args.bpffs.clone().or_else(bpf::usual_bpffs) else {
        return Ok(Found::NoBpffs);
    };
    bpf::require_bpffs(&bpffs)?;
    // Who takes the place makes its directory.
    if !Claim::is_there(&bpffs)? {
        return Ok(Found::Clean { bpffs, programs: Some(0) });
    }
    let Some(claim) = Claim::try_take(&bpffs)? else {
        return Ok(Found::Agent);
    };
    let programs = claim.attached();
    claim.remove()?;
    Ok(Found::Clean { bpffs, programs })
}

/// For the pods of a DaemonSet, which must not end: keeps the node clean, and is ready while it is.
///
/// An agent that is being uninstalled may take all of its grace period, be killed at its end, or be
/// started once more by a kubelet that has not been told yet that its pod is to go. But these pods may be
/// forgotten, and holdfast be installed again beside them: what its agents leave to each other is theirs.
async fn stay(args: &CleanupArgs) -> anyhow::Result<()> {
    let told = told_to_stop()?;
    let why_not = watch::Sender::new(Some("this node has not been looked at yet".to_owned()));
    if let Some(address) = args.health_address {
        let server = health::readiness_server(address, why_not.subscribe())?;
        tokio::spawn(server.run());
    }
    let mut before: Option<Found> = None;
    let mut since = Instant::now();
    loop {
        // Told to stop it looks once more: what was left since its last look would stay.
        let is_last = told.is_cancelled();
        let found = clean(args)?;
        why_not.send_replace(found.is_agent().then(|| found.to_string()));
        if found.is_news(before.as_ref()) {
            say(&found);
        }
        if before.as_ref().is_none_or(|before| before.is_agent() != found.is_agent()) {
            since = Instant::now();
        }
        if is_last {
            return Ok(found.refuse_agent()?);
        }
        if since.elapsed() >= if found.is_agent() { AGENT_FOR } else { CLEAN_FOR } {
            say_done(&found);
            told.cancelled().await;
            return Ok(found.refuse_agent()?);
        }
        before = Some(found);
        tokio::select! {
            () = told.cancelled() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

#[expect(clippy::print_stdout, reason = "what was done is the command's result")]
fn say_done(found: &Found) {
    if found.is_agent() {
        println!("an agent works on and on, as if holdfast were installed again: giving up");
    } else {
        println!("clean for {} s: done", CLEAN_FOR.as_secs());
    }
}

#[expect(clippy::print_stdout, reason = "what was done is the command's result")]
fn say(found: &Found) {
    println!("{found}");
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

// === impl Found ===

impl Found {
    const fn is_agent(&self) -> bool {
        matches!(self, Self::Agent)
    }

    const fn refuse_agent(&self) -> Result<(), AgentRuns> {
        if self.is_agent() { Err(AgentRuns) } else { Ok(()) }
    }

    /// Whether the log should tell it: a node that stays clean is told of once.
    fn is_news(&self, before: Option<&Self>) -> bool {
        match (self, before) {
            (_, None) => true,
            (Self::Clean { programs: Some(0), .. }, Some(Self::Clean { .. })) => false,
            (now, Some(before)) => now != before || matches!(now, Self::Clean { .. }),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBpffs => {
                f.write_str("no BPF file system is mounted at /sys/fs/bpf: nothing can be left")
            }
            Self::Agent => f.write_str("an agent works on this node; waiting for its end"),
            Self::Clean { bpffs, programs: Some(programs) } => {
                let place = bpffs.display();
                write!(f, "{place}: {programs} programs of holdfast taken off, nothing is left")
            }
            Self::Clean { bpffs, programs: None } => {
                let place = bpffs.display();
                write!(f, "{place}: what holdfast had there is removed, nothing is left")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_tells_what_changes() {
        let clean = |programs| Found::Clean { bpffs: "/bpf".into(), programs };
        let agent = Found::Agent;
        for (now, before, is_news) in [
            (clean(Some(0)), None, true),
            (clean(Some(0)), Some(&clean(Some(5))), false),
            (clean(Some(5)), Some(&clean(Some(5))), true),
            (clean(None), Some(&clean(Some(0))), true),
            (clean(Some(0)), Some(&agent), true),
            (agent.clone(), Some(&agent), false),
            (agent.clone(), Some(&clean(Some(0))), true),
            (Found::NoBpffs, Some(&Found::NoBpffs), false),
        ] {
            assert_eq!(now.is_news(before), is_news, "{now:?} after {before:?}");
        }
    }
}
