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

fn ready(check: ReadyCheck) -> Finding {
    Finding::Ready { check }
}

fn answered(status: u16) -> Finding {
    Finding::Answered { check: http(15021), status }
}

fn silent(port: u16) -> Finding {
    Finding::Silent { check: http(port), within_ms: 500 }
}

fn nobody(ports: &[u16]) -> Finding {
    Finding::NobodyListens { ports: ports.to_vec() }
}

async fn run(sandbox: &Sandbox, checks: &[ReadyCheck], ports: &[u16]) -> Finding {
    see(sandbox, checks, ports).await.finding
}

async fn see(sandbox: &Sandbox, checks: &[ReadyCheck], ports: &[u16]) -> Seen {
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
        (OK, Some(ready(http(15021)))),
        (NO_CONTENT, Some(ready(http(15021)))),
        (NO_BODY, Some(ready(http(15021)))),
        (NOT_FOUND, Some(answered(404))),
        (UNAVAILABLE, Some(answered(503))),
        (ELSEWHERE, Some(answered(302))),
        ("SSH-2.0-OpenSSH_9.2\r\n", None),
    ] {
        let sandbox = Sandbox::new();
        let _proxy = sandbox.serve("0.0.0.0:15021", answer).await;
        // Where a redirect would lead to.
        let elsewhere = sandbox.serve("0.0.0.0:15020", OK).await;
        let found = run(&sandbox, &[http(15021)], &[]).await;
        match expected {
            Some(expected) => assert_eq!(found, expected, "{answer}"),
            None => assert!(matches!(found, Finding::Failed { .. }), "{answer}: {found}"),
        }
        assert_eq!(elsewhere.connections(), 0, "{answer}");
    }
}

#[tokio::test]
async fn both_loopback_addresses_are_asked() {
    for address in ["127.0.0.1:15021", "[::1]:15021", "[::]:15021"] {
        let sandbox = Sandbox::new();
        let _proxy = sandbox.serve(address, OK).await;
        assert_eq!(run(&sandbox, &[http(15021)], &[]).await, ready(http(15021)), "{address}");
    }
}

#[tokio::test]
async fn the_fallback_is_asked_in_the_same_round() {
    let sandbox = Sandbox::new();
    let checks = [http(15021), http(15020)];
    let old = sandbox.serve("0.0.0.0:15020", OK).await;
    assert_eq!(run(&sandbox, &checks, &[]).await, ready(http(15020)));
    let _no_such_path = sandbox.serve("0.0.0.0:15021", NOT_FOUND).await;
    assert_eq!(run(&sandbox, &checks, &[]).await, ready(http(15020)));
    assert_eq!(old.connections(), 2);
    drop(old);
    let _silent = sandbox.serve("[::1]:15020", SILENT).await;
    // A status tells more than silence, whichever is asked first.
    assert_eq!(run(&sandbox, &checks, &[]).await, answered(404));
    let silent_first = [http(15020), http(15021)];
    assert_eq!(run(&sandbox, &silent_first, &[]).await, answered(404));
}

#[tokio::test]
async fn a_round_is_bounded_however_many_are_silent() {
    let sandbox = Sandbox::new();
    let _one = sandbox.serve("0.0.0.0:15021", SILENT).await;
    let _two = sandbox.serve("[::]:15020", SILENT).await;
    let begun = Instant::now();
    let checks = [http(15021), http(15020), http(15021)];
    assert_eq!(run(&sandbox, &checks, &[]).await, silent(15021));
    let took = begun.elapsed();
    // One after the other they would take 2.5 s.
    let expected = Duration::from_millis(500)..Duration::from_millis(1500);
    assert!(expected.contains(&took), "{took:?}");

    let _other = sandbox.serve("0.0.0.0:3500", OK).await;
    let begun = Instant::now();
    assert_eq!(run(&sandbox, &[http(15021), http(3500)], &[]).await, ready(http(3500)));
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nobody_is_asked_before_every_port_has_a_listener() {
    let sandbox = Sandbox::new();
    let proxy = sandbox.serve("0.0.0.0:15021", OK).await;
    let ports = [15001, 15053];
    assert_eq!(run(&sandbox, &[http(15021)], &ports).await, nobody(&ports));
    let _outbound = sandbox.listen("0.0.0.0:15001").await;
    assert_eq!(run(&sandbox, &[http(15021)], &ports).await, nobody(&[15053]));
    assert_eq!(proxy.connections(), 0);
    let _dns = sandbox.listen("[::1]:15053").await;
    assert_eq!(run(&sandbox, &[http(15021)], &ports).await, ready(http(15021)));
}

#[tokio::test]
async fn a_listener_is_ready_without_being_connected_to() {
    let sandbox = Sandbox::new();
    assert_eq!(run(&sandbox, &[tcp(5432)], &[]).await, nobody(&[5432]));
    let database = sandbox.listen("127.0.0.1:5432").await;
    assert_eq!(run(&sandbox, &[tcp(5432)], &[5432]).await, ready(tcp(5432)));
    database.set_nonblocking(true).unwrap();
    assert_eq!(database.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // It is cheaper to find out than what comes first.
    let proxy = sandbox.serve("0.0.0.0:9090", OK).await;
    assert_eq!(run(&sandbox, &[http(9090), tcp(5432)], &[]).await, ready(tcp(5432)));
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn kubelets_word_alone_is_nothing_to_ask() {
    let kubelet_silent = |ports: &[u16]| Finding::KubeletSilent { ports: ports.to_vec() };
    let sandbox = Sandbox::new();
    assert_eq!(run(&sandbox, &[ReadyCheck::Kube], &[]).await, kubelet_silent(&[]));
    assert_eq!(run(&sandbox, &[ReadyCheck::Kube], &[3500]).await, nobody(&[3500]));
    let _listener = sandbox.listen("127.0.0.1:3500").await;
    assert_eq!(run(&sandbox, &[ReadyCheck::Kube], &[3500]).await, kubelet_silent(&[3500]));
    let checks = [ReadyCheck::Kube, tcp(3500)];
    assert_eq!(run(&sandbox, &checks, &[3500]).await, ready(tcp(3500)));
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
        async move { Arc::new(round).run(&entrance, &netns).await.unwrap().finding }
    };
    let refused = Finding::Refused { check: http(15021) };
    assert_eq!(blind(&[http(15021), tcp(15001)]).await, refused);
    let _proxy = sandbox.serve("127.0.0.1:15021", OK).await;
    assert_eq!(blind(&[http(15021), tcp(15001)]).await, ready(http(15021)));
}

#[tokio::test]
async fn whoever_takes_connections_is_told_from_one_at_whose_ports_nobody_listens() {
    let sandbox = Sandbox::new();
    let checks = [http(15021), http(15020)];
    let seen = see(&sandbox, &checks, &[15001]).await;
    assert_eq!(seen, Seen { finding: nobody(&[15001]), listens: false });
    let _outbound = sandbox.listen("127.0.0.1:15001").await;
    let seen = see(&sandbox, &checks, &[15001]).await;
    assert_eq!(seen, Seen { finding: nobody(&[15021, 15020]), listens: true });
}

#[tokio::test]
async fn of_guessed_ports_one_is_enough() {
    let sandbox = Sandbox::new();
    let any = || {
        let (checks, ports) = (vec![ReadyCheck::Kube], vec![3500, 50001]);
        let round = Round { uid: PodUid::new("u"), checks, ports, any_port: true, listeners: true };
        let (entrance, netns) = (sandbox.entrance.clone(), Arc::clone(&sandbox.netns));
        async move { Arc::new(round).run(&entrance, &netns).await.unwrap() }
    };
    let seen = any().await;
    assert_eq!(seen, Seen { finding: nobody(&[3500, 50001]), listens: false });
    let _one = sandbox.listen("[::1]:50001").await;
    assert!(any().await.listens);
}
