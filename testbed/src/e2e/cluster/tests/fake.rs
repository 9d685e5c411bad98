//! An API server that keeps what it is given and plays kubelet by a script. The testbed's own one
//! serves what an agent asks for; this one what an installer and a tester do.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use serde_json::{Value, json};

use super::script;
use crate::{clock::monotonic_ns, e2e::HOLD};

/// What the node's clock is ahead of this machine's: another machine's may be.
const NODE_AHEAD_NS: u64 = 3_000_000_000_000;

/// Plural, kind, whether it is namespaced.
type Kind = (&'static str, &'static str, bool);

/// The resources of each group and version.
const RESOURCES: [(&str, &[Kind]); 3] = [
    (
        "/api/v1",
        &[
            ("namespaces", "Namespace", false),
            ("serviceaccounts", "ServiceAccount", true),
            ("pods", "Pod", true),
        ],
    ),
    ("/apis/apps/v1", &[("daemonsets", "DaemonSet", true)]),
    ("/apis/rbac.authorization.k8s.io/v1", &[("clusterroles", "ClusterRole", false)]),
];

/// The running server.
pub(super) struct Fake {
    shared: Shared,
    pub(super) address: SocketAddr,
}

type Shared = Arc<Mutex<Cluster>>;

/// What there is, and how the cluster behaves.
#[derive(Default)]
pub(super) struct Cluster {
    /// By path.
    pub(super) objects: BTreeMap<String, Value>,
    /// Method, path and content type of each request that is to change something.
    pub(super) writes: Vec<String>,
    /// Of requests that are forbidden: method, and the end of the path.
    pub(super) forbidden: Vec<(Method, &'static str)>,
    /// Cases whose client is refused, whatever they expect.
    pub(super) refused: Vec<&'static str>,
    /// An object that does not go when it is deleted.
    pub(super) clinging: Option<&'static str>,
    /// So many answers to each question of this end are cut off.
    pub(super) cut: BTreeMap<&'static str, usize>,
    /// The agents do not get ready.
    pub(super) stuck: bool,
    /// When the label of a namespace was set and removed, by the node's clock.
    pub(super) label: [Option<u64>; 2],
}

// === impl Fake ===

impl Fake {
    pub(super) async fn start() -> Self {
        let shared = Shared::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { shared, address }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.shared.lock().unwrap()
    }

    /// The paths of all objects.
    pub(super) fn paths(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// The requests that were to change something and begin so.
    pub(super) fn writes(&self, method: &str) -> Vec<String> {
        let mut all = self.lock().writes.clone();
        all.retain(|write| write.starts_with(method));
        all
    }

    pub(super) fn kubeconfig(&self, dir: &std::path::Path) -> PathBuf {
        kubeconfig(dir, self.address)
    }
}

pub(super) fn kubeconfig(dir: &std::path::Path, address: SocketAddr) -> PathBuf {
    let path = dir.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
        "current-context": "fake",
    });
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

pub(super) fn node_ns() -> u64 {
    monotonic_ns() + NODE_AHEAD_NS
}

async fn serve(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut cluster = shared.lock().unwrap();
    let path = uri.path().trim_end_matches('/').to_owned();
    if method != Method::GET {
        let kind = headers.get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap());
        let query = uri.query().unwrap_or_default();
        cluster.writes.push(format!("{method} {path}?{query} {kind}").trim_end().to_owned());
    }
    let is_forbidden =
        |(forbidden, end): &(Method, &str)| *forbidden == method && path.ends_with(end);
    if cluster.forbidden.iter().any(is_forbidden) {
        return failure(StatusCode::FORBIDDEN, "you may not");
    }
    if method == Method::GET
        && let Some((_, left)) = cluster.cut.iter_mut().find(|(end, _)| path.ends_with(**end))
        && *left > 0
    {
        *left -= 1;
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        return Body::from_stream(stream::iter([Err::<Bytes, _>(broken)])).into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match method {
        Method::GET => cluster.get(&path, &query),
        Method::POST => {
            if path.contains("/namespaces/") && !cluster.has_account(&path) {
                return failure(StatusCode::FORBIDDEN, "serviceaccount \"default\" not found");
            }
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            let mut body = body;
            note_manager(&mut body, &query);
            Json(cluster.put(&path, body)).into_response()
        }
        Method::PATCH => {
            let mut object = cluster.objects.get(&path).cloned().unwrap_or_default();
            merge(&mut object, &body);
            note_manager(&mut object, &query);
            cluster.note_label(&body);
            Json(cluster.put(&path, object)).into_response()
        }
        Method::DELETE if !cluster.is_meant(&path, &body) => {
            failure(StatusCode::CONFLICT, "the UID in the precondition is another")
        }
        Method::DELETE if cluster.clinging == Some(path.as_str()) => {
            Json(&cluster.objects[&path]).into_response()
        }
        Method::DELETE => match cluster.objects.remove(&path) {
            Some(object) => {
                // What is in a namespace goes with it.
                let below = format!("{path}/");
                cluster.objects.retain(|path, _| {
                    let path = path.replace("/apis/apps/v1/", "/api/v1/");
                    !path.replace("/apis/batch/v1/", "/api/v1/").starts_with(&below)
                });
                Json(object).into_response()
            }
            None => failure(StatusCode::NOT_FOUND, "no such object"),
        },
        _ => failure(StatusCode::METHOD_NOT_ALLOWED, "no such method"),
    }
}

// === impl Cluster ===

impl Cluster {
    /// Puts an object there, and what its controllers and kubelet make of it.
    pub(super) fn put(&mut self, path: &str, mut object: Value) -> Value {
        let name = path.rsplit('/').next().unwrap().to_owned();
        if path.contains("/namespaces/") {
            let namespace = path.split('/').skip_while(|part| *part != "namespaces").nth(1);
            object["metadata"]["namespace"] = json!(namespace);
        }
        // Another one of a name that was deleted has another uid; one that is changed keeps its own.
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        }
        object["made"] = json!(node_ns());
        if path.contains("/daemonsets/") {
            let ready = i32::from(!self.stuck);
            object["metadata"]["generation"] = json!(1);
            object["status"] = json!({
                "observedGeneration": 1,
                "currentNumberScheduled": 1,
                "desiredNumberScheduled": 1,
                "updatedNumberScheduled": 1,
                "numberAvailable": ready,
                "numberMisscheduled": 0,
                "numberReady": ready,
            });
            let pods = path.replace("/apis/apps/v1/", "/api/v1/");
            let pods = pods.replace("/daemonsets/", "/pods/");
            let mut agent = object["spec"]["template"].clone();
            agent["status"] = script::agent_status(self.stuck);
            self.run(&format!("{pods}-x"), agent);
        } else if path.contains("/jobs/") {
            object["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
            let pods = path.replace("/apis/batch/v1/", "/api/v1/");
            let pod = object["spec"]["template"].clone();
            self.run(&format!("{}-x", pods.replace("/jobs/", "/pods/")), pod);
        } else if path.contains("/pods/") {
            self.run(path, object.clone());
            return object;
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Whether what is there is what was to be deleted.
    fn is_meant(&self, path: &str, options: &Value) -> bool {
        let uid = &options["preconditions"]["uid"];
        self.objects.get(path).is_none_or(|there| uid.is_null() || there["metadata"]["uid"] == *uid)
    }

    fn run(&mut self, path: &str, mut pod: Value) {
        let name = path.rsplit('/').next().unwrap();
        let namespace = path.split('/').skip_while(|part| *part != "namespaces").nth(1);
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        pod["metadata"]["annotations"]["started"] = json!(node_ns().to_string());
        pod["spec"]["nodeName"] = json!("node1");
        if pod["status"].is_null() {
            pod["status"] = script::status(&pod);
        }
        self.objects.insert(path.to_owned(), pod);
    }

    fn note_label(&mut self, patch: &Value) {
        let labels = &patch["metadata"]["labels"];
        match labels.get(HOLD) {
            Some(Value::Null) => self.label[1] = Some(node_ns()),
            Some(_) => self.label[0] = Some(node_ns()),
            None => {}
        }
    }

    /// Whether the namespace on the path has its service account: some time after its own making.
    fn has_account(&self, path: &str) -> bool {
        const AFTER_NS: u64 = 250_000_000;
        let namespace = path.split('/').skip_while(|part| *part != "namespaces").nth(1).unwrap();
        let namespace = self.objects.get(&format!("/api/v1/namespaces/{namespace}"));
        let made = namespace.and_then(|namespace| namespace["made"].as_u64());
        made.is_some_and(|made| node_ns() > made + AFTER_NS)
    }

    fn get(&self, path: &str, query: &BTreeMap<String, String>) -> Response {
        if path == "/version" {
            let empty =
                ["gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
            let mut info: BTreeMap<&str, &str> = empty.map(|field| (field, "")).into();
            info.extend([("major", "1"), ("minor", "33"), ("gitVersion", "v1.33.4")]);
            return Json(json!(info)).into_response();
        }
        if let Some((group, resources)) = RESOURCES.iter().find(|(group, _)| *group == path) {
            return Json(resource_list(group, resources)).into_response();
        }
        if let Some(pod) = path.strip_suffix("/log") {
            let Some(pod) = self.objects.get(pod) else {
                return failure(StatusCode::NOT_FOUND, "no such pod");
            };
            let previous = query.contains_key("previous");
            let log = script::log(self, pod, &query["container"], previous);
            return match log {
                Some(log) => log.into_response(),
                None => failure(StatusCode::BAD_REQUEST, "container is waiting to start"),
            };
        }
        if path.ends_with("/events") {
            return Json(json!({"metadata": {}, "items": script::events()})).into_response();
        }
        if ["/pods", "/api/v1/namespaces", "/apis/apps/v1/daemonsets"]
            .iter()
            .any(|list| path.ends_with(list))
        {
            let selector = query.get("labelSelector").map_or("", String::as_str);
            let (key, value) = selector.split_once('=').unwrap();
            // Of one namespace, or of all.
            let inside = path.strip_suffix("/daemonsets").unwrap_or(path);
            let kind = path.rsplit('/').next().unwrap();
            let mine = self.objects.iter().filter(|(path, object)| {
                path.starts_with(&format!("{inside}/"))
                    && path.rsplit('/').nth(1) == Some(kind)
                    && object["metadata"]["labels"][key] == value
            });
            let items: Vec<&Value> = mine.map(|(_, object)| object).collect();
            return Json(json!({"metadata": {}, "items": items})).into_response();
        }
        if path.ends_with("/serviceaccounts/default") && self.has_account(path) {
            return Json(json!({"metadata": {"name": "default"}})).into_response();
        }
        match self.objects.get(path) {
            Some(object) => Json(object).into_response(),
            None => failure(StatusCode::NOT_FOUND, "no such object"),
        }
    }
}

fn resource_list(path: &str, resources: &[Kind]) -> Value {
    let all: Vec<Value> = resources
        .iter()
        .map(|(name, kind, namespaced)| {
            json!({
                "name": name,
                "singularName": kind.to_lowercase(),
                "namespaced": namespaced,
                "kind": kind,
                "verbs": ["create", "delete", "get", "list", "patch"],
            })
        })
        .collect();
    let group_version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
    json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": all})
}

/// Adds who writes to those who have.
fn note_manager(object: &mut Value, query: &BTreeMap<String, String>) {
    let Some(manager) = query.get("fieldManager") else { return };
    let mut writers = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let writer = json!({"manager": manager});
    if !writers.contains(&writer) {
        writers.push(writer);
    }
    object["metadata"]["managedFields"] = json!(writers);
}

fn failure(code: StatusCode, message: &str) -> Response {
    let reason = code.canonical_reason().unwrap().replace(' ', "");
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    (code, Json(status)).into_response()
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
