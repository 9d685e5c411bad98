use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use kube::Config;
use tokio::{net::TcpListener, task::JoinHandle};

use super::*;
use crate::captured_log::Log;

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(20);

/// How the server takes patches.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Willing,
    /// Somebody else adds a taint before each of so many patches.
    Contended(u32),
    /// So many requests fail.
    Failing(u32),
    Forbidding,
}

/// An API server with one node.
#[derive(Debug)]
struct Cluster {
    mood: Mood,
    version: u64,
    taints: Vec<Value>,
    reads: u32,
    patches: u32,
}

type Shared = Arc<Mutex<Cluster>>;

struct Server {
    address: SocketAddr,
    cluster: Shared,
    task: JoinHandle<()>,
}

type Answer = (StatusCode, Json<Value>);

fn status(code: StatusCode) -> Answer {
    let message = format!("status {}", code.as_u16());
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
        "reason": "Some", "message": message,
    });
    (code, Json(status))
}

impl Cluster {
    /// What goes wrong with any request.
    fn refuses(&mut self) -> Option<Answer> {
        match &mut self.mood {
            Mood::Forbidding => Some(status(StatusCode::FORBIDDEN)),
            Mood::Failing(left) if *left > 0 => {
                *left -= 1;
                Some(status(StatusCode::INTERNAL_SERVER_ERROR))
            }
            Mood::Willing | Mood::Failing(_) | Mood::Contended(_) => None,
        }
    }

    fn node(&self) -> Value {
        let metadata = json!({"name": "node-1", "resourceVersion": self.version.to_string()});
        let mut spec = json!({"podCIDR": "10.0.0.0/24"});
        if !self.taints.is_empty() {
            spec["taints"] = json!(self.taints);
        }
        json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
    }
}

async fn read(State(cluster): State<Shared>, Path(name): Path<String>) -> Answer {
    let mut cluster = cluster.lock().unwrap();
    assert_eq!(name, "node-1");
    cluster.reads += 1;
    cluster.refuses().unwrap_or_else(|| (StatusCode::OK, Json(cluster.node())))
}

async fn patch(
    State(cluster): State<Shared>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Answer {
    let mut cluster = cluster.lock().unwrap();
    assert_eq!(name, "node-1");
    assert_eq!(headers["content-type"], "application/merge-patch+json");
    let patch: Value = serde_json::from_str(&body).unwrap();
    cluster.patches += 1;
    if let Some(refusal) = cluster.refuses() {
        return refusal;
    }
    if let Mood::Contended(left) = &mut cluster.mood
        && *left > 0
    {
        *left -= 1;
        cluster.version += 1;
        let key = format!("other-{}", cluster.version);
        cluster.taints.push(json!({"key": key, "effect": "NoExecute"}));
    }
    // Nothing but the taints is written.
    assert_eq!(patch.as_object().unwrap().len(), 2, "{patch}");
    assert_eq!(patch["spec"].as_object().unwrap().len(), 1, "{patch}");
    if patch["metadata"] != json!({"resourceVersion": cluster.version.to_string()}) {
        return status(StatusCode::CONFLICT);
    }
    cluster.version += 1;
    cluster.taints = patch["spec"]["taints"].as_array().cloned().unwrap_or_default();
    (StatusCode::OK, Json(cluster.node()))
}

impl Server {
    async fn new(mood: Mood, taints: &[Value]) -> Self {
        let cluster = Cluster { mood, version: 100, taints: taints.to_vec(), reads: 0, patches: 0 };
        let cluster = Arc::new(Mutex::new(cluster));
        let router = Router::new()
            .route("/api/v1/nodes/{name}", get(read).patch(patch))
            .with_state(Arc::clone(&cluster));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { address, cluster, task }
    }

    async fn remove(&self) {
        let url = format!("http://{}", self.address).parse().unwrap();
        let client = Client::try_from(Config::new(url)).unwrap();
        let pace =
            Pace { between: Duration::from_millis(1), pause: Duration::from_millis(10), ..PACE };
        timeout(SOON, remove(client, "node-1", pace)).await.expect("it does not end");
    }

    fn taints(&self) -> Vec<Value> {
        self.cluster.lock().unwrap().taints.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn taint(key: &str, effect: &str) -> Value {
    json!({"key": key, "effect": effect})
}

#[tokio::test]
async fn the_taint_goes_with_every_effect_and_the_others_stay_as_they_are() {
    let other = json!({
        "key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
        "timeAdded": "2026-01-01T00:00:00.5Z", "field": "of a newer API",
    });
    let server = Server::new(
        Mood::Willing,
        &[
            taint(STARTUP_TAINT, "NoSchedule"),
            other.clone(),
            json!({"key": STARTUP_TAINT, "effect": "NoExecute", "value": "true"}),
        ],
    )
    .await;
    server.remove().await;
    assert_eq!(server.taints(), [other]);
    let cluster = server.cluster.lock().unwrap();
    assert_eq!((cluster.reads, cluster.patches), (1, 1));
}

#[tokio::test]
async fn a_node_without_it_is_not_written() {
    for taints in [&[][..], &[taint("node.kubernetes.io/not-ready", "NoSchedule")]] {
        let server = Server::new(Mood::Willing, taints).await;
        server.remove().await;
        assert_eq!(server.taints(), taints);
        let cluster = server.cluster.lock().unwrap();
        assert_eq!((cluster.reads, cluster.patches), (1, 0));
    }
}

#[tokio::test]
async fn what_somebody_else_writes_meanwhile_is_not_lost() {
    let log = Log::default();
    let _guard = log.start();
    let server = Server::new(Mood::Contended(3), &[taint(STARTUP_TAINT, "NoSchedule")]).await;
    server.remove().await;
    let keys: Vec<Value> = server.taints().iter().map(|taint| taint["key"].clone()).collect();
    assert_eq!(keys, ["other-101", "other-102", "other-103"]);
    assert_eq!(log.lines("WARN"), [""; 0]);
}

#[tokio::test]
async fn trouble_is_warned_of_once_a_row_and_ends_with_the_taint() {
    for (mood, told) in [
        (Mood::Contended(2 * PACE.tries), "changes too often"),
        (Mood::Failing(2 * PACE.tries), "status 500"),
    ] {
        let log = Log::default();
        let _guard = log.start();
        let server = Server::new(mood, &[taint(STARTUP_TAINT, "NoSchedule")]).await;
        server.remove().await;
        assert!(server.taints().iter().all(|taint| taint["key"] != STARTUP_TAINT));
        let warnings = log.lines("WARN");
        assert_eq!(warnings.len(), 2, "{mood:?}: {warnings:?}");
        assert!(warnings.iter().all(|line| line.contains(told)), "{warnings:?}");
    }
}

#[tokio::test]
async fn a_missing_right_is_told_once_and_taken_when_it_comes() {
    let log = Log::default();
    let _guard = log.start();
    let server = Server::new(Mood::Forbidding, &[taint(STARTUP_TAINT, "NoSchedule")]).await;
    let granted = async {
        while server.cluster.lock().unwrap().reads < 3 {
            sleep(Duration::from_millis(1)).await;
        }
        server.cluster.lock().unwrap().mood = Mood::Willing;
    };
    tokio::join!(server.remove(), granted);
    assert_eq!(server.taints(), [Value::Null; 0]);
    let warnings = log.lines("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for told in ["get and patch on nodes", "startupTaint.enabled", "said once"] {
        assert!(warnings[0].contains(told), "{warnings:?}");
    }
}
