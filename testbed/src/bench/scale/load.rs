//! What the agent takes while nothing happens, and while pods come.

use std::{
    fmt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{ApiUse, Idle, pods::Pods};
use crate::{
    Agent, Lane, Node, Pod, Process,
    api::Count,
    bench::stats::Percentiles,
    bpf::is_gated,
    clock::{monotonic_ns, ms_between},
    light::{self, LightProxy, SOON, dial},
};

/// Pods of a storm at a time: each lives for some 300 ms.
pub(super) const LANES: usize = 24;

/// 50 a second: the testbed itself, which plays kubelet and every container, may be slower.
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
    /// Of these, how many came to no connection, whatever failed.
    pub(crate) lost: u32,
    /// The agent, in percent of a core.
    pub(crate) cpu_percent: f64,
    /// Its memory after it, in MiB.
    pub(crate) rss_mib: f64,
    /// The most that its memory ever was.
    pub(crate) peak_rss_mib: f64,
    /// From a pod's cgroup to its closed gate, in milliseconds.
    pub(crate) attach_ms: Percentiles,
    /// What the agent asks the API server.
    pub(crate) api: ApiUse,
}

impl Storm {
    /// Processor time of the agent for each pod, in milliseconds.
    pub(crate) fn cpu_ms_a_pod(&self) -> f64 {
        self.cpu_percent * 10.0 * self.seconds / f64::from(self.pods)
    }
}

/// Of many pods some may be lost to a machine that is busy; more, and what is left says nothing.
struct Losses {
    of: u32,
    lost: AtomicU32,
}

impl Losses {
    /// One of so many.
    const ONE_OF: u32 = 50;

    fn among(of: u32) -> Self {
        Self { of, lost: AtomicU32::new(0) }
    }

    /// What came of one, if anything did.
    fn kept<T>(&self, what: impl fmt::Display, one: Result<T>) -> Result<Option<T>> {
        let error = match one {
            Ok(one) => return Ok(Some(one)),
            Err(error) => error,
        };
        eprintln!("scale: {what}: {error:#}");
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(lost <= self.of / Self::ONE_OF, "{lost} of {} pods are lost", self.of);
        Ok(None)
    }

    fn count(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// What was asked between two moments.
pub(super) fn api_use(before: Count, after: Count) -> ApiUse {
    let Count { requests, received, sent, open: _ } = after.since(before);
    // What the server has received the agent has sent.
    ApiUse { requests, sent: received, received: sent }
}

/// Nothing happens for so long.
pub(super) fn idle(node: &Node, agent: &Agent, sentry: &Process, time: Duration) -> Result<Idle> {
    thread::sleep(SETTLES_WITHIN);
    let both = || Ok::<_, anyhow::Error>([agent.process().usage()?.cpu, sentry.usage()?.cpu]);
    let (before, [agent_cpu, sentry_cpu], start) =
        (node.api().total_cost(), both()?, Instant::now());
    thread::sleep(time);
    let ([agent_after, sentry_after], took) = (both()?, start.elapsed());
    let percent = |cpu: Duration| 100.0 * cpu.as_secs_f64() / took.as_secs_f64();
    Ok(Idle {
        seconds: took.as_secs_f64(),
        cpu_percent: percent(agent_after - agent_cpu),
        sentry_cpu_percent: percent(sentry_after - sentry_cpu),
        api: api_use(before, node.api().total_cost()),
    })
}

/// From a pod's cgroup to its closed gate, one pod after another.
pub(super) fn find(pods: &Pods<'_>, count: u32) -> Result<Percentiles> {
    let losses = Losses::among(count);
    let mut samples = Vec::new();
    let find = |number: u32| {
        let pod = pods.publish(format!("found-{number}"))?;
        let attached_ms = attached_after_ms(&pod, LOOK_EVERY)?;
        pod.delete()?;
        Ok(attached_ms)
    };
    for number in 0..count {
        samples.extend(losses.kept(format_args!("pod {number} to find"), find(number))?);
        thread::sleep(FIND_EVERY);
    }
    Percentiles::of(&samples).context("no pod was found")
}

/// Makes the pod's cgroup; the time until its gate is attached. That is the last of the programs that
/// hold connects, and what it is to do stands in its map before.
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
    pods: &Pods<'_>,
    agent: &Agent,
    lanes: &[Lane],
    holdfast: &Path,
    count: u32,
) -> Result<Storm> {
    let samples = Mutex::new(Vec::new());
    let losses = Losses::among(count);
    let node = pods.node();
    let (before, cpu, start) =
        (node.api().total_cost(), agent.process().usage()?.cpu, Instant::now());
    let start_one = |number: u32, lane: &Lane| {
        let pod = pods.publish(format!("storm-{number}"))?;
        let attached_ms = attached_after_ms(&pod, STORM_LOOKS_EVERY)?;
        pod.start_sandbox_in(lane)?;
        let app = dial(&pod)?;
        let proxy = LightProxy::start(&pod, holdfast, PROXY_TAKES)?;
        proxy.wait_ready()?;
        let attempt = app.wait_attempt(SOON)?;
        ensure!(attempt.is_connected(), "a connect of a storm: {attempt:?}");
        pod.delete()?;
        Ok(attached_ms)
    };
    light::paced(lanes, 0..count, POD_EVERY, |number, _, lane| {
        let one = losses.kept(format_args!("pod {number} of a storm"), start_one(number, lane))?;
        samples.lock().unwrap_or_else(PoisonError::into_inner).extend(one);
        Ok(())
    })?;
    let took = start.elapsed().as_secs_f64();
    let usage = agent.process().usage()?;
    let samples = samples.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Storm {
        pods: count,
        seconds: took,
        lost: losses.count(),
        cpu_percent: 100.0 * (usage.cpu - cpu).as_secs_f64() / took,
        rss_mib: usage.rss_kib as f64 / 1024.0,
        peak_rss_mib: usage.peak_rss_kib as f64 / 1024.0,
        attach_ms: Percentiles::of(&samples).context("a storm of no pods")?,
        api: api_use(before, node.api().total_cost()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_fifty_may_be_lost_and_is_counted() {
        let losses = Losses::among(100);
        let failed = || Err::<u32, _>(anyhow::anyhow!("failed"));
        assert_eq!(losses.kept("first", Ok(7)).unwrap(), Some(7));
        assert_eq!(losses.kept("second", failed()).unwrap(), None);
        assert_eq!(losses.kept("third", failed()).unwrap(), None);
        assert_eq!(losses.count(), 2);
        assert!(losses.kept("fourth", failed()).is_err());
    }

    #[test]
    fn only_what_was_asked_meanwhile_counts() {
        let before = Count { requests: 3, received: 0, sent: 300, open: 1 };
        let after = Count { requests: 5, received: 50, sent: 560, open: 2 };
        let expected = ApiUse { requests: 2, sent: 50, received: 260 };
        assert_eq!(api_use(before, after), expected);
        assert_eq!(api_use(after, after), ApiUse::default());
    }
}
