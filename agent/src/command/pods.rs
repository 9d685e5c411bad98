//! What `holdfast pods` prints.

use super::{table::Table, terminal::Style};
use crate::core::{PodName, PodReport, Stamp, in_words};

/// One row for each pod.
#[must_use]
pub fn table(pods: &[PodReport], now: Stamp, style: Style) -> String {
    let mut table = Table::new(["NAMESPACE", "POD", "STATE", "PROFILE", "HELD", "SINCE", "WHY"]);
    for report in pods {
        let (namespace, name) = match &report.pod.name {
            Some(PodName { namespace, name }) => (namespace.as_ref(), name.as_ref()),
            None => ("-", report.pod.uid.as_str()),
        };
        let why = match (report.exemption, report.closed_for) {
            (Some(exemption), _) => exemption.as_str(),
            (None, Some(reason)) => reason.as_str(),
            (None, None) => "-",
        };
        table.row([
            namespace.into(),
            name.into(),
            report.state.as_str().into(),
            report.proxy.as_ref().map_or("-", |proxy| &proxy.profile).into(),
            report.held.to_string().into(),
            in_words(now.since(report.since)).into(),
            why.into(),
        ]);
    }
    table.render(style)
}
