//! What holdfast takes on one node, and how that grows with the node's pods and with the sockets
//! that wait.

mod crowd;
mod load;
mod pods;
mod release;
mod report;

use std::{
    hint::black_box,
    iter::successors,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use self::{
    crowd::{Crowd, Start},
    load::Storm,
    release::Release,
};
use super::{Measure, Options, QuickRatio, Section, stats::Percentiles};
use crate::light;

/// Pods that are there; 110 are usual on a node.
const PODS: [u32; 4] = [10, 100, 250, 500];
/// Beside so many of them sockets are released, and targets are kept to.
const USUAL_PODS: u32 = 250;
/// Sockets that wait.
const SOCKETS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// How often an agent is started, and how often so many sockets are released.
const RUNS: u32 = 5;
/// How long nothing happens while it is measured what that takes.
const IDLE: Duration = Duration::from_secs(10);
/// Pods that are found one after another: a p99 is then the third of the slowest.
const FOUND: u32 = 300;
/// Pods of a storm.
const STORM: u32 = 500;

/// Of the quick form. Medians of so many: one that was disturbed, or two, decide nothing.
const QUICK_PODS: u32 = 80;
const QUICK_SOCKETS: u32 = 1_000;
const QUICK_RUNS: u32 = 5;
/// Sorts for each agent's start: each takes some ten milliseconds.
const QUICK_SORTS: u32 = 3;

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Scale {
    /// Bytes of one pod, as the API server writes it.
    pub(crate) pod_bytes: f64,
    /// By number of pods.
    pub(crate) sizes: Vec<Size>,
    /// By number of sockets.
    pub(crate) releases: Vec<Release>,
    /// Releases of which something failed, and which were done once more.
    pub(crate) repeated: u32,
}

/// A node with so many pods, whose proxies are ready.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Size {
    /// How many.
    pub(crate) pods: u32,
    /// Agents that were started there.
    pub(crate) starts: Vec<Start>,
    /// The agent's memory in MiB, before anything else happens.
    pub(crate) rss_mib: f64,
    /// Of it what is not the program itself.
    pub(crate) anonymous_mib: f64,
    /// The most that it has had by then.
    pub(crate) peak_rss_mib: f64,
    /// What the agent takes while nothing happens.
    pub(crate) idle: Idle,
    /// From a further pod's cgroup to its closed gate, in milliseconds, one pod after another.
    pub(crate) attach_ms: Percentiles,
    /// Many pods at once.
    pub(crate) storm: Storm,
    /// What runs beside the agent in its pod.
    pub(crate) sentry: Sentry,
}

/// The manifest's second container, which is the same program.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Sentry {
    /// Its memory in MiB, at the end of everything.
    pub(crate) rss_mib: f64,
    /// The most that it has ever had.
    pub(crate) peak_rss_mib: f64,
}

/// Nothing happens for some time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Idle {
    /// For how long, in seconds.
    pub(crate) seconds: f64,
    /// The agent, in percent of a core.
    pub(crate) cpu_percent: f64,
    /// The sentry, in percent of a core.
    pub(crate) sentry_cpu_percent: f64,
    /// What the agent asks the API server meanwhile.
    pub(crate) api: ApiUse,
}

/// What an agent asks of the API server; bytes are those of the bodies.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct ApiUse {
    /// Requests.
    pub(crate) requests: u64,
    /// Bytes that it sends.
    pub(crate) sent: u64,
    /// Bytes that it is sent.
    pub(crate) received: u64,
}

// === impl Scale ===

impl Measure for Scale {
    fn measure(options: &Options) -> Result<Self> {
        let runs = options.runs_or(RUNS);
        let node = light::node()?;
        let storm_lanes = light::lanes(&node, load::LANES)?;
        let release_lanes = light::lanes(&node, release::lanes(&SOCKETS))?;
        let mut crowd = Crowd::new(&node, &options.agent)?;
        let pod_bytes = crowd.pods().bytes()? as f64;
        let (mut sizes, mut releases, mut repeated) = (Vec::new(), Vec::new(), 0);
        for pods in PODS {
            eprintln!("scale: {pods} pods");
            crowd.grow(pods)?;
            let (agent, starts) = crowd.start_agents(runs)?;
            let sentry = crowd.start_sentry()?;
            let idle = load::idle(&node, &agent, &sentry, IDLE)?;
            let usage = agent.process().usage()?;
            let mib = |kib: u64| kib as f64 / 1024.0;
            let attach_ms = load::find(crowd.pods(), FOUND)?;
            let storm = load::storm(crowd.pods(), &agent, &storm_lanes, &options.agent, STORM)?;
            let sentry_usage = sentry.usage()?;
            sizes.push(Size {
                pods,
                starts,
                rss_mib: mib(usage.rss_kib),
                anonymous_mib: mib(usage.anonymous_kib),
                peak_rss_mib: mib(usage.peak_rss_kib),
                idle,
                attach_ms,
                storm,
                sentry: Sentry {
                    rss_mib: mib(sentry_usage.rss_kib),
                    peak_rss_mib: mib(sentry_usage.peak_rss_kib),
                },
            });
            if pods == USUAL_PODS {
                for sockets in SOCKETS {
                    eprintln!("scale: {sockets} sockets");
                    for _ in 0..runs {
                        let release = || release::measure(&node, &agent, &release_lanes, sockets);
                        // One that fails does not take the minutes before it along.
                        releases.push(release().or_else(|error| {
                            eprintln!("scale: {sockets} sockets, once more: {error:#}");
                            repeated += 1;
                            release()
                        })?);
                    }
                }
            }
            drop(sentry);
            agent.stop(light::SOON)?;
        }
        Ok(Self { pod_bytes, sizes, releases, repeated })
    }

    fn section(&self) -> Section {
        report::section(self)
    }

    fn quick(options: &Options) -> Result<Vec<QuickRatio>> {
        let runs = options.runs_or(QUICK_RUNS);
        let node = light::node()?;
        let lanes = light::lanes(&node, release::lanes(&[QUICK_SOCKETS]))?;
        let mut crowd = Crowd::new(&node, &options.agent)?;
        crowd.grow(QUICK_PODS)?;
        let (mut sorts, mut starts) = (Vec::new(), Vec::new());
        // Turn by turn: what the machine does meanwhile happens to both.
        for _ in 0..runs {
            sorts.extend((0..QUICK_SORTS).map(|_| sort_ms()));
            let (agent, of_agent) = crowd.start_agents(1)?;
            starts.extend(of_agent);
            agent.stop(light::SOON)?;
        }
        let (agent, _) = crowd.start_agents(1)?;
        let armed = median(starts.iter().map(|start| start.armed_ms))?;
        let memory_mib = agent.process().usage()?.rss_kib as f64 / 1024.0;
        let (mut released, mut ungated) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            ungated.push(release::ungated_ms(&node, &lanes[0], QUICK_SOCKETS)?);
            released.push(release::measure(&node, &agent, &lanes, QUICK_SOCKETS)?.all_ms);
        }
        agent.stop(light::SOON)?;
        let sort = median(sorts.into_iter())?;
        let released = median(released.into_iter())? / median(ungated.into_iter())?;
        Ok(vec![
            QuickRatio::lower(
                format!("start to armed with {QUICK_PODS} pods, to sorting a million numbers"),
                armed / sort,
            ),
            QuickRatio::lower(format!("MiB of memory with {QUICK_PODS} pods"), memory_mib),
            QuickRatio::lower(
                format!("release of {QUICK_SOCKETS} sockets, to connects without a gate"),
                released,
            ),
        ])
    }
}

/// What the processor takes to put a million numbers in order: nothing of it is holdfast's or the kernel's,
/// and it comes out alike each time. Another kernel moves the ratio as well: it verifies the programs.
fn sort_ms() -> f64 {
    /// Knuth's multiplier for sequences of 64 bits.
    const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
    let next = |last: &u64| Some(last.wrapping_mul(MULTIPLIER).wrapping_add(1));
    let mut numbers: Vec<u64> = successors(Some(1), next).take(1_000_000).collect();
    let start = Instant::now();
    black_box(&mut numbers).sort_unstable();
    start.elapsed().as_secs_f64() * 1e3
}

fn median(samples: impl Iterator<Item = f64>) -> Result<f64> {
    Ok(Percentiles::of(&samples.collect::<Vec<_>>()).context("no samples")?.p50)
}
