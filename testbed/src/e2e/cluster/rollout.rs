//! Waiting for the agents.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetStatus},
    core::v1::{ContainerStatus, Pod},
};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use tokio::time::{Instant, sleep};

use super::{
    ClusterError, diagnose,
    install::Installed,
    patience::{briefly, patiently},
};
use crate::e2e::{AgentPod, Row};

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What an agent promises, from its container's start.
const READY_WITHIN_S: i64 = 5;

/// Waits as `kubectl rollout status` does; returns the agents.
pub(super) async fn wait(
    client: &Client,
    installed: &Installed,
    timeout: Duration,
) -> Result<Vec<AgentPod>, ClusterError> {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), &installed.namespace);
    let deadline = Instant::now() + timeout;
    loop {
        let daemonset = patiently(deadline, async || api.get(&installed.name).await)
            .await
            .map_err(ClusterError::api(format!("read DaemonSet {installed}")))?;
        let state = match progress(&daemonset) {
            Ok(()) => {
                let agents = agents(client, installed).await?;
                if agents.iter().any(|agent| agent.ready) {
                    return Ok(agents);
                }
                "no agent is ready".to_owned()
            }
            Err(state) => state,
        };
        if Instant::now() >= deadline {
            let mut state = vec![state];
            for pod in pods(client, installed).await? {
                state.extend(diagnose::states(&pod));
                state.extend(diagnose::last_lines(client, &pod).await);
            }
            let name = installed.to_string();
            return Err(ClusterError::Rollout { name, after: timeout, state: state.join("\n  ") });
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn agents(client: &Client, installed: &Installed) -> Result<Vec<AgentPod>, ClusterError> {
    let pods = pods(client, installed).await?;
    let is_new = |pod: &Pod| !pod.metadata.uid.iter().any(|uid| installed.earlier.contains(uid));
    Ok(pods.iter().map(|pod| agent(pod, is_new(pod))).collect())
}

/// Where pods can be held: nodes with an agent that is ready.
pub(super) fn nodes(agents: &[AgentPod]) -> Vec<&str> {
    let nodes: BTreeSet<&str> =
        agents.iter().filter(|agent| agent.ready).map(|agent| agent.node.as_str()).collect();
    nodes.into_iter().collect()
}

/// The agents' pods, but for those that are on their way out.
pub(super) async fn pods(client: &Client, installed: &Installed) -> Result<Vec<Pod>, ClusterError> {
    let daemonsets: Api<DaemonSet> = Api::namespaced(client.clone(), &installed.namespace);
    let failed = || format!("list the pods of DaemonSet {installed}");
    let daemonset = briefly(async || daemonsets.get(&installed.name).await)
        .await
        .map_err(ClusterError::api(failed()))?;
    let selector = daemonset.spec.and_then(|spec| spec.selector.match_labels).unwrap_or_default();
    let selector: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let api: Api<Pod> = Api::namespaced(client.clone(), &installed.namespace);
    let mine = ListParams::default().labels(&selector.join(","));
    let list = briefly(async || api.list(&mine).await).await;
    let mut pods = list.map_err(ClusterError::api(failed()))?.items;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(pods)
}

/// Whether every node has an agent of the newest kind that is ready, or how far it is.
fn progress(daemonset: &DaemonSet) -> Result<(), String> {
    let status = daemonset.status.clone().unwrap_or_default();
    if status.observed_generation < daemonset.metadata.generation {
        return Err("the DaemonSet's controller has not seen it yet".to_owned());
    }
    let DaemonSetStatus { desired_number_scheduled: desired, .. } = status;
    let (updated, available) = (status.updated_number_scheduled, status.number_available);
    if desired == 0 {
        return Err("no node is to have an agent: look at its nodeSelector".to_owned());
    }
    if updated.unwrap_or(0) < desired || available.unwrap_or(0) < desired {
        let (updated, available) = (updated.unwrap_or(0), available.unwrap_or(0));
        return Err(format!("{updated} of {desired} updated, {available} available"));
    }
    Ok(())
}

/// One that was there before this run may have been not ready for a while at any time since its start:
/// how long it took then is not known.
fn agent(pod: &Pod, is_new: bool) -> AgentPod {
    let status = pod.status.as_ref();
    let started = status
        .and_then(|status| status.container_statuses.as_ref())
        .and_then(|all| all.iter().filter_map(started_at).max());
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|one| one.type_ == "Ready" && one.status == "True"));
    let since = ready.and_then(|ready| ready.last_transition_time.as_ref());
    let since = since.map(|time| time.0.as_second());
    AgentPod {
        pod: pod.name_any(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        ready: ready.is_some(),
        ready_s: started.zip(since).map(|(started, ready)| ready - started).filter(|_| is_new),
    }
}

fn started_at(status: &ContainerStatus) -> Option<i64> {
    let running = status.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|time| time.0.as_second())
}

/// The table's row about the agents.
pub(super) fn row(agents: &[AgentPod]) -> Row {
    let slowest = agents.iter().filter_map(|agent| agent.ready_s).max();
    let in_time = slowest.is_none_or(|s| s <= READY_WITHIN_S);
    let ready = agents.iter().filter(|agent| agent.ready).count();
    let slowest = slowest.map_or_else(String::new, |s| format!(", the slowest after {s} s"));
    let seen = format!("{ready} of {} ready{slowest}", agents.len());
    Row {
        case: "agents".to_owned(),
        expected: format!("ready, new ones within {READY_WITHIN_S} s"),
        seen,
        after_ms: None,
        ok: in_time && ready == agents.len() && !agents.is_empty(),
        details: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn daemonset(status: &serde_json::Value) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"generation": 2}, "status": status})).unwrap()
    }

    #[test]
    fn a_rollout_is_over_when_every_node_has_a_new_agent_that_is_available() {
        let status = |observed: i64, desired: i32, updated: i32, available: i32| {
            json!({
                "observedGeneration": observed,
                "currentNumberScheduled": desired,
                "desiredNumberScheduled": desired,
                "numberMisscheduled": 0,
                "numberReady": available,
                "updatedNumberScheduled": updated,
                "numberAvailable": available,
            })
        };
        let state = |status| progress(&daemonset(&status)).unwrap_err();
        assert_eq!(progress(&daemonset(&status(2, 3, 3, 3))), Ok(()));
        assert!(state(status(1, 3, 3, 3)).contains("has not seen it"));
        assert!(state(status(2, 0, 0, 0)).contains("no node"));
        assert_eq!(state(status(2, 3, 2, 3)), "2 of 3 updated, 3 available");
        assert_eq!(state(status(2, 3, 3, 2)), "3 of 3 updated, 2 available");
        assert!(progress(&DaemonSet::default()).is_err());
    }

    fn pod(started: Option<&str>, ready: Option<&str>) -> Pod {
        let state = started.map_or(json!({}), |at| json!({"running": {"startedAt": at}}));
        let conditions = ready.map(|at| {
            json!([
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": "True", "lastTransitionTime": at},
            ])
        });
        serde_json::from_value(json!({
            "metadata": {"name": "holdfast-x"},
            "spec": {"nodeName": "node1", "containers": []},
            "status": {
                "conditions": conditions,
                "containerStatuses": [{
                    "name": "agent", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": state,
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn an_agent_s_time_is_from_its_container_s_start_to_the_pod_s_readiness() {
        let start = "2026-01-01T00:00:10Z";
        let of = |ready: Option<&str>| agent(&pod(Some(start), ready), true);
        assert_eq!(
            of(Some("2026-01-01T00:00:12Z")),
            AgentPod {
                pod: "holdfast-x".into(),
                node: "node1".into(),
                ready: true,
                ready_s: Some(2)
            }
        );
        assert_eq!((of(None).ready, of(None).ready_s), (false, None));
        assert_eq!(agent(&pod(None, Some(start)), true).ready_s, None);
        assert!(!agent(&Pod::default(), true).ready);

        let quick = of(Some("2026-01-01T00:00:15Z"));
        let slow = of(Some("2026-01-01T00:00:16Z"));
        assert!(row(std::slice::from_ref(&quick)).ok);
        let both = row(&[slow, quick.clone()]);
        assert!(!both.ok);
        assert_eq!(both.seen, "2 of 2 ready, the slowest after 6 s");
        let one = row(&[quick, of(None)]);
        assert_eq!((one.ok, one.seen.as_str()), (false, "1 of 2 ready, the slowest after 5 s"));
        assert!(!row(&[]).ok);
    }

    #[test]
    fn an_agent_that_was_there_before_has_to_be_ready_and_nothing_else() {
        // An hour after its start, because it has been not ready for a moment.
        let earlier = pod(Some("2026-01-01T00:00:10Z"), Some("2026-01-01T01:00:00Z"));
        let earlier = agent(&earlier, false);
        assert_eq!((earlier.ready, earlier.ready_s), (true, None));
        let whole = row(std::slice::from_ref(&earlier));
        assert_eq!((whole.ok, whole.seen.as_str()), (true, "1 of 1 ready"));
        let ill = agent(&pod(Some("2026-01-01T00:00:10Z"), None), false);
        assert!(!row(&[earlier, ill]).ok);
    }

    #[test]
    fn pods_go_where_an_agent_is_ready() {
        let on = |node: &str, ready: bool| AgentPod {
            pod: "holdfast-x".into(),
            node: node.into(),
            ready,
            ready_s: None,
        };
        let agents = [on("b", true), on("c", false), on("a", true), on("a", true)];
        assert_eq!(nodes(&agents), ["a", "b"]);
    }
}
