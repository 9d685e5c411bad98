//! What becomes of the agent after it ends: an upgrade or a restart, after which another one takes
//! over, or the end of holdfast on this node. Its DaemonSet knows.

use std::{fmt, str::FromStr, time::Duration};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client, core::PartialObjectMeta};
use tokio::time::{sleep, timeout};

use super::{ClusterError, Server, innermost};

/// HTTP statuses (RFC 9110) that say that the agent's DaemonSet is gone, or seems so. Uninstalling takes
/// the account and its rights as well, in any order, so being nobody, or one without rights, is nearly
/// the same news. But an agent is nobody, too, when its own pod was deleted by force, because its token
/// goes with the pod; and when that has expired, which happens while kubelet cannot renew it.
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;

/// How often and how long the API server is asked: eight seconds at worst, of the 30 that kubelet
/// gives a pod to end.
const PATIENCE: Patience =
    Patience { tries: 3, each: Duration::from_secs(2), between: Duration::from_secs(1) };

/// The namespace and the name of the agent's DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSetName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What becomes of the agent on this node after this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Another process takes over: its DaemonSet is there.
    Stays,
    /// Nobody takes over.
    Goes {
        /// How that is known.
        reason: String,
    },
    /// Nobody takes over, by all that can be seen.
    SeemsToGo {
        /// What is seen.
        reason: String,
    },
    /// The API server has not told.
    Unknown {
        /// The last error.
        reason: String,
    },
}

#[derive(Clone, Copy, Debug)]
struct Patience {
    tries: u32,
    each: Duration,
    between: Duration,
}

/// Asks for the agent's own DaemonSet.
///
/// Whether it still selects this node is left out: that is the scheduler's judgement over
/// selectors, affinities and taints. An agent that is taken off one node so counts as one that is
/// upgraded. What it leaves closed there ends at its deadlines; a guarded gate goes on guarding until
/// `holdfast cleanup`.
pub async fn fate(server: &Server, own: &DaemonSetName) -> Fate {
    ask(server.client(), own, || server.token_has_expired(), PATIENCE).await
}

async fn ask(
    client: Client,
    own: &DaemonSetName,
    token_has_expired: impl Fn() -> bool,
    patience: Patience,
) -> Fate {
    let Patience { tries, each, between } = patience;
    let api = Api::<DaemonSet>::namespaced(client, &own.namespace);
    let mut last = Fate::Unknown { reason: String::new() };
    for nth in 0..tries {
        if nth > 0 {
            sleep(between).await;
        }
        let answer = timeout(each, api.get_metadata(&own.name)).await;
        last = match answer.map(|answer| judge(own, answer, &token_has_expired)) {
            Ok(Verdict::Sure(fate)) => return fate,
            Ok(Verdict::Doubtful(fate)) => fate,
            Err(_) => {
                Fate::Unknown { reason: format!("no answer within {} s", each.as_secs_f32()) }
            }
        };
        tracing::debug!(daemonset = %own, ?last, "the agent's own DaemonSet cannot be read");
    }
    last
}

/// How far a DaemonSet's pods are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// On how many nodes a pod is to run.
    pub wanted: i32,
    ready: i32,
    /// The numbers are about the DaemonSet as it is now.
    is_current: bool,
}

impl Rollout {
    /// Whether all its pods are ready.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.is_current && self.ready >= self.wanted
    }
}

/// Asks how far a DaemonSet's pods are.
///
/// # Errors
///
/// If the API server does not tell.
pub async fn rollout(client: Client, daemonset: &DaemonSetName) -> Result<Rollout, ClusterError> {
    let api = Api::<DaemonSet>::namespaced(client, &daemonset.namespace);
    let object = api.get(&daemonset.name).await.map_err(|error| ClusterError::DaemonSet {
        daemonset: daemonset.to_string(),
        reason: innermost(&error),
    })?;
    let status = object.status.unwrap_or_default();
    Ok(Rollout {
        wanted: status.desired_number_scheduled,
        ready: status.number_ready,
        is_current: status.observed_generation == object.metadata.generation,
    })
}

/// What an answer means.
enum Verdict {
    /// That, and nothing else.
    Sure(Fate),
    /// That, unless another answer follows: an API server that has only just started refuses those
    /// whom it does not know yet.
    Doubtful(Fate),
}

fn judge(
    own: &DaemonSetName,
    answer: kube::Result<PartialObjectMeta<DaemonSet>>,
    token_has_expired: impl Fn() -> bool,
) -> Verdict {
    let goes = |reason: String| Fate::Goes { reason };
    let seems_to_go = |reason: String| Fate::SeemsToGo { reason };
    match answer {
        Ok(object) if object.metadata.deletion_timestamp.is_some() => {
            Verdict::Sure(goes(format!("DaemonSet {own} is being deleted")))
        }
        Ok(_) => Verdict::Sure(Fate::Stays),
        Err(kube::Error::Api(status)) => match status.code {
            NOT_FOUND => Verdict::Sure(goes(format!("there is no DaemonSet {own}"))),
            UNAUTHORIZED if token_has_expired() => {
                let reason = "the agent's token has expired".to_owned();
                Verdict::Doubtful(Fate::Unknown { reason })
            }
            UNAUTHORIZED => {
                let reason = "the agent's service account is gone, or its pod".to_owned();
                Verdict::Doubtful(seems_to_go(reason))
            }
            FORBIDDEN => {
                let reason = format!("the agent may not read DaemonSet {own} any more");
                Verdict::Doubtful(seems_to_go(reason))
            }
            _ => Verdict::Doubtful(Fate::Unknown { reason: status.message.clone() }),
        },
        Err(error) => Verdict::Doubtful(Fate::Unknown { reason: innermost(&error) }),
    }
}

// === impl DaemonSetName ===

impl FromStr for DaemonSetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/').filter(|(namespace, name)| {
            is_name(namespace, NAMESPACE_BYTES) && is_name(name, OBJECT_BYTES)
        });
        let Some((namespace, name)) = parts else {
            return Err("it must be NAMESPACE/NAME, such as holdfast/holdfast".to_owned());
        };
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for DaemonSetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}

/// How long names may be (RFC 1123, as the API server checks it): a label, a domain.
const NAMESPACE_BYTES: usize = 63;
const OBJECT_BYTES: usize = 253;

/// Whether the API server would take this for a name; one with other characters could lead the
/// request to another object.
fn is_name(text: &str, max: usize) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= max && text.chars().all(inner) && text.starts_with(outer) && text.ends_with(outer)
}

#[cfg(test)]
mod tests;
