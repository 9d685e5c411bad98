//! The pods that are there, and agents that start among them.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{ApiUse, load::api_use, pods::Pods};
use crate::{
    Agent, AgentOptions, Lane, Node, PROXY, PROXY_ID, Pod, Process,
    api::Came,
    apps,
    clock::{monotonic_ns, ms_between},
    light::{self, LightProxy, SOON, eventually_within},
};

/// Networks that the pods share, each with one proxy in it: for the agent a pod is a pod, with
/// containers and processes of its own and a proxy that answers in its network.
const LANES: usize = 8;

/// Until an agent knows of all pods that their gates are open, however busy the machine.
const ALL_OPEN_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks at that: each starts a process.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Pods that have been there for a while.
pub(super) struct Crowd<'a> {
    pods: Pods<'a>,
    options: AgentOptions,
    lanes: Vec<Lane>,
    members: Vec<Member>,
    proxies: Vec<LightProxy>,
}

struct Member {
    _pod: Pod,
    _processes: Vec<Process>,
}

/// An agent's start among them.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Start {
    /// From the process to the beginning of the API server's last answer with all pods or namespaces, in
    /// milliseconds. Not its end: a list that is streamed has none, the watch goes on.
    pub(crate) listed_ms: f64,
    /// From there to its being armed.
    pub(crate) armed_after_list_ms: f64,
    /// From the process to its being armed.
    pub(crate) armed_ms: f64,
    /// From the process to the last pod's gate being known to be open.
    pub(crate) api: ApiUse,
}

// === impl Crowd ===

impl<'a> Crowd<'a> {
    /// Of no pods yet.
    pub(super) fn new(node: &'a Node, agent: &Path) -> Result<Self> {
        // As the manifest has it run, but for its end: each start is to find a node without a trace.
        let options = AgentOptions::new(agent)
            .arg("--on-exit=detach")
            .arg("--sentry-for=10m")
            .arg("--health-address=127.0.0.1:0")
            .arg("--metrics-address=127.0.0.1:0");
        let pods = Pods::new(node)?;
        let lanes = light::lanes(node, LANES)?;
        let mut crowd = Self { pods, options, lanes, members: Vec::new(), proxies: Vec::new() };
        for number in 0..LANES {
            let pod = crowd.pods.publish(format!("first-{number}"))?;
            pod.create_cgroup()?;
            pod.start_sandbox_in(&crowd.lanes[number])?;
            let proxy = LightProxy::start(&pod, agent, Duration::ZERO)?;
            proxy.wait_ready()?;
            crowd.proxies.push(proxy);
            crowd.members.push(Member { _pod: pod, _processes: Vec::new() });
        }
        Ok(crowd)
    }

    /// So many pods, with a sandbox, an application and a proxy each.
    pub(super) fn grow(&mut self, pods: u32) -> Result<()> {
        let there = u32::try_from(self.members.len())?;
        let members = Mutex::new(Vec::new());
        light::paced(&self.lanes, there..pods, Duration::ZERO, |number, _, lane| {
            let pod = self.pods.publish(format!("member-{number}"))?;
            pod.create_cgroup()?;
            pod.start_sandbox_in(lane)?;
            let idle = || Ok::<_, anyhow::Error>(apps::testbed_app()?.arg("pause"));
            let processes = vec![
                pod.start_container("app", idle()?)?,
                pod.start_container(PROXY, idle()?.user(PROXY_ID, PROXY_ID))?,
            ];
            let member = Member { _pod: pod, _processes: processes };
            members.lock().unwrap_or_else(PoisonError::into_inner).push(member);
            Ok(())
        })?;
        self.members.extend(members.into_inner().unwrap_or_else(PoisonError::into_inner));
        ensure!(self.members.len() == pods as usize, "more pods are there than {pods}");
        Ok(())
    }

    /// What the pods are made of.
    pub(super) fn pods(&self) -> &Pods<'a> {
        &self.pods
    }

    /// Starts the process that the manifest runs beside each agent.
    pub(super) fn start_sentry(&self) -> Result<Process> {
        self.pods.node().start_sentry(&self.options)
    }

    /// Starts one agent after another, each on a node without a trace of holdfast; the last one stays.
    pub(super) fn start_agents(&self, count: u32) -> Result<(Agent, Vec<Start>)> {
        let (mut agent, first) = self.start_agent()?;
        let mut starts = vec![first];
        for _ in 1..count {
            agent.stop(SOON)?;
            let (next, start) = self.start_agent()?;
            agent = next;
            starts.push(start);
        }
        Ok((agent, starts))
    }

    fn start_agent(&self) -> Result<(Agent, Start)> {
        let node = self.pods.node();
        let (before, begun) = (node.api().total_cost(), Instant::now());
        let started_ns = monotonic_ns();
        let agent = node.start_agent(&self.options)?;
        let armed = agent.wait_message(SOON, "agent armed")?;
        let armed_ns = armed["mono_ns"].as_u64().context("no instant in \"agent armed\"")?;
        let came = node.api().came(begun);
        let lists = came.iter().filter(|came| came.answered_ns < armed_ns && is_list(came));
        let listed_ns = lists.map(|came| came.answered_ns).max().context("nothing was listed")?;
        ensure!(started_ns < listed_ns && listed_ns < armed_ns, "armed before all was listed");
        let pods = self.members.len();
        eventually_within(ALL_OPEN_WITHIN, LOOK_EVERY, "all gates are open", || {
            // On a machine that is busy an answer may take longer than the command waits.
            let known = agent.pods().unwrap_or_default();
            Ok(known.iter().filter(|pod| pod["state"] == "open").count() == pods)
        })?;
        let start = Start {
            listed_ms: ms_between(started_ns, listed_ns),
            armed_after_list_ms: ms_between(listed_ns, armed_ns),
            armed_ms: ms_between(started_ns, armed_ns),
            api: api_use(before, node.api().total_cost()),
        };
        Ok((agent, start))
    }
}

/// Whether it asks for all there is: a list, or a watch that begins with it.
fn is_list(came: &Came) -> bool {
    let of_these = ["pods", "namespaces"].contains(&came.resource.as_str());
    let is_stream = came.verb == "watch" && came.query.contains("sendInitialEvents=true");
    of_these && (came.verb == "list" || is_stream)
}
