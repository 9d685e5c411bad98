//! What holdfast costs a pod whose proxy is ready: the same pod and the same Envoy without holdfast,
//! with an open gate, and with the guard, turn by turn.

mod programs;
mod rate;
mod report;
mod scene;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use self::{programs::ProgramCost, rate::Rate, scene::Scene};
use super::{Measure, Options, QuickRatio, Section, stats::Ratio};

/// Rounds of each kind in each state: each order of the states six times.
const PAIRS: u32 = 36;
/// Slices of a round in each of the two pods.
const SLICES: u64 = 30;
/// Of the quick form.
const QUICK_PAIRS: u32 = 12;
const QUICK_SLICES: u64 = 15;

/// What is on the pod.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// No agent, no program.
    Without,
    /// An agent works, and has taken its programs off the pod.
    Open,
    /// An agent works, and the guard stays attached.
    Guarded,
}

/// What a loop repeats.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// connect(), one request, close: the price of a connection.
    Connect,
    /// Requests over one connection: the price of a request's packets.
    Request,
    /// Answers of 1 MiB over one connection: the price of many packets.
    Bytes,
}

/// How often a loop came round in a second, in each state at about the same time.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Round {
    /// What it repeated.
    pub(crate) work: Work,
    /// The rates.
    pub(crate) rates: BTreeMap<State, Rate>,
}

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Steady {
    /// How many slices a round has in each pod.
    pub(crate) slices: u64,
    /// All rounds.
    pub(crate) rounds: Vec<Round>,
    /// What the programs take.
    pub(crate) programs: Vec<ProgramCost>,
}

// === impl State ===

impl State {
    pub(crate) const ALL: [Self; 3] = [Self::Without, Self::Open, Self::Guarded];

    /// All orders in which they can take turns: in six turns each has each other one just before it and
    /// just after it as often, and is first, second and last as often.
    const ORDERS: [[Self; 3]; 6] = [
        [Self::Without, Self::Open, Self::Guarded],
        [Self::Guarded, Self::Open, Self::Without],
        [Self::Open, Self::Without, Self::Guarded],
        [Self::Guarded, Self::Without, Self::Open],
        [Self::Without, Self::Guarded, Self::Open],
        [Self::Open, Self::Guarded, Self::Without],
    ];
}

// === impl Work ===

impl Work {
    pub(crate) const ALL: [Self; 3] = [Self::Connect, Self::Request, Self::Bytes];

    /// As `testbed-app throughput` knows it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Request => "request",
            Self::Bytes => "bytes",
        }
    }

    /// What is counted a second.
    const fn counted(self) -> &'static str {
        match self {
            Self::Connect => "connects",
            Self::Request => "requests",
            Self::Bytes => "MiB",
        }
    }

    /// How many of what the loop counts are one of that.
    const fn unit(self) -> f64 {
        match self {
            Self::Connect | Self::Request => 1.0,
            Self::Bytes => 1024.0 * 1024.0,
        }
    }
}

// === impl Steady ===

impl Measure for Steady {
    fn measure(options: &Options) -> Result<Self> {
        let mut scene = Scene::new(&options.agent)?;
        let rounds = rounds(&mut scene, options.runs_or(PAIRS), SLICES)?;
        let programs = programs::measure(&mut scene)?;
        Ok(Self { slices: SLICES, rounds, programs })
    }

    fn section(&self) -> Section {
        report::section(self)
    }

    fn quick(options: &Options) -> Result<Vec<QuickRatio>> {
        /// Of a rate that is nearly the one without holdfast: as much as rounds so short tell.
        const TOLERATED: f64 = 0.05;
        let mut scene = Scene::new(&options.agent)?;
        let rounds = rounds(&mut scene, options.runs_or(QUICK_PAIRS), QUICK_SLICES)?;
        let ratio = |work: Work, state, name: &str| {
            let ratio = ratio(&rounds, work, state).context("no rounds")?;
            let name = format!("{}/s, {name}", work.counted());
            // A loss of a fifth, as with other ratios, would be ten times what a gate costs.
            // More than without holdfast is chance, and would be missed the next time.
            Ok(QuickRatio::higher(name, ratio.median.min(1.0)).tolerating(TOLERATED))
        };
        let kinds = [
            (State::Open, "open gate to no holdfast"),
            (State::Guarded, "guarded gate to no holdfast"),
        ];
        Work::ALL
            .into_iter()
            .flat_map(|work| kinds.map(|(state, name)| ratio(work, state, name)))
            .collect()
    }
}

fn rounds(scene: &mut Scene, pairs: u32, slices: u64) -> Result<Vec<Round>> {
    // What is slow the first time is slow before anything counts.
    for work in Work::ALL {
        scene.compare(work, slices)?;
    }
    let mut rounds = Vec::new();
    // Turn and turn about, so that a drift of the machine favours none.
    for (_, states) in (0..pairs).zip(State::ORDERS.iter().cycle()) {
        let mut of_pair = Work::ALL.map(|work| Round { work, rates: BTreeMap::new() });
        for state in states {
            scene.enter(*state)?;
            for Round { work, rates } in &mut of_pair {
                rates.insert(*state, scene.compare(*work, slices)?);
            }
        }
        rounds.extend(of_pair);
    }
    Ok(rounds)
}

/// The rates without holdfast and in this state, turn by turn, each as a share of the other pod's: a
/// processor that is half as fast for a second halves both.
fn pairs(rounds: &[Round], work: Work, state: State) -> Vec<(f64, f64)> {
    let pair = |Round { rates, .. }: &Round| {
        Some((rates.get(&State::Without)?.to_other, rates.get(&state)?.to_other))
    };
    rounds.iter().filter(|round| round.work == work).filter_map(pair).collect()
}

/// Their ratio.
fn ratio(rounds: &[Round], work: Work, state: State) -> Option<Ratio> {
    Ratio::of_pairs(&pairs(rounds, work, state))
}

#[cfg(test)]
mod tests {
    use super::{rate::Side, *};

    /// On a machine that is so fast.
    fn rate(to_other: f64, speed: f64) -> Rate {
        let side = |per_second| Side { per_second, lost: 0, longest_ms: 1.0 };
        Rate { served: side(1000.0 * to_other * speed), other: side(1000.0 * speed), to_other }
    }

    #[test]
    fn no_state_is_favoured_by_its_place() {
        for state in State::ALL {
            for place in 0..3 {
                let there = State::ORDERS.iter().filter(|order| order[place] == state).count();
                assert_eq!(there, 2, "{state:?} at {place}");
            }
        }
        for (number, order) in State::ORDERS.iter().enumerate() {
            assert!(!State::ORDERS[..number].contains(order), "{order:?} comes twice");
        }
    }

    #[test]
    fn a_ratio_is_of_one_work_and_of_two_states() {
        let round = |work, without, open| {
            let rates = [(State::Without, rate(without, 1.0)), (State::Open, rate(open, 0.5))];
            Round { work, rates: rates.into() }
        };
        let rounds = [round(Work::Connect, 1.0, 0.9), round(Work::Request, 1.1, 0.55)];
        let median = |work| ratio(&rounds, work, State::Open).unwrap().median;
        assert!((median(Work::Connect) - 0.9).abs() < 1e-9);
        assert!((median(Work::Request) - 0.5).abs() < 1e-9);
        assert!(ratio(&rounds, Work::Bytes, State::Open).is_none());
        assert!(ratio(&rounds, Work::Connect, State::Guarded).is_none());
    }
}
