//! Something runs out: room in the kernel's tables, what a process may have, what it writes to.

mod control;
pub(super) mod files;
pub(super) mod maps;
pub(super) mod process;
pub(super) mod takeover;

use std::time::Duration;

use anyhow::Result;

use super::{
    Due, Run, SOON, Tally,
    light::{self, LightProxy},
};
use crate::{Agent, AgentOptions, Lane, Node, Pod, Process};

/// Starts an agent and waits until it works.
fn start(node: &Node, options: &AgentOptions) -> Result<Agent> {
    let agent = node.start_agent(options)?;
    agent.wait_message(SOON, "agent armed")?;
    Ok(agent)
}

/// Pods with a connect of their own that waits, and nothing else to do.
struct Waiting {
    pods: Vec<(Pod, Process)>,
}

impl Waiting {
    /// One in each lane.
    fn begin(node: &Node, lanes: &[Lane], name: &str) -> Result<Self> {
        let mut pods = Vec::new();
        for (number, lane) in lanes.iter().enumerate() {
            let pod = light::attached(node, lane, format!("{name}-{number}"))?;
            let app = light::dial(&pod)?;
            app.wait_connecting(SOON)?;
            pods.push((pod, app));
        }
        Ok(Self { pods })
    }

    /// Their proxies come, and each connect is counted: it may go on from its proxy's readiness on, but
    /// not before `due.ready_ns`, at which the agent was there again.
    fn release(self, run: &Run, due: Due, tally: &mut Tally) -> Result<()> {
        let mut proxies = Vec::new();
        for (pod, _) in &self.pods {
            proxies.push(LightProxy::start(pod, &run.binary, Duration::ZERO)?);
        }
        for ((pod, app), proxy) in self.pods.iter().zip(&proxies) {
            let ready = proxy.wait_ready()?;
            let ready_ns = Some(ready.max(due.ready_ns.unwrap_or_default()));
            let attempt = app.wait_attempt(due.timeout + SOON).ok();
            tally.count(pod.name(), attempt.as_ref(), Due { ready_ns, ..due });
        }
        Ok(())
    }
}
