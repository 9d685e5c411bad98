//! What an attached gate costs a pod whose proxy is ready: the same pod and the same proxy, with
//! and without the programs, turn by turn.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    Agent, AgentOptions, Node, Pod, PodSpec, Process, Proxy, apps, backend_v4, bench::stats::Ratio,
    bpf,
};

const NAMESPACE: &str = "shop";
const GUARD: &str = "holdfast.dev/guard";
/// For everything that normally takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `holdfast` binary.
    pub agent: PathBuf,
    /// Pairs of rounds, one with and one without.
    pub pairs: u32,
    /// Length of a round.
    pub round: Duration,
}

/// What one loop repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// connect(), one request, close: the price of a connection.
    Connect,
    /// Requests over one connection: the price of a packet.
    Request,
}

/// How often a loop came round in a second, pair by pair.
#[derive(Clone, Debug)]
pub struct Series {
    /// What was repeated.
    pub work: Work,
    /// Without programs on the pod, and with them.
    pub pairs: Vec<(f64, f64)>,
}

impl Work {
    /// As users read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Request => "request",
        }
    }
}

impl Series {
    /// The ratio of the rates, with programs to without; `None` without pairs.
    #[must_use]
    pub fn ratio(&self) -> Option<Ratio> {
        Ratio::of_pairs(&self.pairs)
    }

    /// The mean rates without and with programs, in rounds of the loop a second.
    #[must_use]
    pub fn rates(&self) -> (f64, f64) {
        let count = self.pairs.len() as f64;
        let (without, with) =
            self.pairs.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        (without / count, with / count)
    }
}

/// A pod that works, and can be guarded or not.
struct Bench {
    agent: Agent,
    pod: Pod,
    _app: Process,
    _proxy: Proxy,
    // Declared last: the node ends after what runs on it.
    _node: Node,
}

/// Measures both kinds of work.
pub fn measure(options: &Options) -> Result<Vec<Series>> {
    let bench = Bench::start(options)?;
    [Work::Connect, Work::Request].into_iter().map(|work| bench.series(work, options)).collect()
}

impl Bench {
    fn start(options: &Options) -> Result<Self> {
        let node = Node::new()?;
        node.api().put_namespace(NAMESPACE, &[("holdfast.dev/hold", "enabled")]);
        let agent = node.start_agent(&AgentOptions::new(&options.agent))?;
        agent.wait_message(SOON, "agent armed")?;
        let pod = node.create_pod(PodSpec::new(NAMESPACE, "cart").annotation(GUARD, "disabled"))?;
        let app = pod.start_container("app", apps::testbed_app()?.arg("pause"))?;
        let proxy = pod.start_proxy()?;
        proxy.wait_ready(SOON)?;
        agent.wait_message(SOON, "gate detached")?;
        Ok(Self { agent, pod, _app: app, _proxy: proxy, _node: node })
    }

    fn series(&self, work: Work, options: &Options) -> Result<Series> {
        self.round(work, options.round)?;
        let mut pairs = Vec::new();
        for nth in 0..options.pairs {
            // Turn and turn about, so that a drift of the machine favours neither.
            let guarded_first = nth % 2 == 1;
            let mut rates = [0.0; 2];
            for guarded in [guarded_first, !guarded_first] {
                self.guard(guarded)?;
                rates[usize::from(guarded)] = self.round(work, options.round)?;
            }
            pairs.push((rates[0], rates[1]));
        }
        Ok(Series { work, pairs })
    }

    fn guard(&self, guarded: bool) -> Result<()> {
        if guarded == self.is_guarded()? {
            return Ok(());
        }
        let (message, value) =
            if guarded { ("gate guards", "enabled") } else { ("gate detached", "disabled") };
        let before = self.count(message);
        self.pod.patch(&json!({"metadata": {"annotations": {GUARD: value}}}));
        let mut seen = 0;
        self.agent.wait_log(SOON, |line| {
            seen += usize::from(line["message"] == message);
            seen > before
        })?;
        ensure!(self.is_guarded()? == guarded, "the programs are not as the agent says");
        Ok(())
    }

    fn is_guarded(&self) -> Result<bool> {
        Ok(!bpf::programs_below(self.pod.cgroup())?.is_empty())
    }

    fn count(&self, message: &str) -> usize {
        self.agent.logs().iter().filter(|line| line["message"] == message).count()
    }

    /// Rounds of the loop a second.
    fn round(&self, work: Work, time: Duration) -> Result<f64> {
        let command = apps::testbed_app()?
            .args(["throughput", "--what", work.as_str()])
            .args(["--to", &backend_v4().to_string()])
            .args(["--for", &time.as_millis().to_string()]);
        let client = self.pod.exec("app", command)?;
        let round = client.wait_record(time + SOON, |line| line["event"] == "round")?;
        client.wait(SOON)?;
        let field = |name: &str| round[name].as_f64().context("a round without its numbers");
        Ok(field("count")? / (field("nanos")? / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_the_means_of_each_side() {
        let pairs = vec![(100.0, 90.0), (100.0, 110.0)];
        let (without, with) = Series { work: Work::Connect, pairs }.rates();
        assert!((without - 100.0).abs() < 1e-9 && (with - 100.0).abs() < 1e-9);
    }
}
