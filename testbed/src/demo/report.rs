//! The figures, as `--json` prints them.

use serde::Serialize;

use super::{HeldRun, Run};
use crate::{bench::stats, clock::ms_between};

/// The outcome of the demonstration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The run without the agent.
    pub without: Without,
    /// The trials with the agent.
    pub with: With,
    /// BPF programs on the last trial's pod cgroups some time after its gate was detached, as the
    /// kernel counts them.
    pub programs_after_open: usize,
    /// How many trials there were with the agent.
    pub trials: usize,
    /// In how many of them connect() returned ECONNREFUSED.
    pub refused: usize,
    /// Median of the time from the observer's first 200 to the return of connect().
    pub after_ready_ms_p50: Option<f64>,
    /// 99th percentile of the same.
    pub after_ready_ms_p99: Option<f64>,
}

/// What happened without the agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Without {
    /// `connected` or the error's name.
    pub outcome: String,
    /// How long connect() took.
    pub connect_ms: f64,
}

/// What happened with the agent. Times are medians over the trials that connected, and absent
/// when none did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct With {
    /// `connected` when every trial did, else the first other outcome.
    pub outcome: String,
    /// How long connect() took, by the application's own clock.
    pub held_ms: Option<f64>,
    /// From the observer's first 200 to the return of connect().
    pub after_ready_ms: Option<f64>,
    /// From the agent's opening of the gate to the return of connect().
    pub release_ms: Option<f64>,
    /// Whether every trial's body of 1 MiB arrived intact.
    pub body_ok: bool,
}

impl Report {
    /// Sums up one run without and any number of trials with the agent.
    pub fn new(without: &Run, trials: &[HeldRun]) -> Self {
        let attempt = &without.attempt;
        let connected: Vec<&HeldRun> =
            trials.iter().filter(|trial| trial.run.attempt.is_connected()).collect();
        let figures = |of: &dyn Fn(&HeldRun) -> Option<f64>| -> Vec<f64> {
            let mut all: Vec<f64> = connected.iter().filter_map(|trial| of(trial)).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let held = figures(&|trial| Some(trial.held_ms()));
        let after_ready = figures(&|trial| Some(trial.after_ready_ms()));
        let release = figures(&HeldRun::release_ms);
        Self {
            without: Without {
                outcome: attempt.outcome.clone(),
                connect_ms: rounded(ms_between(attempt.start_ns, attempt.end_ns)),
            },
            with: With {
                outcome: trials
                    .iter()
                    .map(|trial| &trial.run.attempt)
                    .find(|attempt| !attempt.is_connected())
                    .map_or_else(|| "connected".to_owned(), |other| other.outcome.clone()),
                held_ms: percentile(&held, 50),
                after_ready_ms: percentile(&after_ready, 50),
                release_ms: percentile(&release, 50),
                body_ok: trials.iter().all(|trial| trial.body_ok),
            },
            programs_after_open: trials
                .iter()
                .map(|trial| trial.programs_after_open)
                .max()
                .unwrap_or_default(),
            trials: trials.len(),
            refused: trials
                .iter()
                .filter(|trial| trial.run.attempt.outcome == "ECONNREFUSED")
                .count(),
            after_ready_ms_p50: percentile(&after_ready, 50),
            after_ready_ms_p99: percentile(&after_ready, 99),
        }
    }

    /// Whether the disease was there without holdfast, and holdfast has kept its promise in every
    /// trial.
    pub fn is_success(&self) -> bool {
        self.without.outcome == "ECONNREFUSED"
            && self.with.outcome == "connected"
            && self.with.body_ok
            && self.programs_after_open == 0
    }
}

impl HeldRun {
    /// How long connect() took, by the application's own clock.
    pub fn held_ms(&self) -> f64 {
        ms_between(self.run.attempt.start_ns, self.run.attempt.end_ns)
    }

    /// From the observer's first 200 to the return of connect().
    pub fn after_ready_ms(&self) -> f64 {
        ms_between(self.run.ready_ns, self.run.attempt.end_ns)
    }

    /// From the agent's opening of the gate to the return of connect().
    pub fn release_ms(&self) -> Option<f64> {
        Some(ms_between(self.agent.opened_ns?, self.run.attempt.end_ns))
    }
}

/// The percentile of sorted figures, as it is printed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    stats::percentile(sorted, percent).map(rounded)
}

/// To the microsecond: finer digits are noise.
fn rounded(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{apps::Attempt, demo::AgentMoments};

    const MS: u64 = 1_000_000;

    fn run(outcome: &str, end_ms: u64) -> Run {
        Run {
            attempt: Attempt {
                index: 0,
                start_ns: 0,
                end_ns: end_ms * MS,
                outcome: outcome.into(),
            },
            proxy_started_ns: 900 * MS,
            ready_ns: 1000 * MS,
        }
    }

    fn held(outcome: &str, end_ms: u64) -> HeldRun {
        HeldRun {
            run: run(outcome, end_ms),
            agent: AgentMoments { opened_ns: Some(1001 * MS), ..AgentMoments::default() },
            body_ns: None,
            body_ok: outcome == "connected",
            programs_while_held: 4,
            programs_after_open: 0,
        }
    }

    #[test]
    fn the_json_is_the_documented_one() {
        let report = Report::new(&run("ECONNREFUSED", 1), &[held("connected", 1003)]);
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"without":{"outcome":"ECONNREFUSED","connect_ms":1.0},"with":{"outcome":"connected","held_ms":1003.0,"after_ready_ms":3.0,"release_ms":2.0,"body_ok":true},"programs_after_open":0,"trials":1,"refused":0,"after_ready_ms_p50":3.0,"after_ready_ms_p99":3.0}"#
        );
        assert!(report.is_success());
    }

    #[test]
    fn one_refused_trial_shows_and_does_not_spoil_the_percentiles() {
        let mut trials: Vec<HeldRun> = (1..=99).map(|ms| held("connected", 1000 + ms)).collect();
        trials.push(held("ECONNREFUSED", 1));
        let report = Report::new(&run("ECONNREFUSED", 1), &trials);
        assert_eq!(report.with.outcome, "ECONNREFUSED");
        assert_eq!((report.refused, report.trials), (1, 100));
        assert_eq!(report.after_ready_ms_p50, Some(50.0));
        assert_eq!(report.after_ready_ms_p99, Some(99.0));
        assert!(!report.is_success());
    }
}
