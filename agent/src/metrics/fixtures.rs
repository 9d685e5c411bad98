//! What the tests scrape.

use std::collections::BTreeMap;

use super::{EventReading, Reading, ReplayReading};
use crate::core::{AgentState, NodeReport, Stamp, Totals};

/// Of an agent of which nothing more is known than that it works.
pub(super) fn reading() -> Reading {
    Reading {
        node: node_report(),
        waiting: None,
        maps: None,
        probes: Vec::new(),
        replays: ReplayReading::default(),
        events: EventReading::default(),
        log_lines_dropped: 0,
        stream_entries_lost: 0,
        process: None,
    }
}

pub(super) fn node_report() -> NodeReport {
    NodeReport {
        at: Stamp::default(),
        node: "node-1".to_owned(),
        version: "0.1.0".to_owned(),
        kernel: "6.1.0".to_owned(),
        pid: 1,
        started_at: Stamp::default(),
        state: AgentState::Working,
        missing: Vec::new(),
        pods: BTreeMap::new(),
        held: 0,
        totals: Totals::default(),
        watches: Vec::new(),
        problems: Vec::new(),
    }
}
