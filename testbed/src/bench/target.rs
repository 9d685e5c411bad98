//! Targets: what was promised, next to what is.

use super::{
    stats::Ratio,
    table::{number, table},
};

/// A number with the one that it was to keep to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// Of what.
    pub(super) what: String,
    /// What was promised.
    pub(super) promised: Promise,
    /// What is.
    pub(super) is: Value,
    /// Of both numbers; may be empty.
    pub(super) unit: &'static str,
    /// What is known of the reason if it is missed; may be empty.
    pub(super) why: &'static str,
}

/// Which way a number is to keep to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Promise {
    AtLeast(f64),
    AtMost(f64),
}

/// A number, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// It is what it is.
    Exact(f64),
    /// It lies within its interval, or anywhere.
    About(Ratio),
}

/// What becomes of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Met,
    /// By so much.
    Missed(f64),
    /// The target lies in the interval.
    NotDecided,
}

impl From<f64> for Value {
    fn from(is: f64) -> Self {
        Self::Exact(is)
    }
}

impl From<Ratio> for Value {
    fn from(is: Ratio) -> Self {
        Self::About(is)
    }
}

impl Target {
    pub(super) fn at_least(
        what: impl Into<String>,
        limit: f64,
        is: impl Into<Value>,
        unit: &'static str,
    ) -> Self {
        let promised = Promise::AtLeast(limit);
        Self { what: what.into(), promised, is: is.into(), unit, why: "" }
    }

    pub(super) fn at_most(
        what: impl Into<String>,
        limit: f64,
        is: impl Into<Value>,
        unit: &'static str,
    ) -> Self {
        let promised = Promise::AtMost(limit);
        Self { what: what.into(), promised, is: is.into(), unit, why: "" }
    }

    /// What is known of the reason if it is missed.
    pub(super) fn why(self, why: &'static str) -> Self {
        Self { why, ..self }
    }

    fn verdict(&self) -> Verdict {
        // Above 0 if the number does not keep to it.
        let lacks = |is: f64| match self.promised {
            Promise::AtLeast(limit) => limit - is,
            Promise::AtMost(limit) => is - limit,
        };
        match self.is {
            Value::Exact(is) if lacks(is) <= 0.0 => Verdict::Met,
            // What is no number keeps to nothing.
            Value::Exact(is) => Verdict::Missed(lacks(is)),
            Value::About(Ratio { median, interval }) => match interval {
                Some(ends) if ends.iter().all(|end| lacks(*end) <= 0.0) => Verdict::Met,
                Some(ends) if ends.iter().all(|end| lacks(*end) > 0.0) => {
                    Verdict::Missed(lacks(median))
                }
                _ => Verdict::NotDecided,
            },
        }
    }

    fn row(&self) -> Vec<String> {
        let Self { what, promised, is, unit, why: _ } = self;
        let with_unit = |value: String| format!("{value} {unit}").trim_end().to_owned();
        let (sign, limit) = match *promised {
            Promise::AtLeast(limit) => (">=", limit),
            Promise::AtMost(limit) => ("<=", limit),
        };
        let is = match is {
            Value::Exact(is) => number(*is),
            Value::About(ratio) => ratio.show(number),
        };
        let verdict = match self.verdict() {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed(lacks) => with_unit(format!("missed by {}", number(lacks))),
            Verdict::NotDecided => "not decided".to_owned(),
        };
        vec![what.clone(), with_unit(format!("{sign} {limit}")), with_unit(is), verdict]
    }
}

/// The targets as people read them, and why some are missed.
pub(super) fn targets(all: &[Target]) -> String {
    let rows: Vec<Vec<String>> = all.iter().map(Target::row).collect();
    let mut text = table(&["", "target", "is", "verdict"], &rows);
    let is_missed = |target: &&Target| matches!(target.verdict(), Verdict::Missed(_));
    let missed = || all.iter().filter(is_missed).filter(|target| !target.why.is_empty());
    let mut reasons: Vec<&str> = missed().map(|target| target.why).collect();
    reasons.dedup();
    for why in reasons {
        let whats: Vec<&str> = missed()
            .filter(|target| target.why == why)
            .map(|target| target.what.as_str())
            .collect();
        text += &format!("\nWhy {}: {why}.\n", whats.join("; "));
    }
    text
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

    #[test]
    fn an_interval_decides_unless_the_target_lies_in_it() {
        let row =
            |median, interval| Target::at_least("rate", 0.99, Ratio { median, interval }, "").row();
        let verdict = |median, interval| row(median, interval)[3].clone();
        assert_eq!(verdict(0.995, Some([0.99, 0.999])), "met");
        assert_eq!(verdict(0.98, Some([0.97, 0.985])), "missed by 0.0100");
        assert_eq!(verdict(0.995, Some([0.98, 0.999])), "not decided");
        assert_eq!(verdict(0.98, Some([0.97, 0.995])), "not decided");
        assert_eq!(verdict(0.5, None), "not decided");
        assert_eq!(row(0.98, Some([0.97, 0.985]))[2], "0.980 (0.970 to 0.985)");
    }

    #[test]
    fn only_what_is_missed_has_its_reason_told_and_each_reason_once() {
        let target = |what, is| Target::at_most(what, 5.0, is, "ms").why("the road is long");
        let text = targets(&[target("there", 4.0), target("back", 6.0), target("twice", 12.0)]);
        assert!(text.ends_with("\n\nWhy back; twice: the road is long.\n"), "{text}");
        let text = targets(&[target("there", 4.0), Target::at_most("back", 5.0, 6.0, "ms")]);
        assert!(!text.contains("Why"), "{text}");
    }
}
