//! How a number grows with another.

/// One more may cost so many times what one more costs among few, and is taken for as much: the numbers
/// are a few runs' and are known to some tenths.
const TOLERATED: f64 = 1.5;

/// What grows so little that the largest number is no further from a straight line than this share of the
/// one before it, grows in a straight line: a difference of two numbers that are nearly the same is noise.
const NOISE: f64 = 0.1;

/// What one more costs, among few and among many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Growth {
    /// From the first place to the one before the last.
    pub(super) among_few: f64,
    /// From there to the last place.
    pub(super) among_many: f64,
    /// One more costs more among many.
    pub(super) is_worse_than_linear: bool,
}

impl Growth {
    /// Of points in the order of their places; `None` with fewer than three, of which the slopes of two
    /// parts could not be told from each other.
    ///
    /// No power law is fitted: what costs something with nothing there, as a process's memory does, grows by
    /// less than any power of one at first, whatever it does later.
    pub(super) fn of(points: &[(f64, f64)]) -> Option<Self> {
        let [first, .., before, last] = points else { return None };
        if points.len() < 3 {
            return None;
        }
        let slope = |from: &(f64, f64), to: &(f64, f64)| (to.1 - from.1) / (to.0 - from.0);
        let (among_few, among_many) = (slope(first, before), slope(before, last));
        // What falls at first may be noise as well, and is no promise to go on falling.
        let expected = among_few.max(0.0);
        let above_the_line = (among_many - expected) * (last.0 - before.0);
        let is_noise = above_the_line <= NOISE * before.1.abs();
        let is_more = among_many > TOLERATED * expected;
        Some(Self { among_few, among_many, is_worse_than_linear: is_more && !is_noise })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(cost: impl Fn(f64) -> f64) -> Growth {
        Growth::of(&[10.0, 100.0, 250.0, 500.0].map(|x| (x, cost(x)))).unwrap()
    }

    #[test]
    fn a_base_cost_hides_no_square() {
        // A fitted power law of this one has an exponent of 0.3.
        let square = growth(|pods| 20.0 + 0.0002 * pods * pods);
        assert!(square.is_worse_than_linear, "{square:?}");
        assert!((square.among_few - 0.052).abs() < 1e-9, "{square:?}");
        assert!((square.among_many - 0.15).abs() < 1e-9, "{square:?}");
    }

    #[test]
    fn linear_and_better_is_not_worse() {
        for (base, a_pod) in [(0.0, 1.0), (20.0, 0.05), (5.0, 0.0)] {
            let linear = growth(|pods| base + a_pod * pods);
            assert!(!linear.is_worse_than_linear, "{linear:?}");
            assert!((linear.among_many - a_pod).abs() < 1e-9, "{linear:?}");
        }
        assert!(!growth(f64::sqrt).is_worse_than_linear);
        assert!(growth(|pods| pods * pods).is_worse_than_linear);
    }

    #[test]
    fn noise_around_what_does_not_grow_is_no_growth() {
        let noisy = [(10.0, 1.0), (250.0, 0.97), (500.0, 1.05)];
        assert!(!Growth::of(&noisy).unwrap().is_worse_than_linear);
        let steps = [(10.0, 1.0), (250.0, 0.97), (500.0, 1.5)];
        assert!(Growth::of(&steps).unwrap().is_worse_than_linear);
        assert_eq!(Growth::of(&noisy[1..]), None);
        assert_eq!(Growth::of(&[]), None);
    }
}
