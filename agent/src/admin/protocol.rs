//! What goes over the socket besides the reports themselves. Client and agent are of one version,
//! or nearly: `/v1` changes only by additions.

use serde::{Deserialize, Serialize};

use crate::{
    core::{Entry, Episode, PodReport},
    reconcile::Followed,
};

/// `GET /v1/pods/{namespace}/{name}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodDetail {
    /// The pod.
    pub pod: PodReport,
    /// What has happened to it lately, the latest first.
    pub episodes: Vec<Episode>,
}

/// The query of `GET /v1/entries`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Follow {
    /// After the recent ones, those that come.
    pub follow: bool,
    /// Only of this pod: `NAMESPACE/NAME`.
    pub pod: Option<String>,
    /// Only of this namespace.
    pub namespace: Option<String>,
    /// Only of these kinds, with commas.
    pub kind: Option<String>,
}

impl Follow {
    /// The request's target with this query. The parts are what a URL may have as it is: names as
    /// the API lets them be, and kinds.
    #[must_use]
    pub fn target(&self) -> String {
        let Self { follow, pod, namespace, kind } = self;
        let mut target = format!("/v1/entries?follow={follow}");
        for (key, value) in [("pod", pod), ("namespace", namespace), ("kind", kind)] {
            if let Some(value) = value {
                target += &format!("&{key}={value}");
            }
        }
        target
    }
}

/// One line of what `GET /v1/entries` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The reader was too slow for so many entries, of whichever pods.
    Lost {
        /// How many.
        lost: u64,
    },
    /// An entry.
    Entry(Box<Entry>),
}

/// The body of `POST /v1/gate`; the answer is the pod's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderBody {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// What its gate is to be.
    pub order: OrderWish,
    /// For how long; needed to close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
}

/// The body of `POST /v1/watch`; the answer is the pod's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchBody {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// For how long its starts, and its workload's, are observed; 0: no more.
    pub for_ms: u64,
}

/// What a gate is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderWish {
    /// Open.
    Open,
    /// Closed.
    Close,
    /// What the facts say.
    Auto,
}

/// The answer to all of `/v1/log`: what the log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// The filter, as it was given.
    pub filter: String,
    /// The filter with which the agent was started.
    pub initial: String,
    /// The pods of which the log says more.
    pub pods: Vec<Followed>,
}

/// The body of `PUT /v1/log`. `DELETE` goes back to the filter with which the agent was started, and
/// follows no pod any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterBody {
    /// The filter.
    pub filter: String,
}

/// The body of `PUT /v1/log/pods`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowBody {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// Whether the log is to say more about it than about others.
    pub on: bool,
    /// Whether its eBPF programs are, too.
    #[serde(default)]
    pub kernel: bool,
}

/// Why there is no answer, with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Problem {
    /// In one line.
    pub(super) error: String,
}
