//! Many sockets that wait, and go on at once.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    Agent, Lane, Node,
    bench::stats::Percentiles,
    clock::{monotonic_ns, ms_between},
    light::{self, LightProxy, SOON},
};

/// Sockets of one pod at most: a proxy's accept queue takes more.
const SOCKETS_A_POD: u32 = 250;

/// From the start of the first proxy to the readiness of all: each is told how long it is to wait.
const READY_AFTER: Duration = Duration::from_millis(1_500);

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
    /// From the last proxy's readiness to the last connection.
    pub(crate) all_ms: f64,
}

/// How many pods so many sockets take.
const fn pods(sockets: u32) -> u32 {
    sockets.div_ceil(SOCKETS_A_POD)
}

/// How many networks these numbers of sockets take.
pub(super) fn lanes(sockets: &[u32]) -> usize {
    sockets.iter().map(|sockets| pods(*sockets) as usize).max().unwrap_or_default()
}

pub(super) fn measure(
    node: &Node,
    agent: &Agent,
    lanes: &[Lane],
    holdfast: &Path,
    sockets: u32,
) -> Result<Release> {
    let mut waiting = Vec::new();
    let mut left = sockets;
    for (number, lane) in lanes.iter().take(pods(sockets) as usize).enumerate() {
        let name = format!("waiting-{}-{number}", monotonic_ns());
        let pod = light::attached(node, lane, name)?;
        let count = left.min(SOCKETS_A_POD);
        left -= count;
        let app = light::dial_many(&pod, count)?;
        waiting.push((pod, app, count));
    }
    ensure!(left == 0, "too few networks for {sockets} sockets");
    let ready_at = monotonic_ns() + READY_AFTER.as_nanos() as u64;
    let mut proxies = Vec::new();
    for (pod, _, _) in &waiting {
        let delay = Duration::from_nanos(ready_at.saturating_sub(monotonic_ns()));
        proxies.push(LightProxy::start(pod, holdfast, delay)?);
    }
    let (mut after_ready, mut after_open) = (Vec::new(), Vec::new());
    let (mut last_ready, mut last_end) = (0, 0);
    for ((pod, app, count), proxy) in waiting.iter().zip(&proxies) {
        let ready_ns = proxy.wait_ready()?;
        let attempts = app.wait_attempts(SOON, *count as usize)?;
        let opened = agent.wait_log(SOON, |line| {
            line["message"] == "gate opened" && line["pod_uid"] == pod.uid()
        })?;
        let opened_ns = opened["mono_ns"].as_u64().context("no instant in \"gate opened\"")?;
        for attempt in attempts {
            ensure!(attempt.is_connected(), "a socket that waited: {attempt:?}");
            after_ready.push(ms_between(ready_ns, attempt.end_ns));
            after_open.push(ms_between(opened_ns, attempt.end_ns));
            last_end = last_end.max(attempt.end_ns);
        }
        last_ready = last_ready.max(ready_ns);
    }
    Ok(Release {
        sockets,
        pods: pods(sockets),
        after_ready_ms: Percentiles::of(&after_ready).context("no socket waited")?,
        after_open_ms: Percentiles::of(&after_open).context("no socket waited")?,
        all_ms: ms_between(last_ready, last_end),
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
