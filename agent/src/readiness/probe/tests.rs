use std::{
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    awaited::{Place, Questions},
    readiness::{
        counts::ProbeResult,
        interval,
        sandbox::{SOON, Sandbox},
    },
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

/// Longer than an idle probe waits, for events that should not come.
const QUIET: Duration = Duration::from_millis(400);

struct Bench {
    prober: Prober,
    events: mpsc::Receiver<ProbeEvent>,
    /// What the probes told of their rounds.
    found: Vec<Finding>,
}

impl Bench {
    fn new(entrance: Entrance) -> Self {
        Self::with(entrance, None)
    }

    fn with(entrance: Entrance, awaited_ports: Option<AwaitedPorts>) -> Self {
        let host = Netns::open("/proc/self/ns/net".as_ref()).unwrap();
        let (sender, events) = mpsc::channel(16);
        let proc_root = PathBuf::from("/proc");
        Self {
            prober: Prober::new(entrance, proc_root, host.inode(), awaited_ports, sender),
            events,
            found: Vec::new(),
        }
    }

    fn start(&mut self, pid: Option<u32>, checks: &[ReadyCheck], ports: &[u16]) {
        self.start_with(Arc::new(move || Ok(pid)), checks, ports);
    }

    fn start_with(&mut self, find_process: Arc<FindProcess>, checks: &[ReadyCheck], ports: &[u16]) {
        self.prober.start(ProbeTarget {
            uid: uid(),
            checks: checks.to_vec(),
            ports: ports.to_vec(),
            any_port: false,
            pace: Pace::Held(clock::now()),
            find_process,
        });
    }

    /// The next event other than a finding.
    async fn next(&mut self) -> ProbeEvent {
        timeout(SOON, self.recv()).await.expect("no event came")
    }

    /// No event comes, other than findings.
    async fn assert_quiet(&mut self) {
        if let Ok(event) = timeout(QUIET, self.recv()).await {
            panic!("unexpected {event:?}");
        }
    }

    async fn recv(&mut self) -> ProbeEvent {
        loop {
            match self.events.recv().await.unwrap() {
                ProbeEvent::Finding(_, finding) => self.found.push(finding),
                event => return event,
            }
        }
    }
}

fn uid() -> PodUid {
    PodUid::new("0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11")
}

fn http(port: u16) -> ReadyCheck {
    ReadyCheck::Http { port, path: "/ready".to_owned() }
}

#[tokio::test]
async fn a_proxy_that_comes_up_is_told_not_ready_then_ready_by_its_check() {
    let sandbox = Sandbox::new();
    let mut bench = Bench::new(sandbox.entrance.clone());
    let checks = [http(15021), http(15020)];
    bench.start(Some(sandbox.pid()), &checks, &[15001]);
    let event = bench.next().await;
    let inode = sandbox.netns.inode();
    assert!(
        matches!(&event, ProbeEvent::Netns(of, netns) if of.uid == uid() && netns.inode() == inode),
        "{event:?}"
    );
    assert!(matches!(bench.next().await, ProbeEvent::NotReady(_)));
    let _outbound = sandbox.listen("127.0.0.1:15001").await;
    let starting = sandbox.serve("0.0.0.0:15021", UNAVAILABLE).await;
    bench.assert_quiet().await;
    assert!(starting.connections() > 0);
    let _agent = sandbox.serve("0.0.0.0:15020", OK).await;
    let event = bench.next().await;
    assert!(matches!(&event, ProbeEvent::Ready(_, check) if *check == checks[1]), "{event:?}");
    // It was the last, and counts although the probe is over.
    drop(starting);
    bench.assert_quiet().await;
    assert!(bench.prober.is_current(&event));

    // However many rounds found the same, it is told once; all are counted.
    let found = &bench.found;
    assert_eq!(found[0], Finding::NobodyListens { ports: vec![15001] });
    assert!(found.contains(&Finding::Answered { check: checks[0].clone(), status: 503 }));
    assert!(found.windows(2).all(|pair| pair[0] != pair[1]), "{found:?}");
    let counts = bench.prober.counts();
    assert_eq!(counts.get(ProbeResult::Ready), 1);
    assert!(counts.get(ProbeResult::Refused) > 0);
    assert!(counts.get(ProbeResult::NotReadyStatus) > 0);
}

#[tokio::test]
async fn a_process_that_is_the_pod_s_no_more_leads_nowhere() {
    let sandbox = Sandbox::new();
    let mut bench = Bench::new(sandbox.entrance.clone());
    let _outbound = sandbox.listen("127.0.0.1:15001").await;
    let foreign = sandbox.serve("127.0.0.1:15021", OK).await;
    // Its id is somebody else's by the time that its namespace is opened.
    let (pid, looked) = (sandbox.pid(), AtomicUsize::new(0));
    let ended = move || Ok(looked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2).then_some(pid));
    bench.start_with(Arc::new(ended), &[http(15021)], &[15001]);
    assert!(matches!(bench.next().await, ProbeEvent::NotReady(_)));
    bench.assert_quiet().await;
    assert_eq!(foreign.connections(), 0);
    assert_eq!(bench.found, [Finding::NoProcess]);
}

#[tokio::test]
async fn a_proxy_that_takes_connections_is_not_told_not_ready() {
    let sandbox = Sandbox::new();
    let mut bench = Bench::new(sandbox.entrance.clone());
    let _outbound = sandbox.listen("127.0.0.1:15001").await;
    let draining = sandbox.serve("0.0.0.0:15021", UNAVAILABLE).await;
    bench.start(Some(sandbox.pid()), &[http(15021)], &[15001]);
    assert!(matches!(bench.next().await, ProbeEvent::Netns(..)));
    bench.assert_quiet().await;
    assert!(draining.connections() > 0);
}

#[tokio::test]
async fn kubelets_word_alone_ends_no_probe() {
    let sandbox = Sandbox::new();
    let mut bench = Bench::new(sandbox.entrance.clone());
    bench.start(Some(sandbox.pid()), &[ReadyCheck::Kube], &[3500]);
    assert!(matches!(bench.next().await, ProbeEvent::Netns(..)));
    assert!(matches!(bench.next().await, ProbeEvent::NotReady(_)));
    let _listener = sandbox.listen("127.0.0.1:3500").await;
    bench.assert_quiet().await;
    let ports = vec![3500];
    let expected =
        [Finding::NobodyListens { ports: ports.clone() }, Finding::KubeletSilent { ports }];
    assert_eq!(bench.found, expected);
}

#[tokio::test]
async fn without_a_process_nobody_is_ready() {
    let mut bench = Bench::new(Entrance::start().unwrap());
    bench.start(None, &[http(15021)], &[]);
    assert!(matches!(bench.next().await, ProbeEvent::NotReady(_)));
    bench.assert_quiet().await;
    assert_eq!(bench.found, [Finding::NoProcess]);
    assert!(bench.prober.counts().get(ProbeResult::Other) > 1);
}

#[tokio::test]
async fn a_pod_of_the_hosts_network_is_told_of_and_never_asked() {
    let mut bench = Bench::new(Entrance::start().unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    bench.start(Some(std::process::id()), &[ReadyCheck::Tcp { port }], &[]);
    assert!(matches!(bench.next().await, ProbeEvent::HostNetwork(_)));
    bench.assert_quiet().await;
    assert_eq!(bench.found, [Finding::HostNetwork]);
}

#[tokio::test]
async fn a_pod_that_leaves_the_hosts_network_after_it_was_told_of_is_asked_like_any_other() {
    let sandbox = Sandbox::new();
    let mut bench = Bench::new(sandbox.entrance.clone());
    let _outbound = sandbox.listen("127.0.0.1:15001").await;
    let proxy = sandbox.serve("0.0.0.0:15021", OK).await;
    // It ends with its input, so with this test at the latest.
    let mut on_host = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let process = Arc::new(AtomicU32::new(on_host.id()));
    let found = Arc::clone(&process);
    let find = Arc::new(move || Ok(Some(found.load(Ordering::Relaxed))));
    bench.start_with(find, &[http(15021)], &[15001]);
    assert!(matches!(bench.next().await, ProbeEvent::HostNetwork(_)));
    bench.assert_quiet().await;
    assert_eq!(proxy.connections(), 0);

    process.store(sandbox.pid(), Ordering::Relaxed);
    on_host.kill().unwrap();
    on_host.wait().unwrap();
    let event = bench.next().await;
    let inode = sandbox.netns.inode();
    assert!(matches!(&event, ProbeEvent::Netns(_, netns) if netns.inode() == inode), "{event:?}");
    assert!(matches!(bench.next().await, ProbeEvent::Ready(..)));
    assert!(proxy.connections() > 0);
}

#[tokio::test]
async fn a_pod_that_cannot_be_looked_at_is_not_taken_for_one_without_a_proxy() {
    let mut bench = Bench::new(Entrance::start().unwrap());
    let out_of_files = || Err(io::Error::from_raw_os_error(libc::EMFILE));
    bench.start_with(Arc::new(out_of_files), &[http(15021)], &[15001]);
    bench.assert_quiet().await;
    assert!(matches!(&bench.found[..], [Finding::Unreachable { .. }]), "{:?}", bench.found);
}

#[tokio::test]
async fn a_pod_of_the_hosts_network_is_looked_at_as_seldom_as_one_that_nobody_waits_in() {
    let (events, _receiver) = mpsc::channel(1);
    let (_pace, pace) = watch::channel(Pace::Held(clock::now()));
    let mut probe = Probe {
        run: ProbeRun { uid: uid(), generation: 1 },
        round: Arc::new(Round {
            uid: uid(),
            checks: vec![http(15021)],
            ports: vec![15001],
            any_port: false,
            listeners: true,
        }),
        find_process: Arc::new(|| Ok(None)),
        entrance: Entrance::start().unwrap(),
        proc_root: PathBuf::from("/proc"),
        host_netns: 0,
        events,
        pace,
        interval: Interval::default(),
        awaited_ports: None,
        counts: ProbeCounts::default(),
        found: None,
        sandbox: None,
        awaited: None,
        arrived: BTreeSet::new(),
        is_told: false,
        on_host_since: Some(Instant::now()),
        told_host_network: false,
        told_not_ready: false,
    };
    assert_eq!(probe.interval(), interval::HELD_MIN, "its namespace may still come");
    probe.on_host_since = Some(Instant::now() - HOST_NETWORK_AFTER);
    assert_eq!(probe.interval(), interval::IDLE);
}

/// A kernel that takes all questions, and answers none by itself.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Place>>>);

impl Questions for Asked {
    fn ask(&mut self, place: Place) -> io::Result<()> {
        self.0.lock().unwrap().push(place);
        Ok(())
    }

    fn take_back(&mut self, _: Place) {}
}

#[tokio::test]
async fn a_listener_that_is_told_of_is_seldom_looked_for_and_seen_when_it_comes() {
    let sandbox = Sandbox::new();
    let asked = Asked::default();
    let ports = AwaitedPorts::new(Box::new(asked.clone()));
    let mut bench = Bench::with(sandbox.entrance.clone(), Some(ports.clone()));
    let begun = Instant::now();
    bench.start(Some(sandbox.pid()), &[http(15021)], &[15001]);
    assert!(matches!(bench.next().await, ProbeEvent::Netns(..)));
    assert!(matches!(bench.next().await, ProbeEvent::NotReady(_)));
    bench.assert_quiet().await;
    let rounds = u128::from(bench.prober.counts().get(ProbeResult::Refused));
    // Each 50 ms; it would be each 5 ms.
    let most = begun.elapsed().as_millis() / 50 + 2;
    assert!(rounds <= most, "{rounds} rounds, {most} at most");
    let places = asked.0.lock().unwrap().clone();
    let of_ports: BTreeSet<u16> = places.iter().map(|place| place.port).collect();
    assert_eq!(of_ports, BTreeSet::from([15001, 15021]));
    let _outbound = sandbox.listen("127.0.0.1:15001").await;
    let _agent = sandbox.serve("0.0.0.0:15021", OK).await;
    ports.arrived(places);
    assert!(matches!(bench.next().await, ProbeEvent::Ready(..)));
}

#[tokio::test]
async fn a_stopped_probe_asks_no_more() {
    let sandbox = Sandbox::new();
    let mut bench = Bench::new(sandbox.entrance.clone());
    let proxy = sandbox.serve("127.0.0.1:15021", UNAVAILABLE).await;
    let _outbound = sandbox.listen("127.0.0.1:15001").await;
    bench.start(Some(sandbox.pid()), &[http(15021)], &[15001]);
    assert!(matches!(bench.next().await, ProbeEvent::Netns(..)));
    bench.prober.stop(&uid());
    bench.assert_quiet().await;
    let asked = proxy.connections();
    bench.assert_quiet().await;
    assert_eq!(proxy.connections(), asked);
}

#[tokio::test]
async fn what_a_replaced_probe_had_still_to_say_does_not_count() {
    let sandbox = Sandbox::new();
    let mut bench = Bench::new(sandbox.entrance.clone());
    bench.start(Some(sandbox.pid()), &[ReadyCheck::Kube], &[15001]);
    // Its first event is read, the others wait in the queue.
    let first = bench.next().await;
    assert!(bench.prober.is_current(&first));
    while bench.events.len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    bench.start(None, &[ReadyCheck::Kube], &[15001]);
    assert!(!bench.prober.is_current(&first));
    let queued = bench.next().await;
    assert!(matches!(queued, ProbeEvent::NotReady(_)), "{queued:?}");
    assert!(!bench.prober.is_current(&queued));
    let of_the_new_one = bench.next().await;
    assert!(matches!(of_the_new_one, ProbeEvent::NotReady(_)), "{of_the_new_one:?}");
    assert!(bench.prober.is_current(&of_the_new_one));
    bench.prober.stop(&uid());
    assert!(!bench.prober.is_current(&of_the_new_one));
}
