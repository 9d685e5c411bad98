//! How many events a node may have written: as many as kubelet's own.

use std::time::Duration;

use tokio::time::Instant;

/// Events a second, all pods together (kubelet's `eventRecordQPS`) ...
const PER_SECOND: f64 = 50.0;

/// ... once so many have come at once (kubelet's `eventBurst`).
const BURST: f64 = 100.0;

/// A token bucket of which one may take on credit, and waits for it.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    tokens: f64,
    at: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    fn of(per_second: f64) -> Self {
        Self { per_second, tokens: BURST, at: None }
    }

    /// None that anybody would notice.
    #[cfg(test)]
    pub(super) fn any() -> Self {
        Self::of(1e9)
    }

    /// How long to wait before the next event.
    pub(super) fn before_event(&mut self, now: Instant) -> Duration {
        let since = self.at.map_or(Duration::ZERO, |at| now.duration_since(at));
        self.at = Some(now);
        self.tokens = (self.tokens + since.as_secs_f64() * self.per_second).min(BURST) - 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / self.per_second)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::of(PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_each_twenty_milliseconds() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let mut now = start;
        for number in 0..300 {
            let pause = pace.before_event(now);
            assert_eq!(number < 100, pause.is_zero(), "{number}: {pause:?}");
            now += pause;
        }
        let took = (now - start).as_secs_f64();
        assert!((3.999..4.001).contains(&took), "{took}");
        // After a while without any, a burst passes again.
        now += Duration::from_secs(60);
        assert!((0..100).all(|_| pace.before_event(now).is_zero()));
        assert!(!pace.before_event(now).is_zero());
    }
}
