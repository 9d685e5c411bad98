//! How many events one pod may have for one reason: a token bucket for each.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::core::PodUid;

/// Events of one pod and reason that may come at a time...
const BURST: f64 = 5.0;

/// ... and how long it takes until as many may come again.
const REFILL: Duration = Duration::from_secs(60);

/// Buckets at a time: ten reasons for each pod of a full node (110, kubelet's default), and as much
/// again for pods that come and go.
const MAX_BUCKETS: usize = 2048;

/// The buckets that are not full: a full one is as good as none.
#[derive(Debug, Default)]
pub(super) struct Limit {
    buckets: HashMap<(PodUid, &'static str), Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

// === impl Limit ===

impl Limit {
    /// Whether one more event may come, which takes a token.
    pub(super) fn allows(&mut self, pod: &PodUid, reason: &'static str, now: Instant) -> bool {
        let key = (pod.clone(), reason);
        if !self.buckets.contains_key(&key) && self.buckets.len() >= MAX_BUCKETS {
            self.buckets.retain(|_, bucket| bucket.tokens_at(now) < BURST);
            if self.buckets.len() >= MAX_BUCKETS {
                return false;
            }
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: BURST, at: now });
        let tokens = bucket.tokens_at(now);
        if tokens < 1.0 {
            return false;
        }
        *bucket = Bucket { tokens: tokens - 1.0, at: now };
        true
    }
}

// === impl Bucket ===

impl Bucket {
    fn tokens_at(&self, now: Instant) -> f64 {
        let refilled = now.duration_since(self.at).div_duration_f64(REFILL) * BURST;
        (self.tokens + refilled).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "InvalidAnnotation";

    fn pod(number: usize) -> PodUid {
        PodUid::new(&format!("{number:036}"))
    }

    fn allowed(limit: &mut Limit, pod: &PodUid, reason: &'static str, now: Instant) -> usize {
        (0..100).filter(|_| limit.allows(pod, reason, now)).count()
    }

    #[test]
    fn a_burst_passes_then_one_each_twelve_seconds() {
        let mut limit = Limit::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(allowed(&mut limit, &pod(1), REASON, at(0)), 5);
        assert_eq!(allowed(&mut limit, &pod(1), REASON, at(11)), 0);
        assert_eq!(allowed(&mut limit, &pod(1), REASON, at(12)), 1);
        assert_eq!(allowed(&mut limit, &pod(1), REASON, at(36)), 2);
        assert_eq!(allowed(&mut limit, &pod(1), REASON, at(1000)), 5);
    }

    #[test]
    fn pods_and_reasons_do_not_take_from_each_other() {
        let mut limit = Limit::default();
        let now = Instant::now();
        assert_eq!(allowed(&mut limit, &pod(1), REASON, now), 5);
        assert_eq!(allowed(&mut limit, &pod(1), "HoldTimeout", now), 5);
        assert_eq!(allowed(&mut limit, &pod(2), REASON, now), 5);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_with_time() {
        let mut limit = Limit::default();
        let start = Instant::now();
        let passed = (0..10_000).filter(|n| limit.allows(&pod(*n), REASON, start)).count();
        assert_eq!(passed, MAX_BUCKETS);
        assert_eq!(limit.buckets.len(), MAX_BUCKETS);
        let later = start + REFILL;
        assert!(limit.allows(&pod(20_000), REASON, later));
        assert_eq!(limit.buckets.len(), 1);
    }
}
