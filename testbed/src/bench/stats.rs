//! Samples, and what they say.

use serde::{Deserialize, Serialize};

/// Of the normal distribution, two-sided.
const Z_95: f64 = 1.96;
/// So few samples have a 99th percentile that is not just the largest of them.
const HAVE_P99: usize = 100;
/// The median of fewer lies outside of all of them more often than one time in twenty.
const HAVE_INTERVAL: usize = 6;

/// How samples are spread.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many samples there were.
    pub count: usize,
    /// The median.
    pub p50: f64,
    /// Nine of ten are not above it.
    pub p90: f64,
    /// 99 of a hundred are not above it; with fewer than a hundred samples, the largest.
    pub p99: f64,
}

/// A ratio with its uncertainty.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ratio {
    /// The ratio of the medians, or the median of the pairs' ratios.
    pub median: f64,
    /// Both ends of its 95% confidence interval, unless there were too few samples for one.
    pub interval: Option<[f64; 2]>,
}

// === impl Percentiles ===

impl Percentiles {
    /// Of these samples, in any order; `None` of none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples.iter().copied());
        let at = |percent| percentile(&sorted, percent);
        Some(Self { count: sorted.len(), p50: at(50)?, p90: at(90)?, p99: at(99)? })
    }
}

/// What to call [`Percentiles::p99`] where there were so many samples: that, or the largest.
#[must_use]
pub fn p99_name(counts: impl IntoIterator<Item = usize>) -> &'static str {
    if counts.into_iter().all(|count| count >= HAVE_P99) { "p99" } else { "max" }
}

// === impl Ratio ===

impl Ratio {
    /// With its interval, if it has one.
    #[must_use]
    pub fn show(&self, number: impl Fn(f64) -> String) -> String {
        let median = number(self.median);
        match self.interval.map(|interval| interval.map(number)) {
            Some([low, high]) => format!("{median} ({low} to {high})"),
            None => median,
        }
    }

    /// The median of `with / without` over all pairs. By order, not by mean: a pair in which the
    /// machine did something else counts as one, however long that took. `None` without pairs.
    #[must_use]
    pub fn of_pairs(pairs: &[(f64, f64)]) -> Option<Self> {
        median(pairs.iter().map(|(without, with)| with / without))
    }

    /// The ratio of two medians whose samples do not belong together one by one; positive samples
    /// only. `None` if one of them has no samples.
    #[must_use]
    pub fn of_medians(above: &[f64], below: &[f64]) -> Option<Self> {
        let [above, below] = [above, below].map(|samples| median(samples.iter().copied()));
        let (above, below) = (above?, below?);
        // The two intervals joined on the scale of logarithms, where a ratio is a difference: the
        // method of variance estimates recovery (Zou and Donner, 2008).
        let ln = |high: f64, low: f64| (high / low).ln();
        let ratio = above.median / below.median;
        let joined = |[above_low, above_high]: [f64; 2], [below_low, below_high]: [f64; 2]| {
            let down = ln(above.median, above_low).hypot(ln(below_high, below.median));
            let up = ln(above_high, above.median).hypot(ln(below.median, below_low));
            [ratio * (-down).exp(), ratio * up.exp()]
        };
        let both = above.interval.zip(below.interval);
        Some(Self { median: ratio, interval: both.map(|(above, below)| joined(above, below)) })
    }
}

/// The median, with the 95% confidence interval that order alone gives.
fn median(samples: impl Iterator<Item = f64>) -> Option<Ratio> {
    let sorted = sorted(samples);
    // How many samples lie below the true median is binomial: n/2, give or take sqrt(n)/2.
    let count = sorted.len() as f64;
    let spread = Z_95 * count.sqrt() / 2.0;
    let at = |rank: f64| sorted.get(rank.clamp(0.0, (count - 1.0).max(0.0)) as usize).copied();
    let middle = (count - 1.0) / 2.0;
    Some(Ratio {
        median: f64::midpoint(at(middle.floor())?, at(middle.ceil())?),
        interval: (sorted.len() >= HAVE_INTERVAL)
            .then(|| Some([at((middle - spread).floor())?, at((middle + spread).ceil())?]))
            .flatten(),
    })
}

/// The mean of the middle half, which a few samples from elsewhere do not move; `None` of none.
#[must_use]
pub fn middle_mean(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples.iter().copied());
    let quarter = sorted.len() / 4;
    let middle = sorted.get(quarter..sorted.len() - quarter)?;
    (!middle.is_empty()).then(|| middle.iter().sum::<f64>() / middle.len() as f64)
}

fn sorted(samples: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = samples.collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The nearest-rank percentile of sorted samples.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let samples: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        let expected = Percentiles { count: 30, p50: 15.0, p90: 27.0, p99: 30.0 };
        assert_eq!(Percentiles::of(&samples), Some(expected));
        assert_eq!(Percentiles::of(&[]), None);
    }

    #[test]
    fn the_mean_of_the_middle_half_forgets_both_ends() {
        assert_eq!(middle_mean(&[9000.0, 2.0, 4.0, 3.0, 1.0, 0.0, 5.0, 80.0]), Some(3.5));
        assert_eq!(middle_mean(&[7.0]), Some(7.0));
        assert_eq!(middle_mean(&[]), None);
    }

    #[test]
    fn a_ratio_of_pairs_is_their_median_s_with_the_spread_around_it() {
        let ratio = |ratios: &[f64]| {
            let pairs: Vec<_> = ratios.iter().map(|ratio| (100.0, 100.0 * ratio)).collect();
            Ratio::of_pairs(&pairs).unwrap()
        };
        let even = ratio(&[0.99; 20]);
        let [low, high] = even.interval.unwrap();
        assert!([even.median, low, high].iter().all(|ratio| (ratio - 0.99).abs() < 1e-9));
        // One round that was disturbed moves nothing.
        let mut ratios = [1.0; 21];
        ratios[3] = 0.1;
        assert!((ratio(&ratios).median - 1.0).abs() < 1e-9);
        let ramp: Vec<f64> = (0..101).map(|step| 0.95 + f64::from(step) / 1000.0).collect();
        let Ratio { median, interval } = ratio(&ramp);
        let [low, high] = interval.unwrap();
        assert!((median - 1.0).abs() < 1e-9);
        assert!((0.988..0.992).contains(&low) && (1.008..1.012).contains(&high), "{low} {high}");
        assert_eq!(Ratio::of_pairs(&[]), None);
    }

    #[test]
    fn few_samples_have_neither_an_interval_nor_a_99th_percentile() {
        let ratio = |count| Ratio::of_pairs(&vec![(2.0, 1.0); count]).unwrap();
        assert_eq!(ratio(5), Ratio { median: 0.5, interval: None });
        assert_eq!(ratio(6), Ratio { median: 0.5, interval: Some([0.5, 0.5]) });
        let of_medians = |above, below| Ratio::of_medians(&vec![4.0; above], &vec![2.0; below]);
        assert!(of_medians(6, 6).unwrap().interval.is_some());
        assert!(of_medians(6, 5).unwrap().interval.is_none());
        assert_eq!(
            [ratio(5), ratio(6)].map(|ratio| ratio.show(|n| format!("{n:.1}"))),
            ["0.5", "0.5 (0.5 to 0.5)"]
        );
        assert_eq!([p99_name([100, 250]), p99_name([100, 99])], ["p99", "max"]);
    }

    #[test]
    fn a_ratio_of_medians_is_as_uncertain_as_both_together() {
        let around = |middle: f64| -> Vec<f64> {
            (0..101).map(|step| middle * (0.95 + f64::from(step) / 1000.0)).collect()
        };
        let Ratio { median, interval } = Ratio::of_medians(&around(6.0), &around(2.0)).unwrap();
        let [low, high] = interval.unwrap();
        assert!((median - 3.0).abs() < 1e-9);
        // Each is known to 1%: together to sqrt(2)%, not to 1% and not to 2%.
        let spread = [1.0 - low / median, high / median - 1.0];
        assert!(spread.iter().all(|spread| (0.012..0.018).contains(spread)), "{spread:?}");
        let exact = Ratio::of_medians(&[4.0; 9], &[2.0; 9]);
        assert_eq!(exact, Some(Ratio { median: 2.0, interval: Some([2.0, 2.0]) }));
        assert_eq!(Ratio::of_medians(&[1.0], &[]), None);
    }
}
