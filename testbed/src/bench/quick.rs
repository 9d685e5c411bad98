//! The quick form: ratios that do not depend on the machine's speed, next to those on record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::table::number;

/// Of a recorded ratio, what a release may lose before it counts, unless the ratio says otherwise: as much
/// is known of a ratio in seconds.
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

/// A ratio of two measurements of one run on one machine, or what does not depend on its speed anyway.
#[derive(Clone, Debug, PartialEq)]
pub struct QuickRatio {
    /// Of what to what.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// Which way it is good.
    pub better: Better,
    /// As a part of the recorded one, what it may lose.
    pub tolerated: f64,
}

/// A ratio next to the one on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// What it is called.
    pub name: String,
    /// The ratio, as it is now, if it was measured.
    pub now: Option<QuickRatio>,
    /// As it was.
    pub recorded: Option<f64>,
}

/// The ratios on record, by part and name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Reference(BTreeMap<String, BTreeMap<String, f64>>);

/// What becomes of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it was, or nearly.
    Kept,
    /// So much better that the record should be renewed.
    Better,
    /// As much of it is lost as it may not lose.
    Lost,
    /// Nothing on record.
    New,
    /// On record, and no longer measured.
    Missing,
}

impl QuickRatio {
    /// A ratio of which less is better.
    pub fn lower(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, better: Better::Lower, tolerated: TOLERATED }
    }

    /// A ratio of which more is better.
    pub fn higher(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, better: Better::Higher, tolerated: TOLERATED }
    }

    /// The same, which may lose another part of itself.
    #[must_use]
    pub fn tolerating(self, tolerated: f64) -> Self {
        Self { tolerated, ..self }
    }
}

impl Reference {
    /// Puts each of a part's ratios next to the one on record, then those on record that were not measured.
    #[must_use]
    pub fn compare(&self, part: &str, ratios: Vec<QuickRatio>) -> Vec<Compared> {
        let recorded = self.0.get(part);
        let missing = |(name, value): (&String, &f64)| {
            let is_measured = ratios.iter().any(|ratio| ratio.name == *name);
            let recorded = Some(*value);
            (!is_measured).then(|| Compared { name: name.clone(), now: None, recorded })
        };
        let missing: Vec<Compared> = recorded.into_iter().flatten().filter_map(missing).collect();
        let compared = |now: QuickRatio| {
            let recorded = recorded.and_then(|of_part| of_part.get(&now.name)).copied();
            Compared { name: now.name.clone(), now: Some(now), recorded }
        };
        ratios.into_iter().map(compared).chain(missing).collect()
    }

    /// Puts these on record, in the place of all older ones of the part.
    pub fn record(&mut self, part: &str, ratios: &[Compared]) {
        let values = ratios.iter().filter_map(|ratio| ratio.now.as_ref());
        let values = values.map(|now| (now.name.clone(), now.value)).collect();
        self.0.insert(part.to_owned(), values);
    }
}

/// Of a part that was measured twice, each ratio as it was when it was better.
#[must_use]
pub fn better_of(first: Vec<Compared>, second: Vec<Compared>) -> Vec<Compared> {
    let better = |(first, second): (Compared, Compared)| {
        let is_worse = first.gained().is_none_or(|gained| second.gained() > Some(gained));
        if is_worse { second } else { first }
    };
    first.into_iter().zip(second).map(better).collect()
}

impl Compared {
    /// What it has gained of what is on record; `None` if that cannot be said.
    fn gained(&self) -> Option<f64> {
        let (now, recorded) = (self.now.as_ref()?, self.recorded?);
        let gained = match now.better {
            Better::Higher => now.value / recorded - 1.0,
            Better::Lower => 1.0 - now.value / recorded,
        };
        gained.is_finite().then_some(gained)
    }

    /// What to say of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Some(now) = &self.now else { return Verdict::Missing };
        if self.recorded.is_none() {
            return Verdict::New;
        }
        // A ratio that is no number has lost all.
        let gained = self.gained().unwrap_or(f64::NEG_INFINITY);
        if gained <= -now.tolerated {
            Verdict::Lost
        } else if gained >= now.tolerated {
            Verdict::Better
        } else {
            Verdict::Kept
        }
    }

    /// Whether a release must not go out like this: a ratio is lost, or there is nothing to tell by.
    #[must_use]
    pub fn fails(&self) -> bool {
        matches!(self.verdict(), Verdict::Lost | Verdict::New | Verdict::Missing)
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
            Self::New => "NOT ON RECORD",
            Self::Missing => "NOT MEASURED",
        }
    }
}

/// The ratios as people read them.
#[must_use]
pub fn table(ratios: &[Compared]) -> String {
    let shown = |value: Option<f64>| value.map_or_else(|| "-".into(), number);
    let row = |ratio: &Compared| {
        let now = ratio.now.as_ref().map(|now| now.value);
        let verdict = ratio.verdict().as_str().to_owned();
        vec![ratio.name.clone(), shown(ratio.recorded), shown(now), verdict]
    };
    let rows: Vec<Vec<String>> = ratios.iter().map(row).collect();
    super::table::table(&["ratio", "recorded", "now", "verdict"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(now: QuickRatio, recorded: f64) -> Compared {
        Compared { name: now.name.clone(), now: Some(now), recorded: Some(recorded) }
    }

    fn verdict(better: Better, recorded: f64, value: f64) -> Verdict {
        let now = QuickRatio { better, ..QuickRatio::lower("a to b", value) };
        compared(now, recorded).verdict()
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
    fn what_is_nearly_one_may_lose_less() {
        let verdict =
            |value| compared(QuickRatio::higher("a to b", value).tolerating(0.05), 0.98).verdict();
        assert_eq!(verdict(0.95), Verdict::Kept);
        assert_eq!(verdict(0.92), Verdict::Lost);
    }

    #[test]
    fn a_ratio_without_a_record_fails_and_can_be_recorded() {
        let mut reference: Reference =
            serde_json::from_str(r#"{"p": {"a to b": 2.0, "old": 1.0}, "q": {"a to b": 7.0}}"#)
                .unwrap();
        let ratios = || vec![QuickRatio::lower("a to b", 3.0), QuickRatio::higher("c to d", 0.5)];
        let compared = reference.compare("p", ratios());
        let verdicts: Vec<Verdict> = compared.iter().map(Compared::verdict).collect();
        assert_eq!(verdicts, [Verdict::Lost, Verdict::New, Verdict::Missing]);
        assert!(compared.iter().all(Compared::fails));
        let table = table(&compared);
        assert!(table.contains("| a to b |     2.00 |  3.00 |          LOST |\n"), "{table}");
        assert!(table.contains("| c to d |        - | 0.500 | NOT ON RECORD |\n"), "{table}");
        assert!(table.contains("| old    |     1.00 |     - |  NOT MEASURED |\n"), "{table}");
        reference.record("p", &compared);
        let compared = reference.compare("p", ratios());
        let verdicts: Vec<Verdict> = compared.iter().map(Compared::verdict).collect();
        assert_eq!(verdicts, [Verdict::Kept; 2]);
        assert!(!compared.iter().any(Compared::fails));
        let expected = r#"{"p":{"a to b":3.0,"c to d":0.5},"q":{"a to b":7.0}}"#;
        assert_eq!(serde_json::to_string(&reference).unwrap(), expected);
        let empty = Reference::default().compare("p", ratios());
        assert!(empty.iter().all(Compared::fails));
    }

    #[test]
    fn what_is_lost_once_is_not_lost() {
        let of = |values: [f64; 2]| {
            values.map(|value| compared(QuickRatio::lower("a to b", value), 2.0)).to_vec()
        };
        let both = better_of(of([3.0, 2.0]), of([2.1, 9.0]));
        let values: Vec<f64> =
            both.iter().filter_map(|one| Some(one.now.as_ref()?.value)).collect();
        assert_eq!(values, [2.1, 2.0]);
        assert_eq!(better_of(of([f64::NAN, 3.0]), of([3.0, 4.0]))[0].verdict(), Verdict::Lost);
    }
}
