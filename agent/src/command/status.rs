//! What `holdfast status` prints.

use super::{
    table::{Cell, Table},
    terminal::{Paint, Style},
};
use crate::core::{NodeReport, PodReport};

/// One screen about the agent and its node.
#[must_use]
pub fn table(node: &NodeReport, pods: &[PodReport], style: Style) -> String {
    let NodeReport { node: name, version, kernel, pid, state, held, problems, .. } = node;
    let mut table = Table::new(["NODE", "AGENT", "VERSION", "PID", "KERNEL", "PODS", "HELD"]);
    let concerned = pods.iter().filter(|pod| pod.is_concerned()).count();
    table.row([
        name.as_str().into(),
        state.as_str().into(),
        version.as_str().into(),
        pid.to_string().into(),
        kernel.as_str().into(),
        concerned.to_string().into(),
        Cell::from(held.to_string()),
    ]);
    for problem in problems {
        table.note(problem, Some(Paint::Bad));
    }
    table.render(style)
}
