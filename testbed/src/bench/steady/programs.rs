//! What the programs take in the kernel, run by run.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Scene, State, Work};
use crate::{
    PodSpec, apps, backend_v4,
    bpf::{Counting, Runs, runs_on},
    light::{NAMESPACE, SOON},
};

/// How long the kernel's counts grow: tens of thousands of runs.
const TIME: Duration = Duration::from_millis(1000);

/// In what a program was measured.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Situation {
    /// The gate is open and guarded; connections are made.
    GuardedConnects,
    /// The gate is open and guarded; much is received over one connection.
    GuardedBytes,
    /// The gate is closed; every connect waits, and is given up at once.
    Closed,
}

/// One program's runs in one situation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ProgramCost {
    /// The hook that it is on.
    pub(crate) hook: String,
    /// The situation.
    pub(crate) situation: Situation,
    /// How often it ran.
    pub(crate) runs: u64,
    /// How long all these runs took, in nanoseconds.
    pub(crate) nanos: u64,
    /// How many connects were made meanwhile, or bytes received.
    pub(crate) done: u64,
}

// === impl Situation ===

impl Situation {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::GuardedConnects => "guarded, connect + request + close",
            Self::GuardedBytes => "guarded, bytes",
            Self::Closed => "closed, connects that wait",
        }
    }
}

// === impl ProgramCost ===

impl ProgramCost {
    /// As the documents call the program.
    pub(super) fn program(&self) -> &str {
        match self.hook.as_str() {
            "egress" => "gate",
            "connect4" | "connect6" => "connect",
            "sock_ops" => "retransmit",
            "sock_release" => "release",
            hook => hook,
        }
    }

    pub(super) fn nanos_a_run(&self) -> f64 {
        self.nanos as f64 / self.runs as f64
    }
}

/// Each program in each situation.
pub(super) fn measure(scene: &mut Scene) -> Result<Vec<ProgramCost>> {
    scene.enter(State::Guarded)?;
    let late = scene.node().create_pod(PodSpec::new(NAMESPACE, "late"))?;
    let _app = late.start_container("app", apps::testbed_app()?.arg("pause"))?;
    let flood = || -> Result<u64> {
        let command = apps::testbed_app()?
            .args(["flood", "--to", &backend_v4().to_string()])
            .args(["--time", &TIME.as_millis().to_string()]);
        let flood = late.exec("app", command)?;
        let told = flood.wait_record(TIME + SOON, |line| line["event"] == "flood")?;
        told["begun"].as_u64().context("a flood without its number")
    };
    let mut all = Vec::new();
    for situation in [Situation::GuardedConnects, Situation::GuardedBytes, Situation::Closed] {
        let cgroup = match situation {
            Situation::Closed => late.cgroup().path(),
            _ => scene.pod().cgroup().path(),
        };
        let counting = Counting::start()?;
        let before = runs_on(cgroup)?;
        let done = match situation {
            Situation::GuardedConnects => scene.work(Work::Connect, TIME)?,
            Situation::GuardedBytes => scene.work(Work::Bytes, TIME)?,
            Situation::Closed => flood()?,
        };
        let after = runs_on(cgroup)?;
        drop(counting);
        all.extend(costs(situation, &before, &after, done));
    }
    Ok(all)
}

/// What has run meanwhile.
fn costs(
    situation: Situation,
    before: &BTreeMap<&str, Runs>,
    after: &BTreeMap<&str, Runs>,
    done: u64,
) -> Vec<ProgramCost> {
    let cost = |(hook, after): (&&str, &Runs)| {
        let Runs { count, nanos } = after.since(before.get(hook).copied().unwrap_or_default());
        let hook = (*hook).to_owned();
        (count > 0).then_some(ProgramCost { hook, situation, runs: count, nanos, done })
    };
    after.iter().filter_map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_run_meanwhile_has_a_cost() {
        let runs = |count, nanos| Runs { count, nanos };
        let before = [("egress", runs(10, 500)), ("sock_release", runs(7, 70))];
        let after = [("egress", runs(30, 1300)), ("sock_release", runs(7, 70))];
        let costs = costs(Situation::Closed, &before.into(), &after.into(), 20);
        assert_eq!(costs.len(), 1);
        assert_eq!((costs[0].hook.as_str(), costs[0].runs), ("egress", 20));
        assert!((costs[0].nanos_a_run() - 40.0).abs() < 1e-9);
    }
}
