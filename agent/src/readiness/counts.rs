//! How the probes' rounds end, counted: for the metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::core::Finding;

/// How a round of a probe ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeResult {
    /// The proxy is ready.
    Ready,
    /// Nobody listens on its ports, or its endpoint refused the connection.
    Refused,
    /// Its endpoint answered that it is not ready.
    NotReadyStatus,
    /// Its endpoint did not answer in time.
    Timeout,
    /// There was nobody to ask, or no sense in the answer.
    Other,
}

/// Counts of the whole agent, which its probes share.
#[derive(Clone, Debug, Default)]
pub struct ProbeCounts(Arc<[AtomicU64; ProbeResult::ALL.len()]>);

// === impl ProbeResult ===

impl ProbeResult {
    /// Each of them.
    pub const ALL: [Self; 5] =
        [Self::Ready, Self::Refused, Self::NotReadyStatus, Self::Timeout, Self::Other];

    /// As a label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Refused => "refused",
            Self::NotReadyStatus => "not-ready-status",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }

    const fn of(finding: &Finding) -> Self {
        match finding {
            Finding::Ready { .. } => Self::Ready,
            Finding::NobodyListens { .. } | Finding::Refused { .. } => Self::Refused,
            Finding::Answered { .. } => Self::NotReadyStatus,
            Finding::Silent { .. } => Self::Timeout,
            Finding::NoProcess
            | Finding::HostNetwork
            | Finding::Unreachable { .. }
            | Finding::KubeletSilent { .. }
            | Finding::Failed { .. } => Self::Other,
        }
    }
}

// === impl ProbeCounts ===

impl ProbeCounts {
    /// How many rounds have ended so.
    #[must_use]
    pub fn get(&self, result: ProbeResult) -> u64 {
        self.0[result as usize].load(Relaxed)
    }

    pub(super) fn count(&self, finding: &Finding) {
        self.0[ProbeResult::of(finding) as usize].fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_counts_all_see_each_under_its_own_name() {
        let counts = ProbeCounts::default();
        let probe = counts.clone();
        probe.count(&Finding::NobodyListens { ports: vec![15001] });
        probe.count(&Finding::NobodyListens { ports: vec![15001] });
        probe.count(&Finding::NoProcess);
        let seen = ProbeResult::ALL.map(|result| (result.as_str(), counts.get(result)));
        let expected =
            [("ready", 0), ("refused", 2), ("not-ready-status", 0), ("timeout", 0), ("other", 1)];
        assert_eq!(seen, expected);
    }
}
