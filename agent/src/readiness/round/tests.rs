use std::time::{Duration, Instant};

use super::*;
use crate::readiness::sandbox::Sandbox;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nLIVE";
const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const ELSEWHERE: &str =
    "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:15020/ready\r\ncontent-length: 0\r\n\r\n";
/// A body of which nothing ever comes.
const NO_BODY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
const SILENT: &str = "";

fn http(port: u16) -> ReadyCheck {
    ReadyCheck::Http { port, path: "/healthz/ready".to_owned() }
}

fn tcp(port: u16) -> ReadyCheck {
    ReadyCheck::Tcp { port }
}

async fn run(sandbox: &Sandbox, checks: &[ReadyCheck], ports: &[u16]) -> Finding {
    let round = Round {
        uid: PodUid::new("u"),
        checks: checks.to_vec(),
        ports: ports.to_vec(),
        any_port: false,
        listeners: true,
    };
    Arc::new(round).run(&sandbox.entrance, &sandbox.netns).await.unwrap()
}

#[tokio::test]
async fn a_2xx_alone_is_ready() {
    for (answer, expected) in [
        (OK, Finding::Ready(0)),
        (NO_CONTENT, Finding::Ready(0)),
        (NO_BODY, Finding::Ready(0)),
        (NOT_FOUND, Finding::NotReady),
        (UNAVAILABLE, Finding::NotReady),
        (ELSEWHERE, Finding::NotReady),
        ("SSH-2.0-OpenSSH_9.2\r\n", Finding::NotReady),
    ] {
        let sandbox = Sandbox::new();
        let _proxy = sandbox.serve("0.0.0.0:15021", answer).await;
        // Where a redirect would lead to.
        let elsewhere = sandbox.serve("0.0.0.0:15020", OK).await;
        assert_eq!(run(&sandbox, &[http(15021)], &[]).await, expected, "{answer}");
        assert_eq!(elsewhere.connections(), 0, "{answer}");
    }
}

#[tokio::test]
async fn both_loopback_addresses_are_asked() {
    for address in ["127.0.0.1:15021", "[::1]:15021", "[::]:15021"] {
        let sandbox = Sandbox::new();
        let _proxy = sandbox.serve(address, OK).await;
        assert_eq!(run(&sandbox, &[http(15021)], &[]).await, Finding::Ready(0), "{address}");
    }
}

#[tokio::test]
async fn the_fallback_is_asked_in_the_same_round() {
    let sandbox = Sandbox::new();
    let checks = [http(15021), http(15020)];
    let old = sandbox.serve("0.0.0.0:15020", OK).await;
    assert_eq!(run(&sandbox, &checks, &[]).await, Finding::Ready(1));
    let _no_such_path = sandbox.serve("0.0.0.0:15021", NOT_FOUND).await;
    assert_eq!(run(&sandbox, &checks, &[]).await, Finding::Ready(1));
    assert_eq!(old.connections(), 2);
    drop(old);
    let _silent = sandbox.serve("[::1]:15020", SILENT).await;
    assert_eq!(run(&sandbox, &checks, &[]).await, Finding::NotReady);
}

#[tokio::test]
async fn a_round_is_bounded_however_many_are_silent() {
    let sandbox = Sandbox::new();
    let _one = sandbox.serve("0.0.0.0:15021", SILENT).await;
    let _two = sandbox.serve("[::]:15020", SILENT).await;
    let begun = Instant::now();
    let checks = [http(15021), http(15020), http(15021)];
    assert_eq!(run(&sandbox, &checks, &[]).await, Finding::NotReady);
    let took = begun.elapsed();
    // One after the other they would take 2.5 s.
    let expected = Duration::from_millis(500)..Duration::from_millis(1500);
    assert!(expected.contains(&took), "{took:?}");

    let _other = sandbox.serve("0.0.0.0:3500", OK).await;
    let begun = Instant::now();
    assert_eq!(run(&sandbox, &[http(15021), http(3500)], &[]).await, Finding::Ready(1));
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_is_asked_before_every_port_has_a_listener() {
    let sandbox = Sandbox::new();
    let proxy = sandbox.serve("0.0.0.0:15021", OK).await;
    let ports = [15001, 15053];
    assert_eq!(run(&sandbox, &[http(15021)], &ports).await, Finding::NobodyListens);
    let _outbound = sandbox.listen("0.0.0.0:15001").await;
    assert_eq!(run(&sandbox, &[http(15021)], &ports).await, Finding::NobodyListens);
    assert_eq!(proxy.connections(), 0);
    let _dns = sandbox.listen("[::1]:15053").await;
    assert_eq!(run(&sandbox, &[http(15021)], &ports).await, Finding::Ready(0));
}

#[tokio::test]
async fn a_listener_is_ready_without_being_connected_to() {
    let sandbox = Sandbox::new();
    assert_eq!(run(&sandbox, &[tcp(5432)], &[]).await, Finding::NotReady);
    let database = sandbox.listen("127.0.0.1:5432").await;
    assert_eq!(run(&sandbox, &[tcp(5432)], &[5432]).await, Finding::Ready(0));
    database.set_nonblocking(true).unwrap();
    assert_eq!(database.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // It is cheaper to find out than what comes first.
    let proxy = sandbox.serve("0.0.0.0:9090", OK).await;
    assert_eq!(run(&sandbox, &[http(9090), tcp(5432)], &[]).await, Finding::Ready(1));
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn kubelets_word_alone_is_nothing_to_ask() {
    let sandbox = Sandbox::new();
    assert_eq!(run(&sandbox, &[ReadyCheck::Kube], &[]).await, Finding::NothingToAsk);
    assert_eq!(run(&sandbox, &[ReadyCheck::Kube], &[3500]).await, Finding::NobodyListens);
    let _listener = sandbox.listen("127.0.0.1:3500").await;
    assert_eq!(run(&sandbox, &[ReadyCheck::Kube], &[3500]).await, Finding::NothingToAsk);
    let checks = [ReadyCheck::Kube, tcp(3500)];
    assert_eq!(run(&sandbox, &checks, &[3500]).await, Finding::Ready(1));
}

#[tokio::test]
async fn where_the_kernel_does_not_tell_who_listens_the_endpoint_alone_counts() {
    let sandbox = Sandbox::new();
    let blind = |checks: &[ReadyCheck]| {
        let round = Round {
            uid: PodUid::new("u"),
            checks: checks.to_vec(),
            ports: vec![15001],
            any_port: false,
            listeners: false,
        };
        let (entrance, netns) = (sandbox.entrance.clone(), Arc::clone(&sandbox.netns));
        async move { Arc::new(round).run(&entrance, &netns).await.unwrap() }
    };
    assert_eq!(blind(&[http(15021), tcp(15001)]).await, Finding::NotReady);
    let _proxy = sandbox.serve("127.0.0.1:15021", OK).await;
    assert_eq!(blind(&[http(15021), tcp(15001)]).await, Finding::Ready(0));
}
