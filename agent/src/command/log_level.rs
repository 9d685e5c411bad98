//! What `holdfast log-level` prints.

use super::{
    table::{Cell, Table},
    terminal::{Style, safe},
};
use crate::{admin::LogReport, core::PodName};

/// Another level than debug is wanted for one pod.
#[derive(Debug, thiserror::Error)]
#[error("the lines about one pod are taken down to debug; there is no other level for it")]
pub struct PodLevelError;

/// The filter, and the pods of which the log says more.
#[must_use]
pub fn table(report: &LogReport, style: Style) -> String {
    let LogReport { filter, initial, pods } = report;
    // One line whatever its length: it is there to be given to the next agent.
    let mut text = format!("{}\n", safe(filter));
    if filter != initial {
        text += &format!("(the agent was started with {})\n", safe(initial));
    }
    if pods.is_empty() {
        return text;
    }
    let mut table = Table::new(["NAMESPACE", "POD", "LINES"]);
    for followed in pods {
        let (namespace, name) = match &followed.pod.name {
            Some(PodName { namespace, name }) => (namespace.as_ref(), name.as_ref()),
            None => ("-", followed.pod.uid.as_str()),
        };
        let lines = match (followed.debug, followed.kernel) {
            (true, true) => "debug, and its eBPF programs'",
            (true, false) => "debug",
            (false, _) => "its eBPF programs'",
        };
        table.row([namespace.into(), name.into(), Cell::from(lines)]);
    }
    text + "\n" + &table.render(style)
}
