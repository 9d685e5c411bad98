//! What is true at the moment of a scrape, read from those who know it.

use super::ProcessReading;
use crate::core::{NodeReport, PodRef};

/// What is true at the moment of a scrape. What is not known is left out of the answer, or zero where
/// it is a count of what has happened.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The agent, and its node in sum.
    pub node: NodeReport,
    /// The pods of which connects wait, and how many; `None` as long as the gates are not worked.
    pub waiting: Option<Vec<(PodRef, usize)>>,
    /// Of the maps; `None` as long as the gates are not worked.
    pub maps: Option<MapReading>,
    /// The rounds of the probes, by how they ended.
    pub probes: Vec<(&'static str, u64)>,
    /// The replays.
    pub replays: ReplayReading,
    /// The Kubernetes Events.
    pub events: EventReading,
    /// Lines of the log that its reader did not take in time.
    pub log_lines_dropped: u64,
    /// Entries of the stream that slow readers have lost.
    pub stream_entries_lost: u64,
    /// The process; `None` if /proc does not tell.
    pub process: Option<ProcessReading>,
}

/// What the kernel keeps of the held sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapReading {
    /// Packets that closed gates have dropped.
    pub dropped: u64,
    /// Held sockets.
    pub sockets: Filled,
    /// Their DNS queries.
    pub datagrams: Filled,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Entries.
    pub used: u64,
    /// Entries at most.
    pub max: u64,
}

/// What has become of the replays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayReading {
    /// Packets that were sent again.
    pub sent: u64,
    /// Packets that were not.
    pub failed: u64,
}

/// What has become of the Kubernetes Events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventReading {
    /// The API server has taken them.
    pub published: u64,
    /// Over the limit of their pod, or with the queue full.
    pub dropped: u64,
    /// The API server has not taken them.
    pub failed: u64,
}
