//! What kubelet and the pods' containers do on the fake cluster.

use serde_json::{Value, json};
use testpod::{Attempt, End, Event, Record};

use super::fake::{Cluster, node_ns};
use crate::e2e::{APP, Case, Expected, SETUP, cases, cluster::object::CASE_LABEL};

const MS: u64 = 1_000_000;

/// Between two connects of the client that is labelled.
const EVERY: u64 = 100 * MS;

fn case_of(pod: &Value) -> Option<Case> {
    let name = &pod["metadata"]["labels"][CASE_LABEL];
    cases().into_iter().find(|case| *name == case.name)
}

/// The agent's pod: ready two seconds after its start, or not at all.
pub(super) fn agent_status(stuck: bool) -> Value {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:10Z"}});
    json!({
        "phase": if stuck { "Pending" } else { "Running" },
        "conditions": [{
            "type": "Ready",
            "status": if stuck { "False" } else { "True" },
            "lastTransitionTime": "2026-01-01T00:00:12Z",
        }],
        "containerStatuses": [status_of("agent", &if stuck { waiting } else { running }, 0)],
    })
}

/// A case's pod: everything runs, and what restarts has done so.
pub(super) fn status(pod: &Value) -> Value {
    let case = case_of(pod).unwrap();
    let restarts = i32::from(matches!(case.expected, Expected::Survives { .. }));
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:10Z"}});
    json!({
        "phase": "Running",
        "containerStatuses": [
            status_of(APP, &running, 0),
            status_of(case.mesh.proxy(), &running, restarts),
        ],
    })
}

fn status_of(name: &str, state: &Value, restarts: i32) -> Value {
    json!({
        "name": name,
        "image": "",
        "imageID": "",
        "ready": true,
        "restartCount": restarts,
        "state": state,
    })
}

pub(super) fn events() -> Value {
    let of = |name: &str, reason: &str| {
        json!({
            "metadata": {"name": format!("{name}.1")},
            "eventTime": null,
            "reason": reason,
            "regarding": {"kind": "Pod", "name": name},
        })
    };
    json!([of("opted-out", "Scheduled"), of("init-container", "InitContainerNeedsProxy")])
}

/// A container's log; `None` as long as there is none.
pub(super) fn log(
    cluster: &Cluster,
    pod: &Value,
    container: &str,
    previous: bool,
) -> Option<String> {
    let Some(case) = case_of(pod) else {
        let pods = ["classic-sidecar", "job-x"]
            .map(|name| format!("INFO gate closed pod=\"{name}\" pod_uid=\"uid-of-{name}\"\n"));
        return Some(pods.concat());
    };
    let started = pod["metadata"]["annotations"]["started"].as_str()?.parse().ok()?;
    // Long enough that the first look finds nothing.
    if node_ns() < started + 150 * MS {
        return None;
    }
    let records = if container == APP {
        client(cluster, &case, started)
    } else if container == SETUP {
        vec![attempt(started, 0, 1, Attempt::REFUSED)]
    } else {
        proxy(&case, started, previous)
    };
    let lines = records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n");
    Some(lines.collect())
}

fn client(cluster: &Cluster, case: &Case, started: u64) -> Vec<Record> {
    let connected = |start, end| attempt(started, start, end, Attempt::CONNECTED);
    let mut records = match case.expected {
        _ if cluster.refused.contains(&case.name) => {
            vec![attempt(started, 100, 101, Attempt::REFUSED)]
        }
        Expected::Held | Expected::JobSucceeds | Expected::InitRefused => {
            vec![connected(100, 3_002)]
        }
        Expected::AtOnce => vec![connected(3_100, 3_101)],
        Expected::Refused => vec![attempt(started, 100, 101, Attempt::REFUSED)],
        Expected::Survives { .. } => {
            vec![connected(100, 3_002), connected(5_200, 9_003), connected(9_300, 9_301)]
        }
        Expected::Labelled => return labelled(cluster.label, started),
    };
    records.push(record(started, 9_400, Event::ClientDone { connected: 1, failed: 0 }));
    records
}

/// Refused ten times a second, but for the one that waits while the label is there.
fn labelled([set, removed]: [Option<u64>; 2], started: u64) -> Vec<Record> {
    let mut records = Vec::new();
    let mut start = started;
    while start + MS < node_ns() {
        let is_held = set.is_some_and(|set| start > set) && removed.is_none_or(|gone| start < gone);
        let end = match removed {
            Some(removed) if is_held => removed + 4 * MS,
            None if is_held => break,
            _ => start + MS,
        };
        records.push(attempt(0, start / MS, end / MS, Attempt::REFUSED));
        start = end + EVERY;
    }
    records
}

fn proxy(case: &Case, started: u64, previous: bool) -> Vec<Record> {
    let ready = |ms| record(started, ms, Event::ProxyReady);
    match (case.expected, previous) {
        (Expected::Labelled, _) => Vec::new(),
        (Expected::Survives { .. }, true) => {
            vec![ready(3_000), record(started, 5_000, Event::ProxyEnded { reason: End::DieAfter })]
        }
        (Expected::Survives { .. }, false) => vec![ready(9_000)],
        _ => vec![ready(3_000)],
    }
}

fn attempt(started: u64, start: u64, end: u64, outcome: &str) -> Record {
    let attempt = Attempt {
        number: 1,
        start_ns: started + start * MS,
        end_ns: started + end * MS,
        outcome: outcome.to_owned(),
        status: (outcome == Attempt::CONNECTED).then_some(200),
    };
    record(started, end, Event::Attempt(attempt))
}

fn record(started: u64, ms: u64, event: Event) -> Record {
    Record { mono_ns: started + ms * MS, wall: String::new(), event }
}
