//! Over real connections, as browsers and others make them.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::{
    bpf::GateTotals,
    clock,
    cluster::Watches,
    core::{PodName, PodRef, PodReport, PodState, PodUid, Totals},
    health::{Readiness, Reason},
    reconcile::{Ask, Asker},
};

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(20);

const ANY: ListenAddress = ListenAddress::One(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

/// An agent of which only the page is there, and one pod.
struct Played {
    status: Status,
    readiness: Readiness,
    asked: Arc<AtomicU32>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Played {
    fn new() -> Self {
        let (readiness, asked) = (Readiness::default(), Arc::new(AtomicU32::new(0)));
        let (asker, mut asks) = Asker::new();
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                let Ask::Snapshot(answer) = ask else { panic!("the page gives orders: {ask:?}") };
                count.fetch_add(1, Ordering::SeqCst);
                // Whoever asked may have gone.
                let _: Result<(), Snapshot> = answer.send(snapshot());
            }
        });
        let status = Status::new("node1", readiness.clone(), asker, Watches::default());
        Self { status, readiness, asked }
    }

    fn work(self) -> Self {
        for reason in [
            Reason::ProgramsLoaded,
            Reason::PodsListed,
            Reason::NamespacesListed,
            Reason::CgroupsListed,
        ] {
            self.readiness.met(reason);
        }
        self
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Serves it, and says where.
    fn serve(&self) -> SocketAddr {
        let server = bind(ANY, &self.status).unwrap();
        let address = server.address();
        tokio::spawn(server.run());
        address
    }
}

fn snapshot() -> Snapshot {
    let now = clock::epoch().stamp(clock::now());
    let name = PodName::new("shop", "cart");
    let pod = PodRef::new(PodUid::new("uid"), Some(name));
    let pod = PodReport { wanted: true, ..PodReport::new(pod, PodState::Open, now) };
    Snapshot {
        at: now,
        pods: vec![pod],
        episodes: Vec::new(),
        totals: Totals::default(),
        entries: Vec::new(),
        gates: GateTotals::default(),
    }
}

async fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.expect("no answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost:8687\r\n\r\n")).await
}

#[tokio::test]
async fn the_page_and_its_pods_are_served_with_a_policy_that_allows_no_script() {
    let address = Played::new().work().serve();
    for (path, contained) in [
        ("/", "href=\"/pods/shop/cart\""),
        ("/?refresh=off", "Go on"),
        ("/pods/shop/cart", "All of node"),
        ("/pods/sh%6Fp/cart?x", "http-equiv=\"refresh\""),
    ] {
        let Answer { status, head, body } = get(address, path).await;
        assert_eq!(status, 200, "{path}");
        assert!(body.contains(contained), "{path}: {body}");
        for header in [
            "content-type: text/html; charset=utf-8",
            "content-security-policy: default-src 'none'; style-src 'unsafe-inline';",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(&format!("\r\n{header}")), "{path}: {header}\n{head}");
        }
        assert!(!head.contains("content-disposition"), "{head}");
    }
    for path in ["/pods/shop/other", "/pods/shop", "/x", "/pods/%ff/cart"] {
        let Answer { status, head, body } = get(address, path).await;
        assert!((400..500).contains(&status), "{path}: {status}");
        assert!(!body.contains('<') && head.contains("x-content-type-options"), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_saved_page_is_a_file_that_is_named_after_the_node() {
    let address = Played::new().work().serve();
    let Answer { status, head, body } = get(address, "/?save").await;
    assert_eq!(status, 200);
    let disposition = "content-disposition: attachment; filename=\"holdfast-node1.html\"";
    assert!(head.contains(disposition), "{head}");
    assert!(body.contains("kept in this file") && !body.contains("http-equiv"), "{body}");
}

#[tokio::test]
async fn nothing_is_changed_through_it() {
    let address = Played::new().work().serve();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["/", "/pods/shop/cart"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: [::1]\r\n\r\n");
            assert_eq!(send(address, &request).await.status, 405, "{method} {path}");
        }
    }
    let head = send(address, "HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_web_site_whose_name_leads_here_gets_nothing() {
    let played = Played::new().work();
    let address = played.serve();
    for request in [
        "GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost.attacker.example:8687\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1.attacker.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n",
        "GET http://attacker.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let Answer { status, body, .. } = send(address, request).await;
        assert_eq!(status, 421, "{request}");
        assert!(!body.contains("node1"), "{body}");
    }
    assert_eq!(played.asked(), 0);
    for host in
        ["localhost", "LOCALHOST:8687", "127.0.0.1:8687", "10.1.2.3", "[::1]:8687", "[fd00::1]"]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(send(address, &request).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_work_gates_yet_says_so() {
    let played = Played::new();
    let address = played.serve();
    for path in ["/", "/pods/shop/cart"] {
        let Answer { status, body, .. } = get(address, path).await;
        assert_eq!(status, 200);
        assert!(body.contains("does not work the gates of this node yet"), "{body}");
        assert!(body.contains("the eBPF programs are not loaded yet"), "{body}");
    }
    played.readiness.stand_by();
    sleep(Duration::from_millis(300)).await;
    assert!(get(address, "/").await.body.contains("Another agent works the gates"));
    assert_eq!(played.asked(), 0);
}

#[tokio::test]
async fn however_many_look_the_agent_is_asked_now_and_then() {
    let played = Played::new().work();
    let address = played.serve();
    let look = || get(address, "/");
    tokio::join!(look(), look(), look(), played.status.recent());
    look().await;
    assert_eq!(played.asked(), 1);
    // An operator wants to know what is, not what was.
    played.status.report().await;
    assert_eq!(played.asked(), 2);
}

#[tokio::test]
async fn an_address_of_somebody_else_is_tried_again_only_if_nobody_named_it() {
    let played = Played::new().work();
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = ListenAddress::One(taken.local_addr().unwrap());
    let error = serve(Some(PageAddress::At(address)), played.status.clone()).unwrap_err();
    assert!(error.to_string().contains("--page-address"), "{error}");
    assert!(serve(Some(PageAddress::None), played.status.clone()).is_ok());

    let patient = tokio::spawn(serve_patiently(address, RETRY / 1_000, played.status.clone()));
    sleep(RETRY / 100).await;
    assert!(!patient.is_finished());
    let free = taken.local_addr().unwrap();
    drop(taken);
    timeout(SOON, async {
        while TcpStream::connect(free).await.is_err() {
            sleep(RETRY / 1_000).await;
        }
    })
    .await
    .expect("it is not served");
    assert_eq!(get(free, "/").await.status, 200);
}

#[test]
fn addresses_are_read_as_everywhere_and_none_means_none() {
    assert_eq!("none".parse(), Ok(PageAddress::None));
    let one = "127.0.0.1:0".parse().unwrap();
    assert_eq!("127.0.0.1:0".parse(), Ok(PageAddress::At(ListenAddress::One(one))));
    assert_eq!("8687".parse(), Ok(PageAddress::At(ListenAddress::All(8687))));
    for text in ["", "off", "None", "localhost:8687"] {
        assert_eq!(text.parse::<PageAddress>(), Err(PageAddressError), "{text}");
    }
}
