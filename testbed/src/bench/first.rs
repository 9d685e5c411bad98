//! Time to first connection: the same pod with the same slow proxy, once for each way to deal with
//! that.

mod play;
mod report;
mod way;

use std::{f64::consts::GOLDEN_RATIO, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use self::{
    play::{Case, Cell, Start},
    way::Way,
};
use super::{
    Measure, Options, QuickRatio, Section,
    schedule::{self, STAGGER},
};
use crate::Node;

/// How late proxies are, and how long applications boot, in milliseconds.
const READY_MS: [u64; 3] = [500, 2_000, 10_000];
const BOOT_MS: [u64; 2] = [0, 3_000];
/// Of each way in each cell.
const RUNS: u32 = 50;
/// How late Envoy itself is after its start; the moment of readiness is measured, this only aims.
const ENVOY_BOOT: Duration = Duration::from_millis(90);
/// Proxies become ready at any moment of a period of this length, or of their own delay's if that is
/// shorter: whoever asks at fixed times would otherwise be always lucky, or never.
const SPREAD: Duration = Duration::from_secs(1);
/// In which the pods overlap with no other: their own time and that of their removal.
const ALONE: Duration = Duration::from_millis(2_500);
/// The cell in which that is measured.
const ALONE_CELL: Cell = Cell { ready_ms: 500, boot_ms: 0 };
/// How many of each way, at most.
const ALONE_RUNS: u32 = 20;
/// Of the quick form.
const QUICK_RUNS: u32 = 50;

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct First {
    /// How many pods of each way in each cell were wanted.
    pub(crate) runs: u32,
    /// Each pod that came to its connection.
    pub(crate) starts: Vec<Start>,
    /// Each that did not.
    pub(crate) failures: Vec<Failure>,
}

/// A pod of which nothing is known but why.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Failure {
    /// What was done.
    pub(crate) way: Way,
    /// In which cell.
    pub(crate) cell: Cell,
    /// Overlapped with no other.
    pub(crate) is_alone: bool,
    /// What happened.
    pub(crate) error: String,
}

// === impl First ===

impl Measure for First {
    fn measure(options: &Options) -> Result<Self> {
        let runs = options.runs_or(RUNS);
        let (node, agent) = play::node(options)?;
        let cells =
            READY_MS.iter().flat_map(|&ready_ms| BOOT_MS.map(|boot_ms| Cell { ready_ms, boot_ms }));
        let all: Vec<Case> = cells.flat_map(|cell| cases(&Way::ALL, cell, runs, false)).collect();
        let mut first = run(&node, all, STAGGER)?;
        let alone = cases(&[Way::Hold, Way::Ideal], ALONE_CELL, runs.min(ALONE_RUNS), true);
        let alone = run(&node, alone, ALONE)?;
        first.starts.extend(alone.starts);
        first.failures.extend(alone.failures);
        drop(agent);
        Ok(Self { runs, ..first })
    }

    fn section(&self) -> Section {
        report::section(self)
    }

    fn quick(options: &Options) -> Result<Vec<QuickRatio>> {
        let (node, agent) = play::node(options)?;
        let runs = options.runs_or(QUICK_RUNS);
        let cases = cases(&[Way::Hold, Way::Ideal], ALONE_CELL, runs, false);
        let Self { starts, .. } = run(&node, cases, STAGGER)?;
        drop(agent);
        report::quick(&starts)
    }
}

/// Of each way so many pods, whose proxies' delays fill the spread evenly.
fn cases(ways: &[Way], cell: Cell, runs: u32, is_alone: bool) -> Vec<Case> {
    let case = |way, run| {
        let delay = (f64::from(run) + 0.5) / f64::from(runs);
        // Even as well, and independent of the other: multiples of the golden ratio.
        let phase = (f64::from(run) * GOLDEN_RATIO).fract();
        Case { way, cell, is_alone, delay, phase }
    };
    ways.iter().flat_map(|&way| (0..runs).map(move |run| case(way, run))).collect()
}

/// From the pod's start to its proxy's.
fn proxy_after(cell: Cell, random: f64) -> Duration {
    let ready = Duration::from_millis(cell.ready_ms);
    let spread = SPREAD.min(ready / 2);
    (ready + spread.mul_f64(random)).saturating_sub(spread / 2 + ENVOY_BOOT)
}

fn run(node: &Node, mut cases: Vec<Case>, step: Duration) -> Result<First> {
    // A drift of the machine must favour no way; and what is random is the same in every run.
    let mut random = fastrand::Rng::with_seed(7);
    random.shuffle(&mut cases);
    let planned = cases.into_iter().map(|case| (case, proxy_after(case.cell, case.delay)));
    let plan = schedule::plan(planned, step);
    let minutes = step.as_secs_f64() * plan.len() as f64 / 60.0;
    eprintln!("first: {} pods, about {minutes:.1} minutes", plan.len());
    let played = schedule::play(node, &plan, step, play::play)?;
    let mut first = First { runs: 0, starts: Vec::new(), failures: Vec::new() };
    for (planned, played) in plan.iter().zip(played) {
        match played {
            Ok(start) => first.starts.push(start),
            Err(error) => {
                let error = format!("{error:#}");
                eprintln!("first: {error}");
                let Case { way, cell, is_alone, .. } = planned.case;
                first.failures.push(Failure { way, cell, is_alone, error });
            }
        }
    }
    first.ensure_few_failed()?;
    Ok(first)
}

impl First {
    /// A machine that is busy may cost a way a pod in a cell. More would make what is left of them look
    /// better than they are.
    fn ensure_few_failed(&self) -> Result<()> {
        const MAY_FAIL: usize = 1;
        ensure!(!self.starts.is_empty(), "no pod was played");
        for Failure { way, cell, is_alone, error } in &self.failures {
            let same = |failure: &&Failure| {
                (failure.way, failure.cell, failure.is_alone) == (*way, *cell, *is_alone)
            };
            let count = self.failures.iter().filter(same).count();
            ensure!(
                count <= MAY_FAIL,
                "{count} pods of {:?} failed with {cell:?}: {error}",
                way.as_str()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_fill_the_spread_around_the_cell_s() {
        let delay =
            |ready_ms, random| proxy_after(Cell { ready_ms, boot_ms: 0 }, random) + ENVOY_BOOT;
        assert_eq!(delay(10_000, 0.0), Duration::from_millis(9_500));
        assert_eq!(delay(10_000, 0.5), Duration::from_millis(10_000));
        assert_eq!(delay(500, 0.0), Duration::from_millis(375));
        assert_eq!(delay(500, 0.5), Duration::from_millis(500));
        let cases = cases(&[Way::Hold], ALONE_CELL, 4, false);
        let delays: Vec<f64> = cases.iter().map(|case| case.delay).collect();
        assert_eq!(delays, [0.125, 0.375, 0.625, 0.875]);
    }

    #[test]
    fn phases_fill_their_period_in_every_part_of_the_delays() {
        let cases = cases(&[Way::NativeSidecar], ALONE_CELL, 50, false);
        for part in cases.chunks(10) {
            let phases = part.iter().map(|case| case.phase);
            let mut phases: Vec<f64> = phases.chain([0.0, 1.0]).collect();
            phases.sort_by(f64::total_cmp);
            let gaps = phases.windows(2).map(|two| two[1] - two[0]);
            assert!(gaps.fold(0.0, f64::max) < 0.2, "{phases:?}");
        }
    }

    #[test]
    fn a_way_that_loses_more_than_one_pod_in_a_cell_counts_for_nothing() {
        let cell = |boot_ms| Cell { boot_ms, ..ALONE_CELL };
        let failure = |way, boot_ms| {
            let error = "why".to_owned();
            Failure { way, cell: cell(boot_ms), is_alone: false, error }
        };
        let start = Start {
            way: Way::Hold,
            cell: cell(0),
            is_alone: false,
            ready_ms: 500.0,
            resolution_ms: 0.25,
            handover_ms: None,
            application_ms: 0.0,
            connected_ms: 501.0,
            starts: 1,
        };
        let few = vec![failure(Way::Hold, 0), failure(Way::Hold, 3000), failure(Way::Ideal, 0)];
        let mut first = First { runs: 50, starts: vec![start], failures: few };
        assert!(first.ensure_few_failed().is_ok());
        first.failures.push(failure(Way::Hold, 3000));
        let error = first.ensure_few_failed().unwrap_err().to_string();
        assert!(error.contains("2 pods") && error.contains("why"), "{error}");
        first.failures.clear();
        first.starts.clear();
        assert!(first.ensure_few_failed().is_err());
    }
}
