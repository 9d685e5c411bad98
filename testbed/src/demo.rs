//! The demonstration: the same application twice, without and with the agent, while its proxy
//! takes its time.

mod page;
mod report;
mod timeline;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub use self::{report::Report, timeline::Timeline};
use crate::{
    Agent, AgentOptions, Node, Pod, PodSpec, Process, Proxy,
    apps::{self, Attempt},
    backend_v4, bpf,
    clock::monotonic_ns,
};

const NAMESPACE: &str = "shop";
const LABEL: (&str, &str) = ("holdfast.dev/hold", "enabled");
/// One mebibyte: many segments, so that a connection which only looks intact is found out.
const BODY: &str = "/bytes/1048576";
const BODY_BYTES: usize = 1 << 20;
/// For everything that normally takes milliseconds.
const SOON: Duration = Duration::from_secs(20);
/// The agent's longest hold: what is not over by then never will be.
const HOLD_WITHIN: Duration = Duration::from_secs(70);
/// After the agent says that it has detached, before the kernel is asked: nothing may come back.
const SETTLE: Duration = Duration::from_millis(200);

/// What to demonstrate.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `holdfast` binary.
    pub agent: PathBuf,
    /// How many pods with the agent, one after another.
    pub trials: u32,
    /// From the application's start to the proxy's.
    pub proxy_delay: Duration,
}

/// One application's fate, with all moments in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Debug)]
pub struct Run {
    /// The application's connect().
    pub attempt: Attempt,
    /// When the proxy was started.
    pub proxy_started_ns: u64,
    /// When an observer apart from the agent first found the proxy ready.
    pub ready_ns: u64,
}

/// A run with the agent.
#[derive(Clone, Debug)]
pub struct HeldRun {
    /// What the application and the proxy did.
    pub run: Run,
    /// What the agent did to the pod; nothing when it did not get to it.
    pub agent: AgentMoments,
    /// When the HTTP body had arrived, if it did.
    pub body_ns: Option<u64>,
    /// Whether the body was intact.
    pub body_ok: bool,
    /// BPF programs on the pod's cgroups while the connect() was held.
    pub programs_while_held: usize,
    /// BPF programs on the pod's cgroups after the gate was detached.
    pub programs_after_open: usize,
}

/// The agent's own log of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentMoments {
    /// `gate closed`
    pub closed_ns: Option<u64>,
    /// `connect held`
    pub held_ns: Option<u64>,
    /// `gate opened`
    pub opened_ns: Option<u64>,
    /// `gate detached`
    pub detached_ns: Option<u64>,
}

/// The application on a node without an agent.
pub fn without_agent(options: &Options) -> Result<Run> {
    let node = Node::new()?;
    node.api().put_namespace(NAMESPACE, &[LABEL]);
    let pod = node.create_pod(PodSpec::new(NAMESPACE, "cart"))?;
    let app = start_app(&pod)?;
    let (run, _proxy) = see_through(&pod, &app, options.proxy_delay)?;
    Ok(run)
}

/// A node on which the agent runs; every trial is a new pod on it.
#[derive(Debug)]
pub struct HeldNode {
    // Declared first: the agent ends before the node does.
    agent: Agent,
    /// The latest trial's, so that the node has a pod to show.
    latest: Option<(Process, Proxy, Pod)>,
    node: Node,
    trials: u32,
}

impl HeldNode {
    /// Starts the node and the agent and waits until the agent is armed.
    pub fn start(options: &Options) -> Result<Self> {
        let node = Node::new()?;
        node.api().put_namespace(NAMESPACE, &[LABEL]);
        let agent = node.start_agent(&AgentOptions::new(&options.agent).arg(page::OPTION))?;
        agent.wait_message(SOON, "agent armed")?;
        Ok(Self { agent, latest: None, node, trials: 0 })
    }

    /// One more pod: its application starts at once, its proxy after the delay.
    pub fn trial(&mut self, options: &Options) -> Result<HeldRun> {
        self.trials += 1;
        self.latest = None;
        let name = format!("cart-{}", self.trials);
        let pod = self.node.create_pod(PodSpec::new(NAMESPACE, &name))?;
        let app = start_app(&pod)?;
        app.wait_connecting(SOON)?;
        // Half of the delay lies on either side: the hold is well under way.
        thread::sleep(options.proxy_delay / 2);
        let programs_while_held = bpf::programs_below(pod.cgroup())?.len();
        let (run, proxy) = see_through(&pod, &app, options.proxy_delay)?;
        let (body_ns, body_ok) = if run.attempt.is_connected() {
            let body = app.wait_record(SOON, |line| line["event"] == "body")?;
            let intact = body["ok"] == true && body["bytes"] == BODY_BYTES;
            (body["end_ns"].as_u64(), intact)
        } else {
            (None, false)
        };
        let programs_after_open = self.programs_after_open(&pod)?;
        let agent = self.moments(&pod);
        self.latest = Some((app, proxy, pod));
        Ok(HeldRun { run, agent, body_ns, body_ok, programs_while_held, programs_after_open })
    }

    fn programs_after_open(&self, pod: &Pod) -> Result<usize> {
        self.agent
            .wait_log(SOON, |line| is_about(line, pod, "gate detached"))
            .context("wait for the agent to detach the open gate")?;
        thread::sleep(SETTLE);
        Ok(bpf::programs_below(pod.cgroup())?.len())
    }

    fn moments(&self, pod: &Pod) -> AgentMoments {
        let logs = self.agent.logs();
        let moment = |message: &str| {
            logs.iter()
                .find(|line| is_about(line, pod, message))
                .and_then(|line| line["mono_ns"].as_u64())
        };
        AgentMoments {
            closed_ns: moment("gate closed"),
            held_ns: moment("connect held"),
            opened_ns: moment("gate opened"),
            detached_ns: moment("gate detached"),
        }
    }

    /// Keeps the agent's node page, which draws what has happened, as a file.
    pub fn save_page(&self, file: &Path) -> Result<()> {
        page::save(&self.agent, file)
    }

    /// Ends the agent as a node's shutdown does.
    pub fn stop(self) -> Result<()> {
        let status = self.agent.stop(SOON)?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}

/// By the uid, which the agent knows from the cgroup's name before it knows any other.
fn is_about(line: &Value, pod: &Pod, message: &str) -> bool {
    line["message"] == message && line["pod_uid"] == pod.uid()
}

fn start_app(pod: &Pod) -> Result<Process> {
    pod.start_container("app", apps::connect(backend_v4())?.get(BODY))
}

/// Starts the proxy when its time has come and waits for the end of the application's connect().
fn see_through(pod: &Pod, app: &Process, delay: Duration) -> Result<(Run, Proxy)> {
    let connecting = app.wait_connecting(SOON)?;
    let waited = Duration::from_nanos(monotonic_ns().saturating_sub(connecting));
    thread::sleep(delay.saturating_sub(waited));
    let proxy_started_ns = monotonic_ns();
    let proxy = pod.start_proxy()?;
    let deadline = Instant::now() + HOLD_WITHIN;
    let ready_ns = proxy.wait_ready(SOON)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let run = Run { attempt: app.wait_attempt(left)?, proxy_started_ns, ready_ns };
    Ok((run, proxy))
}
