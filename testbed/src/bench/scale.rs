//! What holdfast takes on one node, and how that grows with the node's pods and with the sockets
//! that wait.

mod crowd;
mod load;
mod release;
mod report;

use std::time::Duration;

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

/// Of the quick form.
const QUICK_PODS: [u32; 2] = [10, 80];
const QUICK_SOCKETS: [u32; 2] = [100, 1_000];
const QUICK_RUNS: u32 = 3;

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Scale {
    /// By number of pods.
    pub(crate) sizes: Vec<Size>,
    /// By number of sockets.
    pub(crate) releases: Vec<Release>,
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
}

/// Nothing happens for some time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Idle {
    /// For how long, in seconds.
    pub(crate) seconds: f64,
    /// In percent of a core.
    pub(crate) cpu_percent: f64,
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
        let (mut sizes, mut releases) = (Vec::new(), Vec::new());
        for pods in PODS {
            eprintln!("scale: {pods} pods");
            crowd.grow(pods)?;
            let (agent, starts) = crowd.start_agents(runs)?;
            let idle = load::idle(&node, &agent, IDLE)?;
            let usage = agent.process().usage()?;
            let mib = |kib: u64| kib as f64 / 1024.0;
            let attach_ms = load::find(&node, FOUND)?;
            let storm = load::storm(&node, &agent, &storm_lanes, &options.agent, STORM)?;
            sizes.push(Size {
                pods,
                starts,
                rss_mib: mib(usage.rss_kib),
                anonymous_mib: mib(usage.anonymous_kib),
                peak_rss_mib: mib(usage.peak_rss_kib),
                idle,
                attach_ms,
                storm,
            });
            if pods == USUAL_PODS {
                for sockets in SOCKETS {
                    eprintln!("scale: {sockets} sockets");
                    for _ in 0..runs {
                        releases.push(release::measure(&node, &agent, &release_lanes, sockets)?);
                    }
                }
            }
            agent.stop(light::SOON)?;
        }
        Ok(Self { sizes, releases })
    }

    fn section(&self) -> Section {
        report::section(self)
    }

    fn quick(options: &Options) -> Result<Vec<QuickRatio>> {
        let runs = options.runs_or(QUICK_RUNS);
        let node = light::node()?;
        let lanes = light::lanes(&node, release::lanes(&QUICK_SOCKETS))?;
        let mut crowd = Crowd::new(&node, &options.agent)?;
        let (mut armed, mut memory, mut released) = (Vec::new(), Vec::new(), Vec::new());
        for pods in QUICK_PODS {
            crowd.grow(pods)?;
            let (agent, starts) = crowd.start_agents(runs)?;
            armed.push(median(starts.iter().map(|start| start.armed_ms))?);
            memory.push(agent.process().usage()?.rss_kib as f64);
            if pods == QUICK_PODS[0] {
                for sockets in QUICK_SOCKETS {
                    let of_run = |_| {
                        release::measure(&node, &agent, &lanes, sockets)
                            .map(|release| release.all_ms)
                    };
                    let all = (0..runs).map(of_run).collect::<Result<Vec<f64>>>()?;
                    released.push(median(all.into_iter())?);
                }
            }
            agent.stop(light::SOON)?;
        }
        let growth = |of: &[f64]| of[1] / of[0];
        let [few, many] = QUICK_PODS;
        let [some, more] = QUICK_SOCKETS;
        Ok(vec![
            QuickRatio::lower(format!("start to armed, {many} pods to {few}"), growth(&armed)),
            QuickRatio::lower(format!("memory, {many} pods to {few}"), growth(&memory)),
            QuickRatio::lower(format!("release of {more} sockets to {some}"), growth(&released)),
        ])
    }
}

fn median(samples: impl Iterator<Item = f64>) -> Result<f64> {
    Ok(Percentiles::of(&samples.collect::<Vec<_>>()).context("no samples")?.p50)
}
