//! Over real connections, as kubelet and others make them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    health::Reason,
    http::{HEADERS_WITHIN, MAX_CONNECTIONS},
};

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    liveness: Liveness,
    task: JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let (readiness, liveness) = (Readiness::default(), Liveness::default());
        let any = ListenAddress::One((Ipv4Addr::LOCALHOST, 0).into());
        let server = server(any, readiness.clone(), liveness.clone()).unwrap();
        let address = server.address();
        Self { address, readiness, liveness, task: tokio::spawn(server.run()) }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes; gives the status and the body.
    async fn send(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.expect("no answer").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: holdfast\r\n\r\n")).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn readyz_tells_what_is_missing_and_stays_ready_once_it_is() {
    let server = Running::start().await;
    let (status, body) = server.get("/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body.lines().count(), 4, "{body}");
    server.readiness.met(Reason::ProgramsLoaded);
    server.readiness.met(Reason::PodsListed);
    server.readiness.met(Reason::CgroupsListed);
    let (status, body) = server.get("/readyz").await;
    assert_eq!(status, 503);
    let expected =
        "[-]namespaces-listed failed: the API server has not listed the namespaces yet\n";
    assert_eq!(body, expected);
    for path in ["/readyz?verbose", "/readyz?verbose=1", "/readyz?x&verbose"] {
        let (status, body) = server.get(path).await;
        assert_eq!(status, 503);
        assert_eq!((body.matches("[+]").count(), body.matches("[-]").count()), (3, 1), "{body}");
    }
    server.readiness.met(Reason::NamespacesListed);
    assert_eq!(server.get("/readyz").await, (200, "ok".to_owned()));
    assert!(server.get("/readyz?verbose").await.1.ends_with("readyz check passed\n"));
}

#[tokio::test]
async fn livez_asks_the_task() {
    let server = Running::start().await;
    assert_eq!(server.get("/livez").await, (200, "ok".to_owned()));
    let mut pings = server.liveness.pings();
    let answering = tokio::spawn(async move {
        pings.recv().await.unwrap().answer();
        pings
    });
    assert_eq!(server.get("/livez").await, (200, "ok".to_owned()));
    let pings = answering.await.unwrap();
    let (status, body) = server.get("/livez").await;
    assert_eq!((status, body.as_str()), (503, "the reconcile task has not answered within 2 s\n"));
    drop(pings);
    let (status, body) = server.get("/livez").await;
    assert_eq!((status, body.as_str()), (503, "the reconcile task has ended\n"));
    // A stuck task does not make the agent unready: its gates stand in the kernel.
    server.readiness.stand_by();
    assert_eq!(server.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn only_reading_is_allowed_and_only_of_what_there_is() {
    let server = Running::start().await;
    let request =
        |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: holdfast\r\n\r\n");
    assert_eq!(server.send(&request("HEAD", "/livez")).await, (200, String::new()));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(server.send(&request(method, "/readyz")).await.0, 405, "{method}");
    }
    for path in ["/", "/healthz", "/livez/x", "/metrics"] {
        assert_eq!(server.get(path).await.0, 404, "{path}");
    }
    let greedy = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(9_000));
    assert_eq!(server.send(&greedy).await.0, 431);
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_out() {
    let server = Running::start().await;
    let mut idle = Vec::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
        // Nobody waits for another's patience.
        let asked = Instant::now();
        assert_eq!(server.get("/livez").await.0, 200);
        assert!(asked.elapsed() < HEADERS_WITHIN, "{:?}", asked.elapsed());
    }
    // The oldest have been cut; the newest are, when their time is over.
    for mut stream in idle {
        let mut rest = Vec::new();
        let _: io::Result<usize> =
            timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it is still open");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_told() {
    let running = Running::start().await;
    let (readiness, liveness) = (Readiness::default(), Liveness::default());
    let address = ListenAddress::One(running.address);
    let error = server(address, readiness, liveness).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains(&running.address.to_string()), "{text}");
    assert!(text.contains("--health-address"), "{text}");
}
