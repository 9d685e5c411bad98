//! What became of the connects.

use std::time::Duration;

use super::report::Row;
use crate::apps::Attempt;

/// How much later than its deadline a connect may end, whatever else became of it: its socket tries
/// every 500 ms.
const PAST_DEADLINE: Duration = Duration::from_secs(1);

/// How long after readiness, with an agent there to see it, a connect may still wait. Far more than
/// any release takes; a connect that nobody lets go waits for its deadline.
const PAST_READY: Duration = Duration::from_secs(10);

/// So many connects are described in full; of more the count says enough.
const TOLD: usize = 20;

/// When a connect was to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    /// From this instant on (`CLOCK_MONOTONIC` nanoseconds) it might have gone on: the proxy was
    /// ready and an agent was there to see it. `None`: that never came.
    pub(super) ready_ns: Option<u64>,
    /// How long it may wait.
    pub(super) timeout: Duration,
}

/// Counts of one fault.
#[derive(Debug, Default)]
pub(super) struct Tally {
    trials: u32,
    refused: u32,
    stuck: u32,
    worst_delay: Duration,
    told: Vec<String>,
}

// === impl Tally ===

impl Tally {
    /// Counts a connect: how it ended, or that it has not. `what` names it.
    pub(super) fn count(&mut self, what: &str, attempt: Option<&Attempt>, due: Due) {
        self.count_since(what, attempt, due, due.ready_ns);
    }

    /// As [`Self::count`], of a connect whose proxy was ready at `ready_ns` already, with no agent
    /// there to see it: its delay counts from then, and it is stuck only if it waits for long
    /// although an agent is there, or past its deadline.
    pub(super) fn count_since(
        &mut self,
        what: &str,
        attempt: Option<&Attempt>,
        due: Due,
        ready_ns: Option<u64>,
    ) {
        self.trials += 1;
        let Some(attempt) = attempt else {
            self.stuck += 1;
            self.tell(format!("{what}: still waits"));
            return;
        };
        let deadline_ns = attempt.start_ns + nanos(due.timeout);
        let past = |ns: u64| Duration::from_nanos(attempt.end_ns.saturating_sub(ns));
        let is_before_deadline = |ready: &u64| *ready < deadline_ns;
        let might_from = |ready: Option<u64>| {
            ready.filter(is_before_deadline).map(|ready| ready.max(attempt.start_ns))
        };
        // Whoever listens before the deadline still does when the kernel lets the SYN pass at it.
        let is_refused = !attempt.is_connected()
            && (attempt.end_ns < deadline_ns || might_from(ready_ns).is_some());
        let late_after_ready = might_from(due.ready_ns).map(past).filter(|late| *late > PAST_READY);
        let late_after_deadline = Some(past(deadline_ns)).filter(|late| *late > PAST_DEADLINE);
        if is_refused {
            self.refused += 1;
            self.tell(format!(
                "{what}: {} after {:?} of {:?}",
                attempt.outcome,
                attempt.elapsed(),
                due.timeout
            ));
            return;
        }
        if let Some(late) = late_after_ready.max(late_after_deadline) {
            self.stuck += 1;
            self.tell(format!("{what}: {} {late:?} late", attempt.outcome));
        }
        let delay = past(might_from(ready_ns).unwrap_or(deadline_ns));
        self.worst_delay = self.worst_delay.max(delay);
    }

    fn tell(&mut self, line: String) {
        if self.told.len() < TOLD {
            self.told.push(line);
        }
    }

    pub(super) fn into_row(self, fault: &str) -> Row {
        Row {
            fault: fault.to_owned(),
            trials: self.trials,
            refused: self.refused,
            stuck: self.stuck,
            worst_delay_ms: (self.worst_delay.as_secs_f64() * 10_000.0).round() / 10.0,
            details: self.told,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000_000;
    const TIMEOUT: Duration = Duration::from_secs(4);

    fn attempt(outcome: &str, after: u64) -> Attempt {
        let end_ns = START + after * 1_000_000;
        Attempt { index: 0, start_ns: START, end_ns, outcome: outcome.to_owned() }
    }

    fn row(ready_after: Option<u64>, outcome: &str, after: u64) -> Row {
        let attempt = attempt(outcome, after);
        let ready_ns = ready_after.map(|ms| START + ms * 1_000_000);
        let mut tally = Tally::default();
        tally.count("a connect", Some(&attempt), Due { ready_ns, timeout: TIMEOUT });
        tally.into_row("a fault")
    }

    fn counts(row: &Row) -> (u32, u32, f64) {
        (row.refused, row.stuck, row.worst_delay_ms)
    }

    #[test]
    fn an_error_before_the_deadline_is_a_refusal_and_one_after_it_is_not() {
        assert_eq!(counts(&row(None, "ECONNREFUSED", 3_999)), (1, 0, 0.0));
        assert_eq!(counts(&row(Some(500), "ETIMEDOUT", 700)), (1, 0, 0.0));
        assert_eq!(counts(&row(None, "ECONNREFUSED", 4_400)), (0, 0, 400.0));
    }

    #[test]
    fn a_proxy_that_was_ready_before_the_deadline_makes_every_failure_a_refusal() {
        assert_eq!(counts(&row(Some(500), "ETIMEDOUT", 4_400)), (1, 0, 0.0));
        assert_eq!(counts(&row(Some(4_100), "ECONNREFUSED", 4_400)), (0, 0, 400.0));
        // Nobody was there to see it; the kernel lets go all the same, and somebody listens.
        let due = Due { ready_ns: Some(START + 9_000_000_000), timeout: TIMEOUT };
        let mut tally = Tally::default();
        let failed = attempt("ECONNREFUSED", 4_400);
        tally.count_since("a connect", Some(&failed), due, Some(START + 1_000_000_000));
        assert_eq!(counts(&tally.into_row("a fault")), (1, 0, 0.0));
    }

    #[test]
    fn the_deadline_is_kept_whether_or_not_the_proxy_was_ready_before_it() {
        assert_eq!(counts(&row(Some(3_000), "connected", 4_999)), (0, 0, 1_999.0));
        assert_eq!(counts(&row(Some(3_000), "connected", 5_001)), (0, 1, 2_001.0));
    }

    #[test]
    fn what_ends_long_after_it_might_is_stuck() {
        assert_eq!(counts(&row(None, "ECONNREFUSED", 5_001)), (0, 1, 1_001.0));
        assert_eq!(counts(&row(Some(100), "connected", 101)), (0, 0, 1.0));
        let mut tally = Tally::default();
        tally.count("a connect", None, Due { ready_ns: None, timeout: TIMEOUT });
        assert_eq!(counts(&tally.into_row("a fault")), (0, 1, 0.0));
    }

    #[test]
    fn an_absence_of_the_agent_is_delay_but_nobody_is_stuck_for_it() {
        let attempt = attempt("connected", 14_000);
        let due = Due { ready_ns: Some(START + 13_000_000_000), timeout: Duration::from_secs(60) };
        let mut tally = Tally::default();
        tally.count_since("a connect", Some(&attempt), due, Some(START + 1_000_000_000));
        assert_eq!(counts(&tally.into_row("a fault")), (0, 0, 13_000.0));
    }

    #[test]
    fn a_connect_that_begins_after_readiness_is_delayed_from_its_own_begin() {
        let attempt = attempt("connected", 2);
        let mut tally = Tally::default();
        let due = Due { ready_ns: Some(START - 500_000_000), timeout: TIMEOUT };
        tally.count("a connect", Some(&attempt), due);
        assert_eq!(counts(&tally.into_row("a fault")), (0, 0, 2.0));
    }
}
