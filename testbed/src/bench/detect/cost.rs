//! What it costs to ask: pods that wait side by side, and what the agent does for them meanwhile.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{NAMESPACE, SOON};
use crate::{
    Agent, Node, Pod, PodSpec, Process, Proxy, apps, backend_v4,
    clock::{monotonic_ns, sleep_until},
};

/// After how many seconds of waiting the agent's books are read.
pub(super) const UNTIL_S: [f64; 3] = [0.5, 2.0, 10.0];
/// Pods that wait at the same time: enough that what the agent does for them stands out.
const PODS: usize = 10;
/// How long the agent's own life without them is measured.
const IDLE: Duration = Duration::from_secs(5);
/// What a scrape tells may be so old.
const OLDEST: Duration = Duration::from_millis(300);
/// A path that this proxy answers with 404, as one that is not ready answers with 503.
const NEVER: &str = "http://:15021/not-yet";

/// What a proxy that is not ready does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Proxies {
    /// It does not run yet.
    Absent,
    /// It answers that it is not ready.
    NotReady,
}

/// What the agent does for a pod that waits.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub(crate) proxies: Proxies,
    /// How long it has waited.
    pub(crate) until_s: f64,
    /// Rounds of the probe: in each the agent asks the kernel who listens, and the proxy if that does.
    pub(crate) rounds: f64,
    /// Requests to the proxy, which is asked only where it listens.
    pub(crate) requests: f64,
    /// Of the agent's processor time.
    pub(crate) cpu_ms: f64,
}

/// The agent's books at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
    ns: u64,
    rounds: f64,
    requests: f64,
    cpu_ms: f64,
}

struct Books<'a> {
    node: &'a Node,
    address: SocketAddr,
}

/// Measures both kinds of proxies.
pub(super) fn measure(node: &Node, agent: &Agent, until_s: &[f64]) -> Result<Vec<Cost>> {
    let line = agent.wait_message(SOON, "metrics are served")?;
    let address = line["address"].as_str().context("metrics without an address")?.parse()?;
    let books = Books { node, address };
    let before = books.read()?;
    sleep_until(before.ns + nanos(IDLE.saturating_sub(OLDEST)));
    let after = books.read()?;
    // Per millisecond of the clock.
    let idle = (after.cpu_ms - before.cpu_ms) / ms(after.ns - before.ns);
    let mut costs = Vec::new();
    for proxies in [Proxies::Absent, Proxies::NotReady] {
        costs.extend(of(&books, proxies, until_s, idle)?);
    }
    Ok(costs)
}

fn of(books: &Books<'_>, proxies: Proxies, until_s: &[f64], idle: f64) -> Result<Vec<Cost>> {
    let name = |number: usize| format!("waits-{}-{number}", proxies.as_str());
    let waiting: Vec<Waiting> = (0..PODS)
        .map(|number| Waiting::start(books.node, &name(number), proxies))
        .collect::<Result<_>>()?;
    for pod in &waiting {
        pod.app.wait_connecting(SOON)?;
    }
    let first = books.read()?;
    until_s
        .iter()
        .map(|until| {
            let until_read = Duration::from_secs_f64(*until).saturating_sub(OLDEST);
            sleep_until(first.ns + nanos(until_read));
            let now = books.read()?;
            let pods = PODS as f64;
            let idle_ms = idle * ms(now.ns - first.ns);
            Ok(Cost {
                proxies,
                until_s: *until,
                rounds: (now.rounds - first.rounds) / pods,
                requests: (now.requests - first.requests) / pods,
                cpu_ms: (now.cpu_ms - first.cpu_ms - idle_ms).max(0.0) / pods,
            })
        })
        .collect()
}

/// A pod whose application waits.
struct Waiting {
    app: Process,
    _proxy: Option<Proxy>,
    _pod: Pod,
}

impl Waiting {
    fn start(node: &Node, name: &str, proxies: Proxies) -> Result<Self> {
        let spec = PodSpec::new(NAMESPACE, name).annotation("holdfast.dev/ready", NEVER);
        let pod = node.create_pod(spec)?;
        let proxy = match proxies {
            Proxies::Absent => None,
            Proxies::NotReady => {
                let proxy = pod.start_proxy()?;
                proxy.wait_ready(SOON)?;
                Some(proxy)
            }
        };
        let app = pod.start_container("app", apps::connect(backend_v4())?)?;
        Ok(Self { app, _proxy: proxy, _pod: pod })
    }
}

// === impl Proxies ===

impl Proxies {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::NotReady => "not-ready",
        }
    }
}

// === impl Books ===

impl Books<'_> {
    /// After [`OLDEST`].
    fn read(&self) -> Result<Reading> {
        std::thread::sleep(OLDEST);
        let text = self.scrape().context("read the agent's metrics")?;
        let path = self.node.agent_cgroup()?.path().join("cpu.stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Reading {
            ns: monotonic_ns(),
            rounds: rounds(&text, |_| true),
            requests: rounds(&text, is_answer),
            cpu_ms: usage_us(&stat).context("cpu.stat without usage_usec")? / 1e3,
        })
    }

    fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Whether a round that ended so has asked the proxy.
fn is_answer(series: &str) -> bool {
    ["ready", "not-ready-status", "timeout"]
        .iter()
        .any(|result| series.contains(&format!("result=\"{result}\"")))
}

fn rounds(metrics: &str, wanted: impl Fn(&str) -> bool) -> f64 {
    metrics
        .lines()
        .filter(|line| line.starts_with("holdfast_probe_rounds_total{") && wanted(line))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

fn usage_us(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("less than centuries")
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_and_only_answers_were_requests() {
        let metrics = "# TYPE holdfast_probe_rounds counter\n\
            holdfast_probe_rounds_total{result=\"ready\"} 1\n\
            holdfast_probe_rounds_total{result=\"refused\"} 400\n\
            holdfast_probe_rounds_total{result=\"not-ready-status\"} 20\n\
            holdfast_other_total{result=\"ready\"} 7\n";
        assert_eq!(rounds(metrics, |_| true), 421.0);
        assert_eq!(rounds(metrics, is_answer), 21.0);
        assert_eq!(usage_us("usage_usec 1500\nuser_usec 1000\n"), Some(1500.0));
        assert_eq!(usage_us(""), None);
    }
}
