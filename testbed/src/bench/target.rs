//! Targets: what was promised, next to what is.

use super::table::{number, table};

/// A number with the one that it was to keep to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// Of what.
    pub(super) what: String,
    /// What was promised.
    pub(super) promised: Promise,
    /// What is.
    pub(super) is: f64,
    /// Of both numbers; may be empty.
    pub(super) unit: &'static str,
}

/// Which way a number is to keep to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Promise {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(super) fn at_least(
        what: impl Into<String>,
        limit: f64,
        is: f64,
        unit: &'static str,
    ) -> Self {
        Self { what: what.into(), promised: Promise::AtLeast(limit), is, unit }
    }

    pub(super) fn at_most(
        what: impl Into<String>,
        limit: f64,
        is: f64,
        unit: &'static str,
    ) -> Self {
        Self { what: what.into(), promised: Promise::AtMost(limit), is, unit }
    }

    fn row(&self) -> Vec<String> {
        let Self { what, promised, is, unit } = self;
        let with_unit = |value: String| format!("{value} {unit}").trim_end().to_owned();
        let (sign, limit, lacks) = match *promised {
            Promise::AtLeast(limit) => (">=", limit, limit - is),
            Promise::AtMost(limit) => ("<=", limit, is - limit),
        };
        // What is no number keeps to nothing.
        let verdict = if lacks <= 0.0 {
            "met".to_owned()
        } else {
            with_unit(format!("missed by {}", number(lacks)))
        };
        vec![what.clone(), with_unit(format!("{sign} {limit}")), with_unit(number(*is)), verdict]
    }
}

/// The targets as people read them.
pub(super) fn targets(all: &[Target]) -> String {
    let rows: Vec<Vec<String>> = all.iter().map(Target::row).collect();
    table(&["", "target", "is", "verdict"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_or_missed_by_so_much() {
        let verdict = |target: Target| target.row()[3].clone();
        assert_eq!(verdict(Target::at_least("rate", 0.99, 0.99, "")), "met");
        assert_eq!(verdict(Target::at_least("rate", 0.99, 0.975, "")), "missed by 0.0150");
        assert_eq!(verdict(Target::at_most("time", 5.0, 4.0, "ms")), "met");
        assert_eq!(verdict(Target::at_most("time", 5.0, 7.0, "ms")), "missed by 2.00 ms");
        assert!(verdict(Target::at_most("time", 5.0, f64::NAN, "ms")).starts_with("missed"));
        let table = targets(&[Target::at_most("time", 5.0, 7.0, "ms")]);
        assert!(table.contains("| time |") && table.contains(" <= 5 ms |"), "{table}");
    }
}
