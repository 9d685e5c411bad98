//! One pod that works, without holdfast or with it.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize as _;
use serde_json::json;

use super::{
    State, Work,
    rate::{Loop, Rate},
};
use crate::{
    Agent, AgentOptions, Node, Pod, PodSpec, Process, Proxy, apps, backend_v4,
    bpf::programs_below,
    clock::monotonic_ns,
    light::{self, NAMESPACE, SOON, eventually},
    processor,
};

const POD: &str = "cart";
const GUARD: &str = "holdfast.dev/guard";
/// After a change of state, in all states alike: an agent that starts is busy for as long.
const SETTLES_WITHIN: Duration = Duration::from_millis(200);
/// For two clients to be there before the first slice: they start within some ten milliseconds.
const CLIENTS_START_WITHIN: Duration = Duration::from_millis(150);
/// How often they may fail to be.
const TRIES: u32 = 3;

/// A client's slice of time: what a machine does besides changes more slowly.
pub(super) const SLICE: Duration = Duration::from_millis(10);

pub(super) struct Scene {
    agent: Option<Agent>,
    options: AgentOptions,
    served: Served,
    /// Another one, which holdfast has nothing to do with: what the machine does besides slows both.
    other: Served,
    /// Where clients, proxies and backend run, all of them: what any of them takes longer is then
    /// longer for all, and it is not the scheduler's choice of a processor that is measured.
    processor: usize,
    // Declared last: the node ends after what runs on it.
    node: Node,
}

/// A pod at work.
struct Served {
    pod: Pod,
    _app: Process,
    proxy: Proxy,
}

// === impl Served ===

impl Served {
    fn start(node: &Node, spec: PodSpec) -> Result<Self> {
        let pod = node.create_pod(spec)?;
        let app = pod.start_container("app", apps::testbed_app()?.arg("pause"))?;
        let proxy = pod.start_proxy()?;
        proxy.wait_ready(SOON)?;
        Ok(Self { pod, _app: app, proxy })
    }
}

// === impl Scene ===

impl Scene {
    /// With the pods at work, and no holdfast.
    pub(super) fn new(agent: &Path) -> Result<Self> {
        /// Not enabled, and known for that: a pod of a namespace that nobody knows waits.
        const PLAIN: &str = "plain";
        let node = light::node()?;
        node.api().put_namespace(PLAIN, &[]);
        let spec = PodSpec::new(NAMESPACE, POD).annotation(GUARD, "disabled");
        let served = Served::start(&node, spec)?;
        let other = Served::start(&node, PodSpec::new(PLAIN, POD))?;
        let processor = processor::last()?;
        for process in [served.proxy.process(), other.proxy.process(), node.backend()] {
            processor::bind(process.pid(), processor)?;
        }
        let options = AgentOptions::new(agent).arg("--on-exit").arg("detach");
        Ok(Self { agent: None, options, served, other, processor, node })
    }

    pub(super) fn pod(&self) -> &Pod {
        &self.served.pod
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
                ensure!(!has_programs(&self.served)?, "programs outlast the agent");
                thread::sleep(SETTLES_WITHIN);
                return Ok(());
            }
            State::Open => "open",
            State::Guarded => "guarded",
        };
        let guard = if state == State::Guarded { "enabled" } else { "disabled" };
        self.served.pod.patch(&json!({"metadata": {"annotations": {GUARD: guard}}}));
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
            has_programs(&self.served)? == (state == State::Guarded),
            "the programs are not as the agent says"
        );
        ensure!(!has_programs(&self.other)?, "the pod to compare with has programs");
        thread::sleep(SETTLES_WITHIN);
        Ok(())
    }

    /// Does `work` in the pod alone for about so long; how much was done.
    pub(super) fn work(&self, work: Work, time: Duration) -> Result<u64> {
        let slices = time.as_millis() / SLICE.as_millis();
        let client = self.client(&self.served, work, &[("--slices", slices as u64)])?;
        Ok(result(&client)?.count)
    }

    /// Does `work` in both pods, a slice of time in the one and a slice in the other, so many times.
    pub(super) fn compare(&self, work: Work, pairs: u64) -> Result<Rate> {
        let mut longest_ms = [0.0_f64; 2];
        for _ in 0..TRIES {
            let both = self.alternate(work, pairs)?;
            // Told though the try does not count: why it came late may be what is measured.
            for (longest_ms, client) in longest_ms.iter_mut().zip(&both) {
                *longest_ms = longest_ms.max(client.longest_ms());
            }
            if !both.iter().any(|client| client.is_late) {
                let [served, other] = &both;
                let rate = Rate::of(served, other).context("no slice in which both pods worked")?;
                return Ok(rate.or_longer(longest_ms[0], longest_ms[1]));
            }
            eprintln!("steady: a client was late, after {longest_ms:?} ms at most; once more");
        }
        bail!("a client was late for its first slice in each of {TRIES} tries")
    }

    /// What came of it in the pod, and in the other one.
    fn alternate(&self, work: Work, pairs: u64) -> Result<[Loop; 2]> {
        let from = monotonic_ns() + CLIENTS_START_WITHIN.as_nanos() as u64;
        let client = |served, turn| {
            let options =
                [("--slices", 2 * pairs), ("--from", from), ("--loops", 2), ("--turn", turn)];
            self.client(served, work, &options)
        };
        let (of_served, of_other) = (client(&self.served, 0)?, client(&self.other, 1)?);
        Ok([result(&of_served)?, result(&of_other)?])
    }

    fn client(&self, served: &Served, work: Work, options: &[(&str, u64)]) -> Result<Process> {
        let mut command = apps::testbed_app()?
            .args(["throughput", "--what", work.as_str()])
            .args(["--to", &backend_v4().to_string()])
            .args(["--processor", &self.processor.to_string()])
            .args(["--slice", &SLICE.as_millis().to_string()]);
        for (name, value) in options {
            command = command.args([*name, &value.to_string()]);
        }
        served.pod.exec("app", command)
    }
}

/// Of a client, when it has ended.
fn result(client: &Process) -> Result<Loop> {
    let round = client.wait_record(SOON, |line| line["event"] == "round")?;
    client.wait(SOON)?;
    Loop::deserialize(&round).with_context(|| format!("a round without its numbers: {round}"))
}

fn has_programs(of: &Served) -> Result<bool> {
    Ok(!programs_below(of.pod.cgroup())?.is_empty())
}
