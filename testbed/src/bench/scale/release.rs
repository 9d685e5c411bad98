//! Many sockets that wait, and go on at once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Agent, Lane, Node, PROXY, PROXY_ID, PROXY_PORT, Pod, PodSpec, Process, apps, backend_v4,
    bench::stats::Percentiles,
    clock::{monotonic_ns, ms_between},
    light::{self, NAMESPACE, SOON},
};

/// Sockets of one pod at most.
const SOCKETS_A_POD: u32 = 250;

/// What a proxy's queue takes: it accepts nobody, so that the cores are the agent's and the kernel's.
const BACKLOG: u32 = 1024;

/// How long connections stay: until all are measured.
const STAY: Duration = Duration::from_secs(5);

/// From the start of the first proxy to the readiness of all, which are told the same instant: some time,
/// and more for each, as long as a busy machine takes to start one.
const READY_AFTER: Duration = Duration::from_millis(500);
const READY_AFTER_A_POD: Duration = Duration::from_millis(50);

/// Sockets that waited, and were released together.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Release {
    /// How many.
    pub(crate) sockets: u32,
    /// In how many pods.
    pub(crate) pods: u32,
    /// From their own proxy's readiness to their connection, in milliseconds.
    pub(crate) after_ready_ms: Percentiles,
    /// From the opening of their own gate to their connection.
    pub(crate) after_open_ms: Percentiles,
    /// From the first proxy's readiness to the last one's.
    pub(crate) ready_spread_ms: f64,
    /// From the first proxy's readiness to the last connection. Not from the last one's: proxies that are
    /// ready later find the cores busy with the first releases, which then would count for nothing.
    pub(crate) all_ms: f64,
}

/// How many pods so many sockets take.
pub(super) const fn pods(sockets: u32) -> u32 {
    sockets.div_ceil(SOCKETS_A_POD)
}

/// How many networks these numbers of sockets take.
pub(super) fn lanes(sockets: &[u32]) -> usize {
    sockets.iter().map(|sockets| pods(*sockets) as usize).max().unwrap_or_default()
}

/// A pod whose application waits.
struct Waiting {
    pod: Pod,
    app: Process,
    sockets: u32,
}

impl Waiting {
    /// Whose proxy is ready as soon as it listens.
    fn begin(node: &Node, lane: &Lane, name: String, sockets: u32) -> Result<Self> {
        let ready = format!("tcp://:{PROXY_PORT}");
        let spec = PodSpec::new(NAMESPACE, name).annotation("holdfast.dev/ready", ready);
        let pod = light::attached_of(node, lane, spec)?;
        let client = apps::connect(backend_v4())?.nonblocking().count(sockets).summed();
        let app = pod.start_container("app", client.hold_open(STAY))?;
        app.wait_record(SOON, |line| line["event"] == "connecting")?;
        Ok(Self { pod, app, sockets })
    }

    fn start_proxy(&self, at_ns: u64) -> Result<Process> {
        let listener = apps::late_listener(PROXY_PORT, BACKLOG, at_ns)?;
        self.pod.start_container(PROXY, listener.user(PROXY_ID, PROXY_ID))
    }

    /// When its connects ended.
    fn ends_ns(&self) -> Result<Vec<u64>> {
        Ok(connects(&self.app, self.sockets)?.1)
    }
}

/// When an application's connects began, and when each ended.
fn connects(app: &Process, sockets: u32) -> Result<(u64, Vec<u64>)> {
    let told = app.wait_record(SOON, |line| line["event"] == "connects")?;
    let ends = told["ends_ns"].as_array().context("connects without their ends")?;
    let ends: Vec<u64> = ends.iter().filter_map(Value::as_u64).collect();
    ensure!(ends.len() == sockets as usize, "not all are connected: {told}");
    Ok((told["began_ns"].as_u64().context("connects without their beginning")?, ends))
}

/// As many connects of one pod that has no gate to a proxy that listens, in milliseconds from the first
/// one's beginning to the last one's end: what so many connections cost on this machine anyway.
pub(super) fn ungated_ms(node: &Node, lane: &Lane, sockets: u32) -> Result<f64> {
    /// Not enabled, and known for that: a pod of a namespace that nobody knows waits.
    const PLAIN: &str = "plain";
    node.api().put_namespace(PLAIN, &[]);
    let pod = node.pod(PodSpec::new(PLAIN, format!("ungated-{}", monotonic_ns())))?;
    pod.publish()?;
    pod.create_cgroup()?;
    pod.start_sandbox_in(lane)?;
    let listener = apps::late_listener(PROXY_PORT, BACKLOG, 0)?;
    let proxy = pod.start_container(PROXY, listener.user(PROXY_ID, PROXY_ID))?;
    proxy.wait_record(SOON, |line| line["event"] == "listening")?;
    let client = apps::connect(backend_v4())?.nonblocking().count(sockets).summed();
    let app = pod.start_container("app", client)?;
    let (began_ns, ends_ns) = connects(&app, sockets)?;
    let last = ends_ns.into_iter().max().context("no connects")?;
    Ok(ms_between(began_ns, last))
}

pub(super) fn measure(node: &Node, agent: &Agent, lanes: &[Lane], sockets: u32) -> Result<Release> {
    let mut waiting = Vec::new();
    let mut left = sockets;
    for (number, lane) in lanes.iter().take(pods(sockets) as usize).enumerate() {
        let name = format!("waiting-{}-{number}", monotonic_ns());
        let count = left.min(SOCKETS_A_POD);
        left -= count;
        waiting.push(Waiting::begin(node, lane, name, count)?);
    }
    ensure!(left == 0, "too few networks for {sockets} sockets");
    let ready_after = READY_AFTER + READY_AFTER_A_POD * pods(sockets);
    let ready_at = monotonic_ns() + ready_after.as_nanos() as u64;
    let mut proxies = Vec::new();
    for pod in &waiting {
        proxies.push(pod.start_proxy(ready_at)?);
    }
    let (mut after_ready, mut after_open) = (Vec::new(), Vec::new());
    let (mut first_ready, mut last_ready, mut last_end) = (u64::MAX, 0, 0);
    for (waiting, proxy) in waiting.iter().zip(&proxies) {
        let listening = proxy.wait_record(SOON, |line| line["event"] == "listening")?;
        let ready_ns = listening["mono_ns"].as_u64().context("no instant in \"listening\"")?;
        let ends = waiting.ends_ns()?;
        let opened = agent.wait_log(SOON, |line| {
            line["message"] == "gate opened" && line["pod_uid"] == waiting.pod.uid()
        })?;
        let opened_ns = opened["mono_ns"].as_u64().context("no instant in \"gate opened\"")?;
        for end_ns in ends {
            after_ready.push(ms_between(ready_ns, end_ns));
            after_open.push(ms_between(opened_ns, end_ns));
            last_end = last_end.max(end_ns);
        }
        first_ready = first_ready.min(ready_ns);
        last_ready = last_ready.max(ready_ns);
    }
    Ok(Release {
        sockets,
        pods: pods(sockets),
        after_ready_ms: Percentiles::of(&after_ready).context("no socket waited")?,
        after_open_ms: Percentiles::of(&after_open).context("no socket waited")?,
        ready_spread_ms: ms_between(first_ready, last_ready),
        all_ms: ms_between(first_ready, last_end),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_network_for_each_pod() {
        assert_eq!([1, 250, 251, 10_000].map(pods), [1, 1, 2, 40]);
        assert_eq!(lanes(&[1, 10_000, 100]), 40);
    }
}
