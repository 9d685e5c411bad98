//! Pods that come and go fifty times a second.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Due, Fault, NAMESPACE, Run, SOON, Tally, Trials,
    footprint::Footprint,
    light::{self, LightProxy, dial, wait_gate},
    node, nothing_left,
};
use crate::{Agent, Lane, Node, Pod, PodSpec, apps};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "50 pods a second come and go",
    what: "half of them enabled; containers that connect in their first millisecond, containers that \
           live 5 ms, pods deleted while their gate is attached, holds or opens; names and process ids \
           come again. A quarter of the pods has a connect that is counted; afterwards the agent knows \
           no pod, and has no more memory, files, threads, map entries, pins or watches than before",
    trials: Trials { bounded: 16, full: 2_250 },
    run: churn,
}];

/// Pods for each connect that is counted: two kinds of eight have one.
const PODS_A_TRIAL: u32 = 4;

/// Fifty a second, where the machine can do it.
const POD_EVERY: Duration = Duration::from_millis(20);

/// Pods at a time: each lives for some 300 ms.
const LANES: u32 = 24;

/// The same as part of a test run, beside which others want the machine as well.
const LANES_BOUNDED: u32 = 8;

/// The hold's time, the default.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A pod that is not held waits until the API has told of it, which takes milliseconds.
const NOT_HELD_WITHIN: Duration = Duration::from_secs(10);

/// How long the container lives that hardly lives.
const SHORT_LIFE: Duration = Duration::from_millis(5);

/// A proxy takes up to so long.
const PROXY_TAKES_MS: u64 = 200;

/// By how much the agent may grow, in KiB: its history of 128 episodes, and what an allocator keeps
/// of a thousand tasks.
const GROWTH_KIB: usize = 16 * 1024;

/// By how much it may grow in the second half of the full form, whose first half has filled the history
/// and what the allocator keeps: less than half a KiB for each of its pods.
const LATE_GROWTH_KIB: usize = 2 * 1024;

/// The namespace whose pods nobody enabled.
const OTHER: &str = "other";

fn churn(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    node.api().put_namespace(OTHER, &[]);
    let agent = node.start_agent(&run.agent())?;
    agent.wait_message(SOON, "agent armed")?;
    let at_a_time = if run.full { LANES } else { LANES_BOUNDED };
    let lanes = light::lanes(&node, at_a_time as usize)?;
    let churn = Churn { run, node: &node, tally: Mutex::default() };
    // What is made once, such as the first connection for Events, is made by now.
    churn.pods(&lanes, 0..at_a_time)?;
    // Nor is anything left of them: what is, is not to be missed afterwards.
    knows_no_pod(&agent)?;
    let before = Footprint::of(&node, &agent)?.compare(&node, &agent, None)?;
    let pods = run.trials() * PODS_A_TRIAL;
    let middle = at_a_time + pods / 2;
    let started = Instant::now();
    churn.pods(&lanes, at_a_time..middle)?;
    let first = started.elapsed();
    let half = before.compare(&node, &agent, Some(GROWTH_KIB))?;
    let started = Instant::now();
    churn.pods(&lanes, middle..at_a_time + pods)?;
    let rate = f64::from(pods) / (first + started.elapsed()).as_secs_f64();
    // In the bounded form the history is not full by half.
    let growth = if run.full { LATE_GROWTH_KIB } else { GROWTH_KIB };
    let after = half.compare(&node, &agent, Some(growth))?;
    before.compare(&node, &agent, Some(GROWTH_KIB))?;
    knows_no_pod(&agent)?;
    eprintln!(
        "{pods} pods, {rate:.0} a second; {} -> {} -> {} KiB, {} -> {} files, {} -> {} threads",
        before.rss_kib,
        half.rss_kib,
        after.rss_kib,
        before.files,
        after.files,
        before.threads,
        after.threads
    );
    *tally = churn.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(agent.exit_status().is_none(), "the agent has ended");
    Ok(())
}

/// All pods of this node were the churn's, and are gone.
fn knows_no_pod(agent: &Agent) -> Result<()> {
    nothing_left("the agent knows pods that are gone", || agent.pods())
}

/// Pods, one after another in each lane.
struct Churn<'a> {
    run: &'a Run,
    node: &'a Node,
    tally: Mutex<Tally>,
}

// === impl Churn ===

impl Churn<'_> {
    fn pods(&self, lanes: &[Lane], numbers: std::ops::Range<u32>) -> Result<()> {
        light::paced(lanes, numbers, POD_EVERY, |pod, name, lane| self.pod(pod, name, lane))
    }

    /// One pod, from its cgroup to its removal.
    fn pod(&self, number: u32, name: usize, lane: &Lane) -> Result<()> {
        let mut random = self.run.random(u64::from(number));
        let namespace = if number.is_multiple_of(2) { NAMESPACE } else { OTHER };
        // The same names again and again, as a StatefulSet's.
        let pod = self.node.pod(PodSpec::new(namespace, format!("cart-{name}")))?;
        pod.publish()?;
        pod.create_cgroup()?;
        // What happens before anything runs in it.
        if number % 16 == 6 {
            // Made anew, by the same name, while it is attached.
            thread::sleep(Duration::from_micros(random.u64(..3_000)));
            pod.remove_cgroup()?;
            pod.create_cgroup()?;
            thread::sleep(Duration::from_micros(random.u64(..3_000)));
            return pod.delete();
        }
        if namespace == NAMESPACE {
            wait_gate(&pod)?;
        }
        pod.start_sandbox_in(lane)?;
        match number % 8 {
            0 => self.release(pod, &mut random),
            2 => {
                let short = pod.start_container("app", apps::testbed_app()?.arg("pause"))?;
                thread::sleep(SHORT_LIFE);
                short.kill();
                self.release(pod, &mut random)
            }
            4 => {
                let app = dial(&pod)?;
                app.wait_connecting(SOON)?;
                thread::sleep(Duration::from_micros(random.u64(..20_000)));
                let ended = app.records().into_iter().find(|line| line["event"] == "connect");
                ensure!(ended.is_none(), "nothing is there to connect to: {ended:?}");
                pod.delete()
            }
            6 => {
                // Deleted in the very moment in which it opens.
                let _app = dial(&pod)?;
                let proxy = self.proxy(&pod, &mut random)?;
                proxy.wait_ready()?;
                thread::sleep(Duration::from_micros(random.u64(..4_000)));
                pod.delete()
            }
            // Nobody enabled it.
            _ => {
                let attempt = dial(&pod)?.wait_attempt(SOON)?;
                ensure!(attempt.elapsed() < NOT_HELD_WITHIN, "not to be held: {attempt:?}");
                pod.delete()
            }
        }
    }

    /// The pod's application dials, its proxy comes; the connect is counted.
    fn release(&self, pod: Pod, random: &mut fastrand::Rng) -> Result<()> {
        let app = dial(&pod)?;
        let proxy = self.proxy(&pod, random)?;
        let ready_ns = proxy.wait_ready()?;
        let due = Due { ready_ns: Some(ready_ns), timeout: TIMEOUT };
        let attempt = app.wait_attempt(TIMEOUT + SOON).ok();
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.count(pod.name(), attempt.as_ref(), due);
        drop(tally);
        pod.delete()
    }

    fn proxy(&self, pod: &Pod, random: &mut fastrand::Rng) -> Result<LightProxy> {
        LightProxy::start(
            pod,
            &self.run.binary,
            Duration::from_millis(random.u64(..PROXY_TAKES_MS)),
        )
    }
}
