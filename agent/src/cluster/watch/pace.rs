//! When to ask again: an API server in trouble must not be made worse by every node of its cluster.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

/// The first pause, as of Kubernetes' own clients (client-go's reflector).
const FIRST: Duration = Duration::from_millis(800);

/// The longest one. client-go has 30 s; but as long as the API is not heard pods that nobody has enabled
/// are held on suspicion, which should end soon after it is back.
const LONGEST: Duration = Duration::from_secs(10);

/// Without an error for so long, the next one is a new trouble (client-go's reflector).
const OVER_AFTER: Duration = Duration::from_secs(120);

/// A watch that has begun less than this before the next one has ended at once, as behind a proxy that
/// cuts them: kube's watcher takes that for a regular end, and would ask again without any pause.
const SHORT: Duration = Duration::from_millis(500);

/// Pauses that double from one error to the next. Success does not shorten them: a list that works
/// between two watches that fail is no sign of health, and the beginning of a list not even of success,
/// though kube's watcher calls it so.
#[derive(Debug, Default)]
pub(super) struct Patience {
    last: Option<Instant>,
    nth: u32,
}

/// Keeps the watches of one resource apart. Clones keep the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    began: Option<Instant>,
    patience: Patience,
}

// === impl Patience ===

impl Patience {
    fn pause(&mut self, now: Instant) -> Duration {
        if self.last.is_none_or(|last| now.duration_since(last) > OVER_AFTER) {
            self.nth = 0;
        }
        self.last = Some(now);
        let pause = FIRST.saturating_mul(1 << self.nth.min(16)).min(LONGEST);
        self.nth += 1;
        // So that the nodes of a cluster, which have lost the same server at once, come back one by one.
        pause.mul_f64(1.0 + fastrand::f64() / 2.0)
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.pause(Instant::now()))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {}
}

// === impl Pace ===

impl Pace {
    /// How long to wait before another watch begins, which is taken to begin then.
    pub(super) fn before_watch(&self, now: Instant) -> Duration {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_short = watched.began.is_some_and(|began| now.duration_since(began) < SHORT);
        let pause = if is_short { watched.patience.pause(now) } else { Duration::ZERO };
        watched.began = Some(now + pause);
        pause
    }

    /// It was not answered as a watch: whoever asks again has his own pauses.
    pub(super) fn refused(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).began = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pause without what chance adds to it.
    fn is_about(pause: Duration, base: Duration) -> bool {
        pause >= base && pause <= base.mul_f64(1.5)
    }

    #[test]
    fn pauses_double_up_to_the_longest_whatever_succeeds_in_between() {
        let mut patience = Patience::default();
        let mut now = Instant::now();
        for base in [800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            let pause = patience.pause(now);
            assert!(is_about(pause, Duration::from_millis(base)), "{pause:?}, not {base} ms");
            patience.reset();
            now += pause;
        }
        for _ in 0..100 {
            assert!(is_about(patience.pause(now), LONGEST));
        }
        let later = now + OVER_AFTER + Duration::from_millis(1);
        assert!(is_about(patience.pause(later), FIRST));
    }

    #[test]
    fn a_watch_that_ends_at_once_is_taken_up_again_after_a_pause() {
        let pace = Pace::default();
        let mut now = Instant::now();
        assert_eq!(pace.before_watch(now), Duration::ZERO);
        for base in [800, 1_600, 3_200] {
            now += Duration::from_millis(1);
            let pause = pace.before_watch(now);
            assert!(is_about(pause, Duration::from_millis(base)), "{pause:?}, not {base} ms");
            now += pause;
        }
        // One that ends as they all do.
        now += Duration::from_secs(120);
        assert_eq!(pace.before_watch(now), Duration::ZERO);
    }

    #[test]
    fn a_watch_that_is_refused_has_not_begun() {
        let pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.before_watch(now), Duration::ZERO);
        pace.refused();
        assert_eq!(pace.before_watch(now + Duration::from_millis(1)), Duration::ZERO);
    }
}
