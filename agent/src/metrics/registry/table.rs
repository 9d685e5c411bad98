//! The metrics of one scrape, each with its description.

use prometheus_client::{
    metrics::{MetricType, TypedMetric},
    registry::{Metric, Registry, Unit},
};

use crate::metrics::expose;

/// A metric, as it is asked for in queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name; a histogram's without `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// Its unit, if it has one.
    pub unit: Option<String>,
    /// What tells its series apart.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// The registry of one scrape: the counters that go on, and what was read for it.
#[derive(Default)]
pub(super) struct Table {
    pub(super) registry: Registry,
    pub(super) described: Vec<Description>,
}

// === impl Table ===

impl Table {
    /// One that is left out as long as it is not known.
    pub(super) fn add_known<M: Metric + TypedMetric>(
        &mut self,
        name: &'static str,
        help: &'static str,
        metric: Option<M>,
    ) {
        match metric {
            Some(metric) => self.add(name, &[], help, metric),
            None => self.describe(name, M::TYPE, &[], help),
        }
    }

    /// `name` is without the suffix that the format gives a type, and with the unit.
    pub(super) fn add<M: Metric + TypedMetric>(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        metric: M,
    ) {
        self.describe(name, M::TYPE, labels, help);
        match unit_of(name) {
            // The registry puts the unit behind the name itself.
            Some((name, unit)) => self.registry.register_with_unit(name, help, unit, metric),
            None => self.registry.register(name, help, metric),
        }
    }

    fn describe(
        &mut self,
        name: &'static str,
        kind: MetricType,
        labels: &'static [&'static str],
        help: &'static str,
    ) {
        self.described.push(Description {
            name: format!("{name}{}", expose::suffix(kind.as_str())),
            kind: kind.as_str().to_owned(),
            unit: unit_of(name).map(|(_, unit)| unit.as_str().to_owned()),
            labels,
            help,
        });
    }
}

/// The base units stand at the end of the name.
fn unit_of(name: &'static str) -> Option<(&'static str, Unit)> {
    let of = |unit: Unit| Some((name.strip_suffix(unit.as_str())?.strip_suffix('_')?, unit));
    of(Unit::Seconds).or_else(|| of(Unit::Bytes))
}
