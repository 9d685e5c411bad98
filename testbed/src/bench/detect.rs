//! Detection: how long after a proxy's readiness the agent knows, by which source, and what asking
//! costs.

mod cost;
mod report;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::cost::Cost;
use super::{
    Measure, Options, QuickRatio, Section,
    schedule::{self, Planned, STAGGER, Stage},
};
use crate::{
    Agent, AgentOptions, Node, PROXY, PodSpec, apps, backend_v4,
    clock::{monotonic_ns, ms_between},
};

const NAMESPACE: &str = "shop";
/// For what normally takes milliseconds, after the longest wait below.
const SOON: Duration = Duration::from_secs(60);
/// How late proxies are, in seconds: the agent asks less often the longer somebody waits.
const READY_S: [f64; 4] = [0.5, 2.0, 10.0, 30.0];
/// How late they are where kubelet's word is what counts.
const KUBE_READY_S: f64 = 2.0;
/// Of each source and delay.
const RUNS: u32 = 50;
/// A delay is longer or shorter by half of this: no phase of the agent's period is preferred.
const SPREAD: Duration = Duration::from_millis(200);

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Detect {
    pub(crate) detections: Vec<Detection>,
    /// Pods that could not be played.
    pub(crate) failed: usize,
    pub(crate) costs: Vec<Cost>,
}

/// By what the agent knows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    /// It asks the proxy itself.
    Probe,
    /// The API server tells it what kubelet has found.
    Kube,
}

/// One pod's release.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Detection {
    pub(crate) source: Source,
    /// How late the proxy was, about.
    pub(crate) ready_after_s: f64,
    /// From the last moment at which the proxy was seen not ready (for [`Source::Kube`]: from the API
    /// server's having it) to the agent's opening the gate.
    pub(crate) known_ms: f64,
    /// How much later than that readiness may have been.
    pub(crate) resolution_ms: f64,
    /// From then to the connection.
    pub(crate) released_ms: f64,
}

/// A pod that has been played, before the agent's log has been read.
struct Played {
    uid: String,
    source: Source,
    ready_after_s: f64,
    ready_ns: u64,
    resolution_ns: u64,
    connected_ns: u64,
}

type Case = (Source, f64);

// === impl Source ===

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Kube => "kube",
        }
    }

    /// The reason that the agent's log gives.
    const fn reason(self) -> &'static str {
        match self {
            Self::Probe => "the proxy says it is ready",
            Self::Kube => "kubelet reports the proxy ready",
        }
    }
}

// === impl Detect ===

impl Measure for Detect {
    fn measure(options: &Options) -> Result<Self> {
        let (node, agent) = node(options)?;
        let runs = options.runs_or(RUNS);
        let (detections, failed) = detections(&node, &agent, runs)?;
        let costs = cost::measure(&node, &agent, &cost::UNTIL_S)?;
        Ok(Self { detections, failed, costs })
    }

    fn section(&self) -> Section {
        report::section(self)
    }

    fn quick(options: &Options) -> Result<Vec<QuickRatio>> {
        /// As long as the agent asks most often.
        const UNTIL_S: [f64; 1] = [2.0];
        let (node, agent) = node(options)?;
        report::quick(&cost::measure(&node, &agent, &UNTIL_S)?)
    }
}

fn node(options: &Options) -> Result<(Node, Agent)> {
    let node = Node::new()?;
    node.api().put_namespace(NAMESPACE, &[("holdfast.dev/hold", "enabled")]);
    let options = AgentOptions::new(&options.agent).arg("--metrics-address=127.0.0.1:0");
    let agent = node.start_agent(&options)?;
    agent.wait_message(SOON, "agent armed")?;
    Ok((node, agent))
}

fn detections(node: &Node, agent: &Agent, runs: u32) -> Result<(Vec<Detection>, usize)> {
    /// So many pods a machine that is busy may cost.
    const MAY_FAIL: f64 = 0.02;
    let plan = plan(runs);
    eprintln!(
        "detect: {} pods, about {:.0} s",
        plan.len(),
        STAGGER.as_secs_f64() * plan.len() as f64
    );
    let played = schedule::play(node, &plan, STAGGER, play)?;
    let logs = agent.logs();
    let (mut detections, mut failed) = (Vec::new(), 0);
    for played in played {
        match played.and_then(|played| detection(&logs, &played)) {
            Ok(detection) => detections.push(detection),
            Err(error) => {
                eprintln!("detect: {error:#}");
                failed += 1;
                let most = MAY_FAIL * plan.len() as f64;
                if failed as f64 > most.max(1.0) {
                    return Err(error).with_context(|| format!("{failed} pods failed, the last"));
                }
            }
        }
    }
    Ok((detections, failed))
}

fn plan(runs: u32) -> Vec<Planned<Case>> {
    let probes = READY_S.map(|ready| (Source::Probe, ready));
    let kinds = probes.into_iter().chain([(Source::Kube, KUBE_READY_S)]);
    let mut cases: Vec<(Case, Duration)> = kinds
        .flat_map(|(source, ready)| {
            (0..runs).map(move |run| {
                let part = (f64::from(run) + 0.5) / f64::from(runs);
                let delay = Duration::from_secs_f64(ready) + SPREAD.mul_f64(part);
                ((source, ready), delay.saturating_sub(SPREAD / 2))
            })
        })
        .collect();
    fastrand::Rng::with_seed(11).shuffle(&mut cases);
    schedule::plan(cases, STAGGER)
}

fn play(&(source, ready_after_s): &Case, stage: &Stage<'_>) -> Result<Played> {
    let spec = PodSpec::new(NAMESPACE, &stage.name);
    let spec = match source {
        Source::Probe => spec,
        Source::Kube => spec.annotation("holdfast.dev/ready", "kube"),
    };
    let pod = stage.pod(spec)?;
    stage.wait_start();
    let app = pod.start_container("app", apps::connect(backend_v4())?)?;
    let proxy = pod.start_proxy_after(stage.proxy_after)?;
    let readiness = proxy.wait_readiness(SOON)?;
    let (ready_ns, resolution_ns) = match source {
        Source::Probe => readiness.after()?,
        Source::Kube => {
            let told_ns = monotonic_ns();
            pod.set_kube_ready(PROXY, true)?;
            (told_ns, 0)
        }
    };
    let attempt = app.wait_attempt(SOON)?;
    if !attempt.is_connected() {
        bail!("the connect ended with {}", attempt.outcome);
    }
    let uid = pod.uid().to_owned();
    drop((app, proxy));
    stage.end(pod)?;
    let connected_ns = attempt.end_ns;
    Ok(Played { uid, source, ready_after_s, ready_ns, resolution_ns, connected_ns })
}

/// With the moment that the agent's log tells.
fn detection(logs: &[Value], played: &Played) -> Result<Detection> {
    let Played { uid, source, ready_after_s, ready_ns, resolution_ns, connected_ns } = played;
    let opened = logs
        .iter()
        .find(|line| line["message"] == "gate opened" && line["pod_uid"] == uid.as_str())
        .with_context(|| format!("the agent's log has no opened gate of pod {uid}"))?;
    if opened["reason"] != source.reason() {
        bail!("the gate has opened by another source: {opened}");
    }
    let opened_ns = opened["mono_ns"].as_u64().context("an opened gate without its moment")?;
    Ok(Detection {
        source: *source,
        ready_after_s: *ready_after_s,
        known_ms: ms_between(*ready_ns, opened_ns),
        resolution_ms: ms_between(0, *resolution_ns),
        released_ms: ms_between(opened_ns, *connected_ns),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_detection_is_read_from_the_log_and_only_by_its_own_source() {
        let line = |reason: &str| json!({"message": "gate opened", "pod_uid": "u", "reason": reason, "mono_ns": 5_000_000});
        let played = Played {
            uid: "u".into(),
            source: Source::Probe,
            ready_after_s: 2.0,
            ready_ns: 3_000_000,
            resolution_ns: 250_000,
            connected_ns: 6_000_000,
        };
        let detection = |reason| detection(&[json!({}), line(reason)], &played);
        let found = detection(Source::Probe.reason()).unwrap();
        assert!((found.known_ms - 2.0).abs() < 1e-9 && (found.released_ms - 1.0).abs() < 1e-9);
        assert!(detection(Source::Kube.reason()).is_err());
        assert!(super::detection(&[], &played).is_err());
    }

    #[test]
    fn every_source_and_delay_is_played_so_often() {
        let plan = plan(3);
        assert_eq!(plan.len(), 3 * (READY_S.len() + 1));
        let of = |case: Case| plan.iter().filter(|planned| planned.case == case).count();
        assert_eq!((of((Source::Probe, 30.0)), of((Source::Kube, KUBE_READY_S))), (3, 3));
    }
}
