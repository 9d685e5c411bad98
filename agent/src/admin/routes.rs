//! What is answered.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, Request, State, rejection::JsonRejection},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use tokio::sync::Semaphore;

use super::{
    entries::{self, MAX_FOLLOWERS, Wanted},
    log,
    protocol::{Follow, OrderBody, OrderWish, PodDetail, Problem, WatchBody},
    socket::Peer,
};
use crate::{
    bpf::Inventory,
    core::{
        AgentState, Diagnosis, Episode, NodeReport, ObservedReport, Orderer, PodName, PodReport,
    },
    http::Lasting,
    reconcile::{
        AskError, EntryStream, OrderError, OrderRequest, Snapshot, WATCH_AT_MOST, WatchError,
    },
    status::Status,
    telemetry::Levels,
};

/// What the answers are made from. Clones are of the same agent.
#[derive(Clone, Debug)]
pub struct Admin {
    pub(super) status: Status,
    pub(super) levels: Levels,
    entries: EntryStream,
    followers: Arc<Semaphore>,
    further: Router,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure(StatusCode, String);

pub(super) type Answer<T> = Result<Json<T>, Failure>;

// === impl Admin ===

impl Admin {
    /// Of the agent that `status` knows, whose entries come by `entries`, and whose log has these
    /// `levels`.
    #[must_use]
    pub fn new(status: Status, entries: EntryStream, levels: Levels) -> Self {
        let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
        Self { status, levels, entries, followers, further: Router::new() }
    }

    /// Answers by these routes as well.
    #[must_use]
    pub fn with(self, further: Router) -> Self {
        Self { further, ..self }
    }

    /// The answers, to whoever may have them.
    pub(super) fn router(&self) -> Router {
        Router::new()
            .route("/v1/status", get(status))
            .route("/v1/pods", get(pods))
            .route("/v1/pods/{namespace}/{name}", get(pod))
            .route("/v1/episodes", get(episodes))
            .route("/v1/entries", get(tell_entries))
            .route("/v1/gate", post(gate))
            .route("/v1/gates", get(gates))
            .route("/v1/log", get(log::tell).put(log::set).delete(log::reset))
            .route("/v1/log/pods", put(log::follow))
            .route("/v1/observed", get(observed))
            .route("/v1/diagnose/{namespace}/{name}", get(diagnose))
            .route("/v1/watch", post(watch))
            .fallback(|| async {
                Failure::new(
                    StatusCode::NOT_IMPLEMENTED,
                    "this agent cannot do that: is it of another version?",
                )
            })
            .with_state(self.clone())
            .merge(self.further.clone())
            .layer(from_fn(refuse_strangers))
    }

    /// How things stand, if the agent works the gates of this node.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Failure> {
        let (node, snapshot) = self.status.report().await;
        snapshot.ok_or_else(|| Failure::not_working(&node))
    }

    /// Whoever asks has most likely come to another node's agent: it says how to find the right one.
    pub(super) fn no_such_pod(&self, namespace: &str, name: &str) -> Failure {
        let node = self.status.node();
        let why = format!(
            "there is no pod {namespace}/{name} on node {node}: kubectl -n {namespace} get pod {name} \
             -o wide tells its node, and kubectl -n holdfast get pods -o wide --field-selector \
             spec.nodeName=NODE that node's agent"
        );
        Failure::new(StatusCode::NOT_FOUND, why)
    }
}

// === impl Failure ===

impl Failure {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self(status, why.into())
    }

    fn not_working(node: &NodeReport) -> Self {
        let why = match node.state {
            AgentState::StandingBy => {
                "this agent stands by for the one that works the gates of this node: ask that one"
                    .to_owned()
            }
            AgentState::Starting if !node.missing.is_empty() => {
                format!("the agent is starting: {}", node.missing.join("; "))
            }
            AgentState::Starting | AgentState::Working => "the agent is starting".to_owned(),
            AgentState::Stuck => AskError::Silent.to_string(),
        };
        Self(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    pub(super) fn wrong(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

/// The socket's mode keeps them away; this keeps those away that were handed it.
async fn refuse_strangers(
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    if !peer.is_allowed() {
        let why = "commands are answered to root and to the agent's own user alone";
        return Err(Failure::new(StatusCode::FORBIDDEN, why));
    }
    Ok(next.run(request).await)
}

async fn status(State(admin): State<Admin>) -> Json<NodeReport> {
    Json(admin.status.report().await.0)
}

async fn pods(State(admin): State<Admin>) -> Answer<Vec<PodReport>> {
    Ok(Json(admin.snapshot().await?.pods))
}

async fn pod(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer<PodDetail> {
    let wanted = PodName::new(&namespace, &name);
    let mut episodes = admin.snapshot().await?.episodes;
    match admin.status.asker().pod(wanted.clone()).await? {
        Some(pod) => {
            // Of an earlier pod of this name, too: a StatefulSet's.
            episodes.retain(|episode| episode.pod.name.as_ref() == Some(&wanted));
            Ok(Json(PodDetail { pod, episodes }))
        }
        None => Err(admin.no_such_pod(&namespace, &name)),
    }
}

async fn gates(State(admin): State<Admin>) -> Answer<Inventory> {
    admin.snapshot().await?;
    Ok(Json(admin.status.asker().inventory().await?))
}

async fn episodes(State(admin): State<Admin>) -> Answer<Vec<Episode>> {
    Ok(Json(admin.snapshot().await?.episodes))
}

async fn tell_entries(
    State(admin): State<Admin>,
    Extension(lasting): Extension<Lasting>,
    Query(query): Query<Follow>,
) -> Result<Response, Failure> {
    let wanted = Wanted::new(&query).map_err(Failure::wrong)?;
    if !query.follow {
        let recent = admin.snapshot().await?.entries;
        return Ok(entries::recent(&recent, &wanted));
    }
    let Ok(place) = Arc::clone(&admin.followers).try_acquire_owned() else {
        let why =
            format!("{MAX_FOLLOWERS} readers follow this agent's events already: end one of them");
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, why));
    };
    // Subscribed first: what happens meanwhile is in both, and told once.
    let live = admin.entries.subscribe();
    // An agent that stands by has none; its followers wait with it.
    let recent = admin.status.report().await.1.map(|snapshot| snapshot.entries);
    let (recent, stream) = (recent.unwrap_or_default(), admin.entries.clone());
    Ok(entries::follow(&recent, live, stream, wanted, (place, lasting.begin())))
}

async fn gate(
    State(admin): State<Admin>,
    Extension(peer): Extension<Peer>,
    body: Result<Json<OrderBody>, JsonRejection>,
) -> Answer<PodReport> {
    let Json(OrderBody { namespace, name, order, limit_ms }) = body?;
    let limit = limit_ms.map(Duration::from_millis);
    if limit.is_some_and(|limit| !OrderRequest::LIMITS.contains(&limit)) {
        return Err(Failure::wrong("the limit must be from 1 s to 1 h"));
    }
    let request = match (order, limit) {
        (OrderWish::Open, limit) => OrderRequest::Open(limit),
        (OrderWish::Close, Some(limit)) => OrderRequest::Close(limit),
        (OrderWish::Close, None) => {
            return Err(Failure::wrong("a gate is closed for a limited time only: name it"));
        }
        (OrderWish::Auto, None) => OrderRequest::Auto,
        (OrderWish::Auto, Some(_)) => {
            return Err(Failure::wrong("what the facts say has no limit"));
        }
    };
    // Who may ask has been asked already.
    let by = Orderer { uid: peer.uid.unwrap_or_default(), pid: peer.pid };
    let pod = PodName::new(&namespace, &name);
    // Whether it works is known before the order is given: one that comes late is a surprise.
    admin.snapshot().await?;
    match admin.status.asker().order(pod, request, by).await? {
        Ok(report) => Ok(Json(report)),
        Err(OrderError::NoSuchPod) => Err(admin.no_such_pod(&namespace, &name)),
        Err(OrderError::Refused(refusal)) => {
            Err(Failure::new(StatusCode::CONFLICT, refusal.to_string()))
        }
    }
}

async fn observed(State(admin): State<Admin>) -> Answer<ObservedReport> {
    admin.snapshot().await?;
    Ok(Json(admin.status.observed().await?))
}

async fn diagnose(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer<Diagnosis> {
    admin.snapshot().await?;
    let diagnosis = admin.status.asker().diagnose(PodName::new(&namespace, &name)).await?;
    diagnosis.map(Json).ok_or_else(|| admin.no_such_pod(&namespace, &name))
}

async fn watch(
    State(admin): State<Admin>,
    Extension(peer): Extension<Peer>,
    body: Result<Json<WatchBody>, JsonRejection>,
) -> Answer<PodReport> {
    let Json(WatchBody { namespace, name, for_ms }) = body?;
    let time = Duration::from_millis(for_ms);
    if time > WATCH_AT_MOST {
        return Err(Failure::wrong("a pod is observed for 24 h at most"));
    }
    let by = Orderer { uid: peer.uid.unwrap_or_default(), pid: peer.pid };
    let pod = PodName::new(&namespace, &name);
    admin.snapshot().await?;
    match admin.status.asker().watch(pod, time, by).await? {
        Ok(report) => Ok(Json(report)),
        Err(WatchError::NoSuchPod) => Err(admin.no_such_pod(&namespace, &name)),
        Err(WatchError::Refused(refusal)) => {
            Err(Failure::new(StatusCode::CONFLICT, refusal.to_string()))
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}
