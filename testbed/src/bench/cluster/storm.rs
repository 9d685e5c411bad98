//! What an agent writes: Kubernetes Events, for a pod that waits and when everybody has something to
//! be told.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    AgentOptions, Node, PodSpec, Resource,
    api::{Api, Count},
    apps, backend_v4,
    bench::Options,
};

/// Longer than anything takes that is not stuck.
const SOON: Duration = Duration::from_secs(30);
/// Pods whose application waits for its proxy.
const HELD: usize = 3;
/// Pods that come at once, each with something to tell its owner: more than wait in the agent's queue.
const AT_ONCE: usize = 1000;
/// For so long Events are counted. A limit that lets a burst pass is seen by what comes after it.
const LISTEN: Duration = Duration::from_secs(10);

const NAMESPACE: &str = "shop";

/// What Events cost.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Storm {
    /// Written for each pod that waited and was let go.
    pub(super) events_per_hold: f64,
    /// Of one Event, as it was posted.
    pub(super) bytes_per_event: f64,
    /// Pods that came at once, each with an annotation that is wrong.
    pub(super) pods_at_once: usize,
    /// Events that came in their first second.
    pub(super) in_first_second: u64,
    /// Events that came in the ten seconds after it.
    pub(super) in_next_ten_seconds: u64,
}

impl Storm {
    pub(super) fn measure(options: &Options) -> Result<Self> {
        let node = Node::new()?;
        let api = node.api();
        api.put_namespace(NAMESPACE, &[("holdfast.dev/hold", "enabled")]);
        let agent = node.start_agent(&AgentOptions::new(&options.agent))?;
        agent.wait_message(SOON, "agent armed")?;

        let before = written(api);
        for number in 0..HELD {
            let pod = node.create_pod(PodSpec::new(NAMESPACE, format!("waits-{number}")))?;
            let app = pod.start_container("app", apps::connect(backend_v4())?)?;
            agent.wait_log(SOON, |line| {
                line["message"] == "connect held" && line["pod_uid"] == pod.uid()
            })?;
            let proxy = pod.start_proxy()?;
            proxy.wait_ready(SOON)?;
            ensure!(app.wait_attempt(SOON)?.is_connected(), "a held connect failed");
            agent.wait_log(SOON, |line| {
                line["message"] == "hold ended" && line["pod_uid"] == pod.uid()
            })?;
        }
        let held = settled(api)?.since(before);
        ensure!(held.requests > 0, "no Event was written for {HELD} holds");

        let before = written(api);
        for number in 0..AT_ONCE {
            api.put(Resource::Pods, misspelt(node.name(), number));
        }
        let begun = Instant::now();
        while written(api).requests == before.requests {
            ensure!(begun.elapsed() < SOON, "no Event of {AT_ONCE} pods was written");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_secs(1));
        let first = written(api).since(before);
        thread::sleep(LISTEN);
        let all = written(api).since(before);
        Ok(Self {
            events_per_hold: held.requests as f64 / HELD as f64,
            bytes_per_event: held.received as f64 / held.requests as f64,
            pods_at_once: AT_ONCE,
            in_first_second: first.requests,
            in_next_ten_seconds: all.requests - first.requests,
        })
    }
}

/// What was written so far.
fn written(api: &Api) -> Count {
    api.cost("create", "events").and(api.cost("patch", "events"))
}

/// The same, once no more comes.
fn settled(api: &Api) -> Result<Count> {
    let deadline = Instant::now() + SOON;
    let mut last = written(api);
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = written(api);
        if now == last {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "Events come without end");
        last = now;
    }
}

/// A pod that exists only in the API, with a setting that is none: its owner is told.
fn misspelt(node: &str, number: usize) -> serde_json::Value {
    json!({
        "metadata": {
            "name": format!("misspelt-{number:04}"),
            "namespace": NAMESPACE,
            "annotations": {"holdfast.dev/mode": "wait"},
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "app"}, {"name": "istio-proxy"}],
        },
        "status": {"phase": "Pending"},
    })
}
