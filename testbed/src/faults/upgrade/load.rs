//! Pods that start one after the other at a steady pace, whatever becomes of those before.

use std::{
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    Lane, Node, PodSpec,
    apps::Attempt,
    faults::{
        NAMESPACE, Run, SOON,
        light::{self, LightProxy},
        start::Start,
    },
};

/// The agent's own default.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// From one pod's start to the next one's: 20 pods/s. A machine that is slower makes as many as it
/// can.
const INTERVAL: Duration = Duration::from_millis(50);

/// How many pods are on their way at a time, for each processor: with two each may take 2.5 s at 20
/// starts a second. More would only wait for a processor, the agent as well.
const AT_A_TIME_PER_CPU: usize = 25;

/// The same as part of a test run, beside which others want the machine as well.
const AT_A_TIME_BOUNDED: usize = 8;

/// Every so many pods one has a real Envoy, the others a [`LightProxy`].
const ENVOY_EVERY: u64 = 20;

/// How long after the application the proxy is ready.
const PROXY_MS: std::ops::RangeInclusive<u64> = 1_000..=2_000;

/// A pod that has started.
pub(super) struct Started {
    pub(super) name: String,
    pub(super) attempt: Option<Attempt>,
    pub(super) ready_ns: u64,
}

/// Starts pods, `count` of them, which may be changed meanwhile.
pub(super) struct Load<'a> {
    run: &'a Run,
    node: &'a Node,
    count: &'a AtomicU64,
    lanes: Vec<Lane>,
    next: AtomicU64,
}

// === impl Load ===

impl<'a> Load<'a> {
    /// Makes the networks of all pods that can be on their way at a time.
    pub(super) fn new(run: &'a Run, node: &'a Node, count: &'a AtomicU64) -> Result<Self> {
        let at_a_time = if run.full {
            AT_A_TIME_PER_CPU * thread::available_parallelism().map_or(1, NonZero::get)
        } else {
            AT_A_TIME_BOUNDED
        };
        let lanes = light::lanes(node, at_a_time)?;
        Ok(Self { run, node, count, lanes, next: AtomicU64::new(0) })
    }

    pub(super) fn run(&self) -> Result<Vec<Started>> {
        let begin = Instant::now();
        let results: Vec<Result<Vec<Started>>> = thread::scope(|scope| {
            let workers: Vec<_> =
                self.lanes.iter().map(|lane| scope.spawn(move || self.work(lane, begin))).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        let mut all = Vec::new();
        for result in results {
            all.extend(result?);
        }
        let pace = all.len() as f64 / begin.elapsed().as_secs_f64();
        eprintln!("{} pods have started, {pace:.1} a second", all.len());
        Ok(all)
    }

    fn work(&self, lane: &Lane, begin: Instant) -> Result<Vec<Started>> {
        let mut all = Vec::new();
        loop {
            let nth = self.next.fetch_add(1, Ordering::Relaxed);
            if nth >= self.count.load(Ordering::Relaxed) {
                return Ok(all);
            }
            let due = begin + INTERVAL * u32::try_from(nth).unwrap_or(u32::MAX);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let name = format!("pod-{nth}");
            all.push(self.pod(lane, nth, name.clone()).context(name)?);
        }
    }

    fn pod(&self, lane: &Lane, nth: u64, name: String) -> Result<Started> {
        let delay = Duration::from_millis(self.run.random(nth).u64(PROXY_MS));
        let pod = self.node.pod(PodSpec::new(NAMESPACE, &name))?;
        pod.publish()?;
        pod.set_up_in(lane)?;
        let mut start = Start::of(pod)?;
        start.app.wait_connecting(SOON)?;
        let (ready_ns, _proxy) = if nth.is_multiple_of(ENVOY_EVERY) {
            thread::sleep(delay);
            start.start_proxy()?;
            (start.wait_ready()?, None)
        } else {
            let proxy = LightProxy::start(&start.pod, &self.run.binary, delay)?;
            (proxy.wait_ready()?, Some(proxy))
        };
        let attempt = start.app.wait_attempt(TIMEOUT + SOON).ok();
        Ok(Started { name, attempt, ready_ns })
    }
}
