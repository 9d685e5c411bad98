//! The table.

mod containers;
mod enablement;
mod life;
mod meshes;
mod never;
mod settings;

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    kernel::{Answer, Whose},
    scene::{Given, Step},
};

/// The application's container in every pod of the fixtures.
const APP: &str = "cart";

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What is the case.
    pub(crate) name: &'static str,
    /// The pod and what surrounds it.
    pub(crate) given: Given,
    /// What happens.
    pub(crate) steps: Vec<Step>,
    /// Whose connect is asked about in the end.
    pub(crate) whose: Whose,
    /// What becomes of it.
    pub(crate) answer: Answer,
    /// Why.
    pub(crate) why: &'static str,
}

/// The table with its headings, in the document's order.
pub(crate) fn groups() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("Which pods", enablement::cases()),
        ("Which pods never", never::cases()),
        ("Which meshes and side-cars", meshes::cases()),
        ("Which containers", containers::cases()),
        ("When", life::cases()),
        ("Settings", settings::cases()),
    ]
}

/// All rows.
pub(crate) fn all() -> Vec<Case> {
    groups().into_iter().flat_map(|(_, cases)| cases).collect()
}

/// A case of the application's connect.
fn case(
    name: &'static str,
    given: Given,
    steps: impl IntoIterator<Item = Step>,
    answer: Answer,
    why: &'static str,
) -> Case {
    let steps = steps.into_iter().collect();
    Case { name, given, steps, whose: Whose::Connect(APP), answer, why }
}

impl Case {
    /// A connect of another container instead.
    fn of(mut self, container: &'static str) -> Self {
        self.whose = Whose::Connect(container);
        self
    }

    /// A DNS query of the application instead.
    fn query(mut self) -> Self {
        self.whose = Whose::Query(APP);
        self
    }
}

/// A pod of the fixtures in an enabled namespace.
pub(crate) fn pod(pod: &'static str) -> Given {
    Given {
        pod,
        change: json!({}),
        labels: vec![("holdfast.dev/hold", "enabled")],
        annotations: Vec::new(),
        config: "",
        own: false,
    }
}

impl Given {
    pub(crate) fn labels(mut self, labels: &[(&'static str, &'static str)]) -> Self {
        self.labels = labels.to_vec();
        self
    }

    fn namespace_annotation(mut self, key: &'static str, value: &'static str) -> Self {
        self.annotations.push((key, value));
        self
    }

    fn change(mut self, change: Value) -> Self {
        self.change = change;
        self
    }

    fn annotation(self, key: &str, value: &str) -> Self {
        self.change(json!({"metadata": {"annotations": {key: value}}}))
    }

    fn label(self, key: &str, value: &str) -> Self {
        self.change(json!({"metadata": {"labels": {key: value}}}))
    }

    fn config(mut self, config: &'static str) -> Self {
        self.config = config;
        self
    }

    fn own(mut self) -> Self {
        self.own = true;
        self
    }
}

/// The pod is known before kubelet starts it; then its containers start in this order.
pub(crate) fn starts(containers: &[&'static str]) -> Vec<Step> {
    let containers = containers.iter().map(|name| Step::Starts(name));
    [Step::Told, Step::Cgroup].into_iter().chain(containers).collect()
}

/// The same, and the proxy has said that it is ready and all that waited has gone on.
pub(crate) fn ready(containers: &[&'static str]) -> Vec<Step> {
    let mut steps = starts(containers);
    steps.extend([Step::Probe(true), seconds(5)]);
    steps
}

pub(crate) fn then(mut steps: Vec<Step>, more: impl IntoIterator<Item = Step>) -> Vec<Step> {
    steps.extend(more);
    steps
}

fn seconds(seconds: u64) -> Step {
    Step::Wait(Duration::from_secs(seconds))
}
