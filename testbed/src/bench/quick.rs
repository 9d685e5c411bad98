//! The quick form: ratios that do not depend on the machine's speed, next to those on record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::table::number;

/// Of a recorded ratio, what a release may lose before it counts: as much is known of a ratio in
/// seconds.
const TOLERATED: f64 = 0.2;

/// Which way a ratio is good.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The higher the better.
    Higher,
    /// The lower the better.
    Lower,
}

/// A ratio of two measurements of one run on one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct QuickRatio {
    /// Of what to what.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// Which way it is good.
    pub better: Better,
}

/// A ratio next to the one on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The ratio, as it is now.
    pub now: QuickRatio,
    /// As it was.
    pub recorded: Option<f64>,
}

/// The ratios on record, by name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Reference(BTreeMap<String, f64>);

/// What becomes of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it was, or nearly.
    Kept,
    /// So much better that the record should be renewed.
    Better,
    /// A fifth of it is lost, or more.
    Lost,
    /// Nothing on record.
    New,
}

impl QuickRatio {
    /// A ratio of which less is better.
    pub fn lower(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, better: Better::Lower }
    }

    /// A ratio of which more is better.
    pub fn higher(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, better: Better::Higher }
    }
}

impl Reference {
    /// Puts each ratio next to the one on record.
    #[must_use]
    pub fn compare(&self, ratios: Vec<QuickRatio>) -> Vec<Compared> {
        let compared = |now: QuickRatio| {
            let recorded = self.0.get(&now.name).copied();
            Compared { now, recorded }
        };
        ratios.into_iter().map(compared).collect()
    }

    /// Puts these on record, in the place of older ones of the same name.
    pub fn record(&mut self, ratios: &[Compared]) {
        self.0.extend(ratios.iter().map(|ratio| (ratio.now.name.clone(), ratio.now.value)));
    }
}

impl Compared {
    /// What to say of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Some(recorded) = self.recorded else { return Verdict::New };
        let gained = match self.now.better {
            Better::Higher => self.now.value / recorded - 1.0,
            Better::Lower => 1.0 - self.now.value / recorded,
        };
        // A ratio that is no number has lost all.
        if gained.is_nan() || gained <= -TOLERATED {
            Verdict::Lost
        } else if gained >= TOLERATED {
            Verdict::Better
        } else {
            Verdict::Kept
        }
    }
}

impl Verdict {
    /// As it stands in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Better => "better",
            Self::Lost => "LOST",
            Self::New => "not on record",
        }
    }
}

/// The ratios as people read them.
#[must_use]
pub fn table(ratios: &[Compared]) -> String {
    let row = |ratio: &Compared| {
        let recorded = ratio.recorded.map_or_else(|| "-".into(), number);
        let verdict = ratio.verdict().as_str().to_owned();
        vec![ratio.now.name.clone(), recorded, number(ratio.now.value), verdict]
    };
    let rows: Vec<Vec<String>> = ratios.iter().map(row).collect();
    super::table::table(&["ratio", "recorded", "now", "verdict"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(better: Better, recorded: f64, value: f64) -> Verdict {
        let now = QuickRatio { name: "a to b".into(), value, better };
        Compared { now, recorded: Some(recorded) }.verdict()
    }

    #[test]
    fn a_fifth_is_lost_in_the_direction_that_counts() {
        use Better::{Higher, Lower};
        assert_eq!(verdict(Higher, 1.0, 0.81), Verdict::Kept);
        assert_eq!(verdict(Higher, 1.0, 0.79), Verdict::Lost);
        assert_eq!(verdict(Higher, 1.0, 1.21), Verdict::Better);
        assert_eq!(verdict(Lower, 5.0, 5.9), Verdict::Kept);
        assert_eq!(verdict(Lower, 5.0, 6.1), Verdict::Lost);
        assert_eq!(verdict(Lower, 5.0, 3.9), Verdict::Better);
        assert_eq!(verdict(Lower, 5.0, f64::NAN), Verdict::Lost);
        assert_eq!(verdict(Higher, 5.0, f64::NAN), Verdict::Lost);
    }

    #[test]
    fn a_ratio_without_a_record_is_told_and_can_be_recorded() {
        let mut reference: Reference = serde_json::from_str(r#"{"a to b": 2.0}"#).unwrap();
        let ratios = || vec![QuickRatio::lower("a to b", 3.0), QuickRatio::higher("c to d", 0.5)];
        let compared = reference.compare(ratios());
        let verdicts: Vec<Verdict> = compared.iter().map(Compared::verdict).collect();
        assert_eq!(verdicts, [Verdict::Lost, Verdict::New]);
        let table = table(&compared);
        assert!(table.contains("| a to b |     2.00 |  3.00 |          LOST |\n"), "{table}");
        assert!(table.contains("| c to d |        - | 0.500 | not on record |\n"), "{table}");
        reference.record(&compared);
        let verdicts: Vec<Verdict> =
            reference.compare(ratios()).iter().map(Compared::verdict).collect();
        assert_eq!(verdicts, [Verdict::Kept; 2]);
        assert_eq!(serde_json::to_string(&reference).unwrap(), r#"{"a to b":3.0,"c to d":0.5}"#);
    }
}
