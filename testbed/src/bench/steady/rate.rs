//! What two clients that work in turn have come to.

use serde::{Deserialize, Serialize};

use crate::bench::stats::{Percentiles, Ratio};

/// How often a loop came round in the pod, next to the same loop in the other pod.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Rate {
    /// Of the pod.
    pub(crate) served: Side,
    /// Of the other one.
    pub(crate) other: Side,
    /// The pod's rate as a share of the other's in the slice after it, the median of all.
    pub(crate) to_other: f64,
}

/// One pod's part of it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Side {
    /// How much was done in a second, in the median slice.
    pub(crate) per_second: f64,
    /// In how many slices nothing was done: what was begun before went on for so long.
    pub(crate) lost: usize,
    /// What took longest, in milliseconds: a connect with its request, a request, or the first of both,
    /// before any slice.
    pub(crate) longest_ms: f64,
}

/// What one client has come to.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Loop {
    /// How often it came round, or what it counted.
    pub(super) count: u64,
    /// How much of that in a second, slice by slice; `None`: nothing in that slice.
    per_second: Vec<Option<f64>>,
    /// As [`Side::longest_ms`].
    longest_ms: f64,
    /// It was not there yet when its first slice began.
    pub(super) is_late: bool,
}

// === impl Rate ===

impl Rate {
    /// `None` if there was no slice in which both did something.
    pub(super) fn of(served: &Loop, other: &Loop) -> Option<Self> {
        let pairs: Vec<(f64, f64)> = (other.per_second.iter().zip(&served.per_second))
            .filter_map(|(other, served)| Some(((*other)?, (*served)?)))
            .collect();
        let to_other = Ratio::of_pairs(&pairs)?.median;
        Some(Self { served: served.side()?, other: other.side()?, to_other })
    }

    /// With what took even longer in a try that did not count.
    pub(super) fn or_longer(mut self, served_ms: f64, other_ms: f64) -> Self {
        self.served.longest_ms = self.served.longest_ms.max(served_ms);
        self.other.longest_ms = self.other.longest_ms.max(other_ms);
        self
    }
}

// === impl Loop ===

impl Loop {
    pub(super) const fn longest_ms(&self) -> f64 {
        self.longest_ms
    }

    fn side(&self) -> Option<Side> {
        let rates: Vec<f64> = self.per_second.iter().flatten().copied().collect();
        let lost = self.per_second.len() - rates.len();
        let per_second = Percentiles::of(&rates)?.p50;
        Some(Side { per_second, lost, longest_ms: self.longest_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(per_second: &[Option<f64>]) -> Loop {
        Loop { count: 7, per_second: per_second.to_vec(), longest_ms: 2.0, is_late: false }
    }

    #[test]
    fn a_share_is_of_the_slices_side_by_side() {
        // The machine was half as fast from the third pair on.
        let served = client(&[Some(90.0), Some(90.0), Some(45.0), None, Some(45.0)]);
        let other = client(&[Some(100.0), Some(100.0), Some(50.0), Some(50.0), Some(50.0)]);
        let rate = Rate::of(&served, &other).unwrap();
        assert!((rate.to_other - 0.9).abs() < 1e-9, "{rate:?}");
        assert_eq!((rate.served.lost, rate.other.lost), (1, 0));
        assert_eq!((rate.served.per_second, rate.other.per_second), (45.0, 50.0));
        let longer = rate.or_longer(1003.0, 0.0);
        assert_eq!((longer.served.longest_ms, longer.other.longest_ms), (1003.0, 2.0));
    }

    #[test]
    fn without_slices_side_by_side_there_is_no_share() {
        assert_eq!(Rate::of(&client(&[Some(1.0), None]), &client(&[None, Some(1.0)])), None);
        assert_eq!(Rate::of(&client(&[]), &client(&[])), None);
    }
}
