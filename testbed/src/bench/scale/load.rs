//! What the agent takes while nothing happens, and while pods come.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{ApiUse, Idle};
use crate::{
    Agent, Lane, Node, Pod, PodSpec,
    api::Count,
    bench::stats::Percentiles,
    bpf::is_gated,
    clock::{monotonic_ns, ms_between},
    light::{self, LightProxy, NAMESPACE, SOON, dial},
};

/// Pods of a storm at a time: each lives for some 300 ms.
pub(super) const LANES: usize = 24;

/// 50 a second.
const POD_EVERY: Duration = Duration::from_millis(20);

/// A storm's proxies take so long.
const PROXY_TAKES: Duration = Duration::from_millis(50);

/// Before it counts that nothing happens: what a start has left to do is done by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);

/// Between two looks at whether a cgroup has its gate: what the time until then is counted to.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// The same in a storm, in which many look at once, and each look takes a lock that attaching takes too.
const STORM_LOOKS_EVERY: Duration = Duration::from_millis(1);

/// Between two pods that are found one after another.
const FIND_EVERY: Duration = Duration::from_millis(10);

/// Many pods that start, have their first connection and go.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Storm {
    /// How many.
    pub(crate) pods: u32,
    /// In how many seconds.
    pub(crate) seconds: f64,
    /// The agent, in percent of a core.
    pub(crate) cpu_percent: f64,
    /// Its memory after it, in MiB.
    pub(crate) rss_mib: f64,
    /// From a pod's cgroup to its closed gate, in milliseconds.
    pub(crate) attach_ms: Percentiles,
    /// What the agent asks the API server.
    pub(crate) api: ApiUse,
}

/// What was asked between two moments.
pub(super) fn api_use(before: Count, after: Count) -> ApiUse {
    let Count { requests, received, sent, open: _ } = after.since(before);
    // What the server has received the agent has sent.
    ApiUse { requests, sent: received, received: sent }
}

/// Nothing happens for so long.
pub(super) fn idle(node: &Node, agent: &Agent, time: Duration) -> Result<Idle> {
    thread::sleep(SETTLES_WITHIN);
    let (before, cpu, start) =
        (node.api().total_cost(), agent.process().usage()?.cpu, Instant::now());
    thread::sleep(time);
    let (cpu, took) = (agent.process().usage()?.cpu - cpu, start.elapsed());
    let cpu_percent = 100.0 * cpu.as_secs_f64() / took.as_secs_f64();
    let api = api_use(before, node.api().total_cost());
    Ok(Idle { seconds: took.as_secs_f64(), cpu_percent, api })
}

/// From a pod's cgroup to its closed gate, one pod after another.
pub(super) fn find(node: &Node, pods: u32) -> Result<Percentiles> {
    let mut samples = Vec::new();
    for number in 0..pods {
        let pod = node.pod(PodSpec::new(NAMESPACE, format!("found-{number}")))?;
        pod.publish()?;
        samples.push(attached_after_ms(&pod, LOOK_EVERY)?);
        pod.delete()?;
        thread::sleep(FIND_EVERY);
    }
    Percentiles::of(&samples).context("no pod was found")
}

/// Makes the pod's cgroup; the time until its gate is attached. That is the last of its programs, and
/// what it is to do stands in its map before.
fn attached_after_ms(pod: &Pod, look_every: Duration) -> Result<f64> {
    let began_ns = monotonic_ns();
    pod.create_cgroup()?;
    let deadline = Instant::now() + SOON;
    while !is_gated(pod.cgroup().path())? {
        ensure!(Instant::now() < deadline, "pod {} never has a gate", pod.name());
        thread::sleep(look_every);
    }
    Ok(ms_between(began_ns, monotonic_ns()))
}

/// Pods start, 50 a second, beside those that are there.
pub(super) fn storm(
    node: &Node,
    agent: &Agent,
    lanes: &[Lane],
    holdfast: &Path,
    pods: u32,
) -> Result<Storm> {
    let samples = Mutex::new(Vec::new());
    let (before, cpu, start) =
        (node.api().total_cost(), agent.process().usage()?.cpu, Instant::now());
    light::paced(lanes, 0..pods, POD_EVERY, |number, _, lane| {
        let pod = node.pod(PodSpec::new(NAMESPACE, format!("storm-{number}")))?;
        pod.publish()?;
        let attached = attached_after_ms(&pod, STORM_LOOKS_EVERY)?;
        samples.lock().unwrap_or_else(PoisonError::into_inner).push(attached);
        pod.start_sandbox_in(lane)?;
        let app = dial(&pod)?;
        let proxy = LightProxy::start(&pod, holdfast, PROXY_TAKES)?;
        proxy.wait_ready()?;
        let attempt = app.wait_attempt(SOON)?;
        ensure!(attempt.is_connected(), "a connect of a storm: {attempt:?}");
        pod.delete()
    })?;
    let took = start.elapsed().as_secs_f64();
    let usage = agent.process().usage()?;
    let samples = samples.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Storm {
        pods,
        seconds: took,
        cpu_percent: 100.0 * (usage.cpu - cpu).as_secs_f64() / took,
        rss_mib: usage.rss_kib as f64 / 1024.0,
        attach_ms: Percentiles::of(&samples).context("a storm of no pods")?,
        api: api_use(before, node.api().total_cost()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_meanwhile_counts() {
        let before = Count { requests: 3, received: 0, sent: 300, open: 1 };
        let after = Count { requests: 5, received: 50, sent: 560, open: 2 };
        let expected = ApiUse { requests: 2, sent: 50, received: 260 };
        assert_eq!(api_use(before, after), expected);
        assert_eq!(api_use(after, after), ApiUse::default());
    }
}
