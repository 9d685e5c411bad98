use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use kube::Config;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::*;

/// One answer of the server.
#[derive(Clone, Debug)]
enum Answer {
    There,
    Deleting,
    Status(u16),
    Silence,
}

type Shared = Arc<Mutex<Asked>>;

/// What is still to be answered, and what was asked.
#[derive(Debug, Default)]
struct Asked {
    answers: VecDeque<Answer>,
    paths: Vec<(String, String)>,
}

struct Server {
    address: SocketAddr,
    shared: Shared,
    task: JoinHandle<()>,
}

async fn daemon_set(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
) -> (StatusCode, Json<Value>) {
    let answer = {
        let mut asked = shared.lock().unwrap();
        asked.paths.push((namespace, name));
        asked.answers.pop_front().expect("asked once too often")
    };
    let metadata = |deleted: Option<&str>| {
        let metadata = json!({
            "name": "holdfast", "namespace": "holdfast", "deletionTimestamp": deleted,
        });
        let kind = "PartialObjectMetadata";
        Json(json!({"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": metadata}))
    };
    match answer {
        Answer::There => (StatusCode::OK, metadata(None)),
        Answer::Deleting => (StatusCode::OK, metadata(Some("2026-01-01T00:00:00Z"))),
        Answer::Status(code) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": "Some", "message": format!("status {code}"),
            });
            (StatusCode::from_u16(code).unwrap(), Json(status))
        }
        Answer::Silence => std::future::pending().await,
    }
}

impl Server {
    async fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let shared = Shared::default();
        shared.lock().unwrap().answers.extend(answers);
        let path = "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}";
        let router = Router::new().route(path, get(daemon_set)).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, task }
    }

    fn client(&self) -> Client {
        let url = format!("http://{}", self.address).parse().unwrap();
        Client::try_from(Config::new(url)).unwrap()
    }

    /// The fate, and how many answers it took.
    async fn fate(&self) -> (Fate, usize) {
        self.fate_with_token(false).await
    }

    async fn fate_with_token(&self, has_expired: bool) -> (Fate, usize) {
        let own = "holdfast/agents".parse().unwrap();
        // As patient as ever, but for the pauses.
        let patience = Patience { between: Duration::from_millis(1), ..PATIENCE };
        let fate = ask(self.client(), &own, || has_expired, patience).await;
        let asked = self.shared.lock().unwrap();
        let own = ("holdfast".to_owned(), "agents".to_owned());
        assert!(asked.paths.iter().all(|path| *path == own), "{asked:?}");
        (fate, asked.paths.len())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_daemonset_that_is_there_means_an_upgrade_or_a_restart() {
    let server = Server::new([Answer::There]).await;
    assert_eq!(server.fate().await, (Fate::Stays, 1));
}

#[tokio::test]
async fn a_daemonset_that_goes_or_cannot_be_asked_for_means_the_end() {
    let goes = |reason: &str| Fate::Goes { reason: reason.to_owned() };
    let seems_to_go = |reason: &str| Fate::SeemsToGo { reason: reason.to_owned() };
    for (answer, asked, fate) in [
        (Answer::Deleting, 1, goes("DaemonSet holdfast/agents is being deleted")),
        (Answer::Status(404), 1, goes("there is no DaemonSet holdfast/agents")),
        (Answer::Status(401), 3, seems_to_go("the agent's service account is gone, or its pod")),
        (
            Answer::Status(403),
            3,
            seems_to_go("the agent may not read DaemonSet holdfast/agents any more"),
        ),
    ] {
        let server = Server::new(std::iter::repeat_n(answer, asked)).await;
        assert_eq!(server.fate().await, (fate, asked));
    }
}

#[tokio::test]
async fn an_api_that_has_trouble_is_asked_three_times() {
    use Answer::{Deleting, Silence, Status, There};
    for (answers, fate) in [
        ([Status(500), Silence, There], Fate::Stays),
        // One that knows the agent again was not asked by a stranger.
        ([Status(401), Status(403), There], Fate::Stays),
        (
            [Silence, Status(500), Deleting],
            Fate::Goes { reason: "DaemonSet holdfast/agents is being deleted".to_owned() },
        ),
        ([Silence, Silence, Status(500)], Fate::Unknown { reason: "status 500".to_owned() }),
        (
            [Status(500), Status(500), Silence],
            Fate::Unknown { reason: "no answer within 2 s".to_owned() },
        ),
    ] {
        let server = Server::new(answers).await;
        assert_eq!(server.fate().await, (fate, 3));
    }
}

#[tokio::test]
async fn an_overloaded_api_is_not_taken_for_one_that_has_forgotten_the_agent() {
    // kube's own client tries these again for as long as it is let.
    let server = Server::new(std::iter::repeat_n(Answer::Status(503), 100)).await;
    let (fate, _) = server.fate().await;
    assert!(matches!(fate, Fate::Unknown { .. }), "{fate:?}");
}

#[tokio::test]
async fn an_agent_whose_token_has_expired_does_not_take_itself_for_uninstalled() {
    let server = Server::new([Answer::Status(401), Answer::Status(401), Answer::Status(401)]).await;
    let (fate, asked) = server.fate_with_token(true).await;
    assert_eq!(asked, 3);
    assert_eq!(fate, Fate::Unknown { reason: "the agent's token has expired".to_owned() });
}

#[tokio::test]
async fn an_api_that_refuses_connections_leaves_it_open() {
    let server = Server::new([]).await;
    let client = server.client();
    server.task.abort();
    // The listener has gone with its task.
    while tokio::net::TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let own = "holdfast/agents".parse().unwrap();
    let fate = ask(client, &own, || false, PATIENCE).await;
    assert!(matches!(&fate, Fate::Unknown { reason } if reason.contains("refused")), "{fate:?}");
}

#[test]
fn a_name_is_a_namespace_and_a_name() {
    let own: DaemonSetName = "kube-system/holdfast.v1".parse().unwrap();
    assert_eq!((own.namespace.as_str(), own.name.as_str()), ("kube-system", "holdfast.v1"));
    assert_eq!(own.to_string(), "kube-system/holdfast.v1");
    let long = format!("a/{}", "b".repeat(OBJECT_BYTES + 1));
    for bogus in ["", "holdfast", "/", "a/", "/b", "a/b/c", "A/b", "a/../b", "a/b?x", "-a/b", &long]
    {
        assert!(bogus.parse::<DaemonSetName>().is_err(), "{bogus}");
    }
}
