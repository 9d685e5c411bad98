use std::net::{Ipv4Addr, SocketAddr};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{Method, StatusCode},
    routing::{patch, post},
};
use kube::Config;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

use super::*;
use crate::captured_log::Log;

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(20);

const REASON: &str = "InvalidAnnotation";

/// How the server answers.
#[derive(Clone, Copy)]
enum Mood {
    Willing,
    Forbidding,
    Terminating,
    Broken,
    Silent,
}

/// What it was asked, in order.
#[derive(Debug)]
struct Asked {
    method: Method,
    namespace: String,
    name: Option<String>,
    body: Value,
}

struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    count: Arc<Semaphore>,
    task: JoinHandle<()>,
}

type Shared = (Mood, Arc<Mutex<Vec<Asked>>>, Arc<Semaphore>);

async fn answer((mood, asked, count): Shared, request: Asked) -> (StatusCode, Json<Value>) {
    let body = request.body.clone();
    asked.lock().unwrap().push(request);
    count.add_permits(1);
    let refusal = |code: StatusCode, reason: &str, details: Value| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
            "reason": reason, "message": format!("{reason} it is"), "details": details,
        });
        (code, Json(status))
    };
    match mood {
        Mood::Willing => (StatusCode::CREATED, Json(body)),
        Mood::Forbidding => refusal(StatusCode::FORBIDDEN, "Forbidden", json!({})),
        Mood::Terminating => {
            let details = json!({ "causes": [{ "reason": "NamespaceTerminating" }] });
            refusal(StatusCode::FORBIDDEN, "Forbidden", details)
        }
        Mood::Broken => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", json!({})),
        Mood::Silent => std::future::pending().await,
    }
}

async fn create(
    State(shared): State<Shared>,
    Path(namespace): Path<String>,
    method: Method,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    answer(shared, Asked { method, namespace, name: None, body }).await
}

async fn change(
    State(shared): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    method: Method,
    body: String,
) -> (StatusCode, Json<Value>) {
    // Its content type is not application/json.
    let body = serde_json::from_str(&body).unwrap();
    answer(shared, Asked { method, namespace, name: Some(name), body }).await
}

impl Server {
    async fn new(mood: Mood) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let count = Arc::new(Semaphore::new(0));
        let events = "/apis/events.k8s.io/v1/namespaces/{namespace}/events";
        let router = Router::new()
            .route(events, post(create))
            .route(&format!("{events}/{{name}}"), patch(change))
            .with_state((mood, Arc::clone(&asked), Arc::clone(&count)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { address, asked, count, task }
    }

    fn client(&self) -> Client {
        let url = format!("http://{}", self.address).parse().unwrap();
        Client::try_from(Config::new(url)).unwrap()
    }

    /// Waits for `count` more requests.
    async fn wait_asked(&self, count: u32) {
        timeout(SOON, self.count.acquire_many(count)).await.expect("not asked").unwrap().forget();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pod(number: usize) -> PodRef {
    let uid = PodUid::new(&format!("{number:036}"));
    PodRef::new(&PodName::new("shop", &format!("cart-{number}")), &uid)
}

fn warn(sink: &EventSink, pod: PodRef, note: &str) {
    sink.publish(pod, EventKind::Warning, REASON, "Parse", note.to_owned());
}

/// Publishes all that the sinks took, then ends.
async fn finish(sink: EventSink, publisher: EventPublisher) {
    drop(sink);
    timeout(SOON, publisher.run(CancellationToken::new())).await.expect("it does not end");
}

#[tokio::test]
async fn an_event_says_what_happened_to_which_pod_and_who_says_so() {
    let server = Server::new(Mood::Willing).await;
    let (sink, publisher) = events(server.client(), "node-1");
    warn(&sink, pod(1), "holdfast.dev/timeout: no duration");
    finish(sink, publisher).await;
    let asked = server.asked.lock().unwrap();
    let [Asked { method, namespace, name: None, body }] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!((method, namespace.as_str()), (&Method::POST, "shop"));
    for (field, expected) in [
        ("/type", "Warning"),
        ("/reason", REASON),
        ("/action", "Parse"),
        ("/note", "holdfast.dev/timeout: no duration"),
        ("/reportingController", "holdfast"),
        ("/reportingInstance", "node-1"),
        ("/metadata/namespace", "shop"),
        ("/regarding/apiVersion", "v1"),
        ("/regarding/kind", "Pod"),
        ("/regarding/namespace", "shop"),
        ("/regarding/name", "cart-1"),
        ("/regarding/uid", pod(1).uid.as_str()),
    ] {
        assert_eq!(body.pointer(field), Some(&json!(expected)), "{field}: {body}");
    }
    assert!(body["eventTime"].is_string(), "{body}");
}

#[tokio::test]
async fn repeats_become_one_event_that_counts_up_to_the_limit() {
    let server = Server::new(Mood::Willing).await;
    let (sink, publisher) = events(server.client(), "node-1");
    for _ in 0..30 {
        warn(&sink, pod(1), "again");
    }
    warn(&sink, pod(2), "another pod");
    assert_eq!(sink.dropped(), 25);
    finish(sink, publisher).await;
    let asked = server.asked.lock().unwrap();
    let methods: Vec<&Method> = asked.iter().map(|asked| &asked.method).collect();
    let (post, patch) = (&Method::POST, &Method::PATCH);
    assert_eq!(methods, [post, patch, patch, patch, patch, post]);
    assert_eq!(asked[4].body["series"]["count"], 5);
    assert_eq!(asked[4].name.as_deref(), asked[0].body["metadata"]["name"].as_str());
}

#[tokio::test]
async fn not_all_of_a_storm_is_remembered() {
    let server = Server::new(Mood::Willing).await;
    let (sink, mut publisher) = events(server.client(), "node-1");
    publisher.pace = Pace::any();
    let publishing = tokio::spawn(publisher.run(CancellationToken::new()));
    warn(&sink, pod(0), "once");
    server.wait_asked(1).await;
    for number in 1..REMEMBERED {
        warn(&sink, pod(number as usize), "another");
        server.wait_asked(1).await;
    }
    warn(&sink, pod(0), "again");
    drop(sink);
    timeout(SOON, publishing).await.expect("it does not end").unwrap();
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().all(|asked| asked.method == Method::POST), "{asked:?}");
    assert_eq!(asked.len(), 1 + REMEMBERED as usize);
}

#[tokio::test]
async fn long_words_are_cut_to_what_the_api_takes() {
    let server = Server::new(Mood::Willing).await;
    let (sink, publisher) = events(server.client(), &"n".repeat(253));
    let long = "ä".repeat(5_000);
    sink.publish(pod(1), EventKind::Normal, REASON, long.clone(), long);
    finish(sink, publisher).await;
    let asked = server.asked.lock().unwrap();
    let body = &asked[0].body;
    assert_eq!(body["note"], "ä".repeat(512));
    assert_eq!(body["action"], "ä".repeat(64));
    assert_eq!(body["reportingInstance"], "n".repeat(128));
    assert_eq!(body["type"], "Normal");
}

#[tokio::test]
async fn a_missing_right_is_told_once_with_its_name() {
    let log = Log::default();
    let _guard = log.start();
    let server = Server::new(Mood::Forbidding).await;
    let (sink, publisher) = events(server.client(), "node-1");
    for number in 0..3 {
        warn(&sink, pod(number), "note");
    }
    finish(sink, publisher).await;
    assert_eq!(server.asked.lock().unwrap().len(), 3);
    let warnings = log.lines("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("create and patch on events of events.k8s.io"), "{warnings:?}");
}

#[tokio::test]
async fn a_namespace_that_goes_is_no_missing_right() {
    let log = Log::default();
    let _guard = log.start();
    let server = Server::new(Mood::Terminating).await;
    let (sink, publisher) = events(server.client(), "node-1");
    warn(&sink, pod(1), "note");
    finish(sink, publisher).await;
    assert_eq!(log.lines("WARN"), [""; 0]);
    assert_eq!(log.lines("namespace is going").len(), 1);
}

#[tokio::test]
async fn errors_are_warned_of_once_a_minute() {
    let log = Log::default();
    let _guard = log.start();
    let server = Server::new(Mood::Broken).await;
    let (sink, publisher) = events(server.client(), "node-1");
    for number in 0..4 {
        warn(&sink, pod(number), "note");
    }
    finish(sink, publisher).await;
    assert_eq!(server.asked.lock().unwrap().len(), 4);
    let warnings = log.lines("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("InternalError it is"), "{warnings:?}");
    assert_eq!(log.lines("DEBUG").len(), 3);
}

#[tokio::test]
async fn an_api_that_does_not_answer_holds_up_neither_the_agent_nor_its_end() {
    let server = Server::new(Mood::Silent).await;
    let (sink, publisher) = events(server.client(), "node-1");
    let stop = CancellationToken::new();
    let running = tokio::spawn(publisher.run(stop.clone()));
    let begun = Instant::now();
    for number in 0..1000 {
        warn(&sink, pod(number), "note");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(sink.dropped(), 1000 - QUEUE as u64);
    server.wait_asked(1).await;
    // The one that is on its way has made room.
    warn(&sink, pod(2000), "note");
    assert_eq!(sink.dropped(), 1000 - QUEUE as u64);
    stop.cancel();
    let begun = Instant::now();
    timeout(SOON, running).await.expect("it does not end").unwrap();
    assert!(begun.elapsed() < FLUSH_TIMEOUT * 3, "{:?}", begun.elapsed());
    // Nobody listens any more: still nothing blocks.
    warn(&sink, pod(3000), "note");
    assert_eq!(sink.dropped(), 1001 - QUEUE as u64);
}

#[tokio::test]
async fn what_waits_when_the_agent_ends_is_published() {
    let server = Server::new(Mood::Willing).await;
    let (sink, publisher) = events(server.client(), "node-1");
    for number in 0..20 {
        warn(&sink, pod(number), "note");
    }
    let stop = CancellationToken::new();
    stop.cancel();
    timeout(SOON, publisher.run(stop)).await.expect("it does not end");
    assert_eq!(server.asked.lock().unwrap().len(), 20);
}

#[tokio::test]
async fn an_api_that_does_not_answer_is_given_up_event_by_event() {
    let server = Server::new(Mood::Silent).await;
    let (sink, mut publisher) = events(server.client(), "node-1");
    publisher.publish_timeout = Duration::from_millis(100);
    for number in 0..3 {
        warn(&sink, pod(number), "note");
    }
    let begun = Instant::now();
    finish(sink, publisher).await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(server.asked.lock().unwrap().len(), 3);
}
