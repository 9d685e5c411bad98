//! The start-up taint: nodes can be made with it, so that no pod is scheduled there before the
//! agent is armed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::innermost;

/// The taint's key.
const STARTUP_TAINT: &str = "holdfast.dev/agent-not-ready";

/// HTTP statuses (RFC 9110): the node has changed since it was read; the agent lacks the right.
const CONFLICT: u16 = 409;
const FORBIDDEN: u16 = 403;

const PACE: Pace = Pace {
    request: Duration::from_secs(10),
    tries: 5,
    between: Duration::from_millis(200),
    pause: Duration::from_secs(60),
};

/// When to try, and when to try again.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// For one request.
    request: Duration,
    /// In a row. A node changes some times a minute, and more often while it starts.
    tries: u32,
    /// Between these.
    between: Duration,
    /// Until the next row. No pod comes to the node meanwhile, so not for long.
    pause: Duration,
}

/// What was to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// The node did not have the taint.
    Nothing,
    /// It had it.
    Removed,
}

/// Why a try has failed.
#[derive(Debug)]
enum Failed {
    /// Somebody else has changed the node in between.
    Conflict,
    /// The agent lacks the right.
    Forbidden(String),
    /// Anything else.
    Other(String),
}

/// Removes the start-up taint, with every effect, from the node `node`. Ends when the node does not
/// have it any more; until then it tries again.
pub async fn remove_startup_taint(client: Client, node: &str) {
    remove(client, node, PACE).await;
}

async fn remove(client: Client, node: &str, pace: Pace) {
    // As the server sent them: taints of a newer API keep what this one does not know.
    let nodes = Api::<DynamicObject>::all_with(client, &ApiResource::erase::<Node>(&()));
    let mut forbidden_told = false;
    loop {
        match try_some_times(&nodes, node, pace).await {
            Ok(Done::Removed) => {
                tracing::info!(node, taint = STARTUP_TAINT, "start-up taint removed");
                return;
            }
            Ok(Done::Nothing) => {
                tracing::debug!(node, taint = STARTUP_TAINT, "the node has no start-up taint");
                return;
            }
            Err(Failed::Forbidden(error)) if std::mem::replace(&mut forbidden_told, true) => {
                tracing::debug!(node, error, "the start-up taint may still not be removed");
            }
            Err(Failed::Forbidden(error)) => tracing::warn!(
                node,
                taint = STARTUP_TAINT,
                error,
                "the API server does not let this agent remove the start-up taint, so no pod that \
                 does not tolerate it comes to this node; grant get and patch on nodes (the \
                 chart's startupTaint.enabled); said once"
            ),
            Err(failed) => {
                let error = match failed {
                    Failed::Conflict => "the node changes too often".to_owned(),
                    Failed::Forbidden(error) | Failed::Other(error) => error,
                };
                tracing::warn!(
                    node,
                    taint = STARTUP_TAINT,
                    error,
                    retry_s = pace.pause.as_secs(),
                    "the start-up taint cannot be removed; trying again"
                );
            }
        }
        sleep(pace.pause).await;
    }
}

async fn try_some_times(
    nodes: &Api<DynamicObject>,
    node: &str,
    pace: Pace,
) -> Result<Done, Failed> {
    let mut result = try_once(nodes, node, pace.request).await;
    for _ in 1..pace.tries {
        match &result {
            Ok(_) | Err(Failed::Forbidden(_)) => break,
            Err(Failed::Conflict | Failed::Other(_)) => {}
        }
        sleep(pace.between).await;
        result = try_once(nodes, node, pace.request).await;
    }
    result
}

/// Reads the node and writes its other taints back. The patch carries the version that was read, so
/// the server refuses it when somebody else has changed the node since: no other taint is lost.
async fn try_once(
    nodes: &Api<DynamicObject>,
    node: &str,
    request: Duration,
) -> Result<Done, Failed> {
    let silent = |_| Failed::Other("the API server does not answer".to_owned());
    let read = timeout(request, nodes.get(node)).await.map_err(silent)?.map_err(|e| failed(&e))?;
    let Some(others) = without(&read.data["spec"]["taints"]) else { return Ok(Done::Nothing) };
    // Without it the patch would be unconditional.
    let Some(version) = read.metadata.resource_version else {
        return Err(Failed::Other("the API server tells no version of the node".to_owned()));
    };
    let patch = json!({
        "metadata": { "resourceVersion": version },
        "spec": { "taints": others },
    });
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
    let patched = nodes.patch_metadata(node, &parameters, &patch);
    timeout(request, patched).await.map_err(silent)?.map_err(|e| failed(&e))?;
    Ok(Done::Removed)
}

/// The taints but the start-up taint, `null` for none; nothing if it is not among them.
fn without(taints: &Value) -> Option<Value> {
    let taints = taints.as_array()?;
    let others: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != STARTUP_TAINT).collect();
    if others.len() == taints.len() {
        return None;
    }
    Some(if others.is_empty() { Value::Null } else { json!(others) })
}

fn failed(error: &kube::Error) -> Failed {
    match error {
        kube::Error::Api(status) => match status.code {
            CONFLICT => Failed::Conflict,
            FORBIDDEN => Failed::Forbidden(status.message.clone()),
            _ => Failed::Other(status.message.clone()),
        },
        error => Failed::Other(innermost(error)),
    }
}

#[cfg(test)]
mod tests;
