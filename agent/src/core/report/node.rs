//! The agent itself, and the node in sum.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{PodReport, PodState};
use crate::core::{Exemption, Outcome, Stamp};

/// What the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// Something that it needs is not there yet.
    Starting,
    /// Another agent works on this node; this one goes on when that one ends.
    StandingBy,
    /// It works the gates of this node.
    Working,
    /// Its own task does not answer.
    Stuck,
}

/// The agent, and its node in sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// When this was so.
    pub at: Stamp,
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// `uname -r`.
    pub kernel: String,
    /// The agent's process id.
    pub pid: u32,
    /// When it was started.
    pub started_at: Stamp,
    /// What it does.
    pub state: AgentState,
    /// What has not happened yet of what arms it, in words.
    pub missing: Vec<String>,
    /// How many pods stand where.
    pub pods: BTreeMap<PodState, usize>,
    /// How many connects and queries wait now.
    pub held: usize,
    /// What has happened since it was started.
    pub totals: Totals,
    /// What the API server has told, and when; empty as long as it is not listened to.
    #[serde(default)]
    pub watches: Vec<WatchReport>,
    /// What an operator should look at, in words. Empty: the agent is healthy.
    pub problems: Vec<String>,
}

/// What is watched of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watched {
    /// The pods of this node.
    Pods,
    /// All namespaces.
    Namespaces,
}

/// A watch of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchReport {
    /// What is watched.
    pub resource: Watched,
    /// When the API server has last said something, as it does about once a minute even if nothing
    /// changes; `None`: not yet.
    pub heard_at: Option<Stamp>,
    /// How often all objects were listed.
    pub lists: u64,
    /// How often it was interrupted, or could not be started again.
    pub errors: u64,
}

/// What has happened since the agent was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connects and queries that waited.
    pub held: u64,
    /// Connects that were refused (mode refuse).
    pub refused: u64,
    /// Connects that would have waited (mode observe).
    pub observed: u64,
    /// How those that waited ended.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Gates whose time was up.
    pub timed_out_gates: u64,
    /// Gates that could not be worked.
    pub failed_gates: u64,
    /// Reports of the kernel that were lost.
    pub lost_reports: u64,
}

// === impl AgentState ===

impl AgentState {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::StandingBy => "standing by",
            Self::Working => "working",
            Self::Stuck => "stuck",
        }
    }
}

// === impl Watched ===

impl Watched {
    /// As the API calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
        }
    }
}

// === impl WatchReport ===

impl WatchReport {
    /// From then on the API server counts as silent: it says something about once a minute, and ends
    /// each watch after two.
    pub const SILENT_AFTER: Duration = Duration::from_secs(300);

    /// For how long nothing has been heard, if that is for too long.
    #[must_use]
    pub fn silent_for(&self, now: Stamp) -> Option<Duration> {
        let silent = now.since(self.heard_at?);
        (silent > Self::SILENT_AFTER).then_some(silent)
    }
}

// === impl NodeReport ===

impl NodeReport {
    /// Whether there is nothing that an operator should look at.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

// === impl PodReport ===

impl PodReport {
    /// Whether it is one of those that holdfast has anything to do with: to be held, or wanted to be
    /// although it cannot.
    #[must_use]
    pub const fn is_concerned(&self) -> bool {
        !matches!(self.state, PodState::Exempt)
            || (self.wanted
                && !matches!(self.exemption, Some(Exemption::Finished | Exemption::Deleted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_silent_only_after_what_an_api_server_may_take() {
        let at = |seconds: u64| Stamp::new(Duration::from_secs(seconds));
        let watch =
            |heard_at| WatchReport { resource: Watched::Pods, heard_at, lists: 1, errors: 0 };
        let heard = watch(Some(at(1_000)));
        assert_eq!(heard.silent_for(at(900)), None);
        assert_eq!(heard.silent_for(at(1_300)), None);
        assert_eq!(heard.silent_for(at(1_301)), Some(Duration::from_secs(301)));
        // What has not begun is missing, not silent.
        assert_eq!(watch(None).silent_for(at(9_000)), None);
    }
}
