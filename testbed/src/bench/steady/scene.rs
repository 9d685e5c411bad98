//! One pod that works, without holdfast or with it.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{State, Work};
use crate::{
    Agent, AgentOptions, Node, Pod, PodSpec, Process, Proxy, apps, backend_v4,
    bpf::programs_below,
    light::{self, NAMESPACE, SOON, eventually},
};

const POD: &str = "cart";
const GUARD: &str = "holdfast.dev/guard";
/// After a change of state, in all states alike: an agent that starts is busy for as long.
const SETTLES_WITHIN: Duration = Duration::from_millis(200);

pub(super) struct Scene {
    agent: Option<Agent>,
    options: AgentOptions,
    pod: Pod,
    _app: Process,
    _proxy: Proxy,
    // Declared last: the node ends after what runs on it.
    node: Node,
}

/// What a loop has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loop {
    /// How often it came round, or what it counted.
    pub(super) count: u64,
    /// In which time.
    pub(super) time: Duration,
}

// === impl Loop ===

impl Loop {
    pub(super) fn per_second(self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}

// === impl Scene ===

impl Scene {
    /// With the pod at work, and no holdfast.
    pub(super) fn new(agent: &Path) -> Result<Self> {
        let node = light::node()?;
        let pod = node.create_pod(PodSpec::new(NAMESPACE, POD).annotation(GUARD, "disabled"))?;
        let app = pod.start_container("app", apps::testbed_app()?.arg("pause"))?;
        let proxy = pod.start_proxy()?;
        proxy.wait_ready(SOON)?;
        let options = AgentOptions::new(agent).arg("--on-exit").arg("detach");
        Ok(Self { agent: None, options, pod, _app: app, _proxy: proxy, node })
    }

    pub(super) fn pod(&self) -> &Pod {
        &self.pod
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn enter(&mut self, state: State) -> Result<()> {
        let gate = match state {
            State::Without => {
                if let Some(agent) = self.agent.take() {
                    agent.stop(SOON)?;
                }
                ensure!(!self.has_programs()?, "programs outlast the agent");
                thread::sleep(SETTLES_WITHIN);
                return Ok(());
            }
            State::Open => "open",
            State::Guarded => "guarded",
        };
        let guard = if state == State::Guarded { "enabled" } else { "disabled" };
        self.pod.patch(&json!({"metadata": {"annotations": {GUARD: guard}}}));
        let agent = match self.agent.take() {
            Some(agent) => agent,
            None => self.node.start_agent(&self.options)?,
        };
        let agent = self.agent.insert(agent);
        agent.wait_message(SOON, "agent armed")?;
        eventually(&format!("the pod's gate is {gate}"), || {
            // An agent that does not answer in time is asked again.
            let known = agent.pods().unwrap_or_default();
            Ok(known.iter().any(|pod| pod["pod"] == POD && pod["state"] == gate))
        })?;
        ensure!(
            self.has_programs()? == (state == State::Guarded),
            "the programs are not as the agent says"
        );
        thread::sleep(SETTLES_WITHIN);
        Ok(())
    }

    fn has_programs(&self) -> Result<bool> {
        Ok(!programs_below(self.pod.cgroup())?.is_empty())
    }

    /// Does `work` in the pod for some time.
    pub(super) fn round(&self, work: Work, time: Duration) -> Result<Loop> {
        let command = apps::testbed_app()?
            .args(["throughput", "--what", work.as_str()])
            .args(["--to", &backend_v4().to_string()])
            .args(["--for", &time.as_millis().to_string()]);
        let client = self.pod.exec("app", command)?;
        let round = client.wait_record(time + SOON, |line| line["event"] == "round")?;
        client.wait(SOON)?;
        let field = |name: &str| round[name].as_u64().context("a round without its numbers");
        Ok(Loop { count: field("count")?, time: Duration::from_nanos(field("nanos")?) })
    }
}
