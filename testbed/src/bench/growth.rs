//! How a number grows with another.

/// The exponent of the power law that fits the points best, by least squares of the logarithms: 1
/// where twice as much costs twice as much. `None` with fewer than two places on logarithmic axes.
pub(super) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points
        .iter()
        .filter(|(x, y)| *x > 0.0 && *y > 0.0)
        .map(|(x, y)| (x.ln(), y.ln()))
        .collect();
    let count = logs.len() as f64;
    let (x, y) = logs.iter().fold((0.0, 0.0), |sum, log| (sum.0 + log.0, sum.1 + log.1));
    let (x, y) = (x / count, y / count);
    let together: f64 = logs.iter().map(|log| (log.0 - x) * (log.1 - y)).sum();
    let spread: f64 = logs.iter().map(|log| (log.0 - x).powi(2)).sum();
    (spread > 0.0).then(|| together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponent_is_the_power_law_s() {
        let law = |power: i32| -> Vec<(f64, f64)> {
            [10.0, 100.0, 250.0].map(|x: f64| (x, 3.0 * x.powi(power))).to_vec()
        };
        for power in [0, 1, 2] {
            let exponent = exponent(&law(power)).unwrap();
            assert!((exponent - f64::from(power)).abs() < 1e-9, "{power}: {exponent}");
        }
        assert_eq!(exponent(&[(10.0, 1.0)]), None);
        assert_eq!(exponent(&[(10.0, 1.0), (100.0, 0.0)]), None);
        assert_eq!(exponent(&[]), None);
    }
}
