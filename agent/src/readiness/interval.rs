//! How often a proxy is looked at.

use std::time::Duration;

use crate::core::{Monotonic, Pace};

/// Between rounds while nobody waits.
pub(super) const IDLE: Duration = Duration::from_millis(100);

/// Between rounds for a proxy whose deadline has passed: nobody waits for the answer.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// Between rounds while a connect waits: at first this, 0.1 ms of work each while nobody listens and
/// 0.5 ms when the endpoint is asked...
pub(super) const HELD_MIN: Duration = Duration::from_millis(5);

/// ... and never less often than this. It is also how often it is looked for a listener of which the
/// kernel tells: its word can get lost, and a listener from another pod's cgroup is not told of.
const HELD_MAX: Duration = Duration::from_millis(50);

/// The interval grows with the wait, to this fraction of it: 5 ms up to 2 s, 50 ms from 20 s on.
const HELD_FRACTION: u32 = 400;

/// Between rounds just after somebody began to listen, which is when proxies become ready...
const ARRIVED_MIN: Duration = Duration::from_millis(1);

/// ... and this fraction of the time since then, as long as that is less than it would be otherwise:
/// some 20 rounds until 50 ms have passed, 40 until 400 ms have.
const ARRIVED_FRACTION: u32 = 8;

/// How long nobody is looked at because somebody has begun to listen at a port that had a listener
/// before: a process that does it again and again must not set the pace of the agent, which makes some 50
/// rounds more a second for it so.
const ARRIVALS_APART: Duration = Duration::from_secs(1);

/// When the next round is due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interval {
    /// Since when it is looked more closely.
    arrived_at: Option<Monotonic>,
}

/// What the interval depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// Who waits.
    pub(super) pace: Pace,
    /// There is somebody who could be asked.
    pub(super) can_ask: bool,
    /// The kernel will tell once it is worth another look.
    pub(super) is_told: bool,
}

// === impl Interval ===

impl Interval {
    /// Somebody has begun to listen, at a port that is new or had a listener before; returns whether that
    /// is worth a look at once.
    pub(super) fn arrived(&mut self, is_new: bool, now: Monotonic) -> bool {
        let is_worth = is_new || self.arrived_at.is_none_or(|at| now.since(at) >= ARRIVALS_APART);
        if is_worth {
            self.arrived_at = Some(now);
        }
        is_worth
    }

    /// From the beginning of one round to that of the next.
    pub(super) fn after(&self, situation: Situation, now: Monotonic) -> Duration {
        let Situation { pace, can_ask, is_told } = situation;
        let since = match pace {
            Pace::Held(since) if can_ask => since,
            Pace::Held(_) | Pace::Idle => return IDLE,
            Pace::GivenUp => return GIVEN_UP,
        };
        if is_told {
            return HELD_MAX;
        }
        let usual = (now.since(since) / HELD_FRACTION).clamp(HELD_MIN, HELD_MAX);
        self.arrived_at
            .map(|at| (now.since(at) / ARRIVED_FRACTION).max(ARRIVED_MIN))
            .map_or(usual, |close| close.min(usual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn held() -> Situation {
        Situation { pace: Pace::Held(Monotonic(0)), can_ask: true, is_told: false }
    }

    fn after_ms(interval: Interval, situation: Situation, now_ms: u64) -> u128 {
        interval.after(situation, Monotonic(now_ms * MS)).as_millis()
    }

    #[test]
    fn the_interval_grows_with_the_wait() {
        let of = |now_ms| after_ms(Interval::default(), held(), now_ms);
        assert_eq!([0, 2_000, 4_000, 20_000, 600_000].map(of), [5, 5, 10, 50, 50]);
    }

    #[test]
    fn who_nobody_waits_for_or_can_be_asked_is_looked_at_seldom() {
        let interval = Interval::default();
        assert_eq!(after_ms(interval, Situation { pace: Pace::Idle, ..held() }, 0), 100);
        assert_eq!(after_ms(interval, Situation { can_ask: false, ..held() }, 0), 100);
        assert_eq!(after_ms(interval, Situation { pace: Pace::GivenUp, ..held() }, 0), 5_000);
    }

    #[test]
    fn a_listener_of_which_the_kernel_tells_is_seldom_looked_for() {
        assert_eq!(after_ms(Interval::default(), Situation { is_told: true, ..held() }, 0), 50);
    }

    #[test]
    fn who_has_begun_to_listen_is_looked_at_closely_and_then_less_and_less() {
        let mut interval = Interval::default();
        assert!(interval.arrived(true, Monotonic(10_000 * MS)));
        let of = |now_ms| after_ms(interval, held(), now_ms);
        assert_eq!([10_000, 10_008, 10_040, 10_160, 10_400].map(of), [1, 1, 5, 20, 26]);
    }

    #[test]
    fn who_listens_again_and_again_is_looked_at_once_a_second() {
        let mut interval = Interval::default();
        let mut arrived = |is_new, now_ms| {
            let is_worth = interval.arrived(is_new, Monotonic(now_ms * MS));
            (is_worth, after_ms(interval, held(), now_ms))
        };
        assert_eq!(arrived(true, 10_000), (true, 1));
        assert_eq!(arrived(false, 10_200), (false, 25));
        // The port that was still to come.
        assert_eq!(arrived(true, 10_300), (true, 1));
        assert_eq!(arrived(false, 11_299), (false, 28));
        assert_eq!(arrived(false, 11_300), (true, 1));
    }
}
