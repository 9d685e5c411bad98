//! The hold of DNS queries.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::{gate::DNS_BUDGET_NS, socket::MAX_QUERY};
use holdfast::{
    bpf::LoadOptions,
    core::{Caller, KernelEventKind, Mode, QueryId, SetGate, Verdict},
};
use socket2::{Domain, Socket, Type};

use crate::pod::{MINUTE, Pod, option, set_option};

/// Where the proxy takes queries. Nothing redirects here: it is the nameserver's own port.
const DNS_PORT: u16 = 53;

const NAMESERVERS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DNS_PORT),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), DNS_PORT),
];

fn holding(pod: &Pod) -> SetGate {
    SetGate { dns_port: Some(DNS_PORT), ..pod.closed(MINUTE) }
}

/// A message with this id, no question in it.
fn query(id: u16) -> Vec<u8> {
    let mut message = vec![0; 31];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message[30] = 0xa5;
    message
}

fn socket(pod: &Pod, nameserver: SocketAddr) -> Socket {
    pod.inside(|| Socket::new(Domain::for_address(nameserver), Type::DGRAM, None).unwrap())
}

/// As glibc's resolver does.
fn ask_for_errors(socket: &Socket, nameserver: SocketAddr) -> io::Result<()> {
    let (level, name) = recverr(nameserver);
    set_option(socket, level, name, &1_i32, size_of::<i32>())
}

fn recverr(nameserver: SocketAddr) -> (libc::c_int, libc::c_int) {
    if nameserver.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    }
}

/// The messages that have arrived at a nameserver, and from which ports.
fn received(listener: &UdpSocket, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
    listener.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 1024];
    (0..count)
        .map(|_| {
            let (len, from) = listener.recv_from(&mut buffer).expect("a query arrives");
            (buffer[..len].to_vec(), from)
        })
        .collect()
}

#[test]
fn queries_are_held_without_a_word_and_released_by_replay() {
    let mut pod = Pod::new();
    for nameserver in NAMESERVERS {
        let gate = holding(&pod);
        pod.set(&gate);
        // Connected, asking for errors before that, and after it.
        let connected = [true, false].map(|before| {
            let socket = socket(&pod, nameserver);
            pod.inside(|| {
                if before {
                    ask_for_errors(&socket, nameserver).unwrap();
                }
                socket.connect(&nameserver.into()).unwrap();
                if !before {
                    ask_for_errors(&socket, nameserver).unwrap();
                }
                socket.send(&query(1)).unwrap();
                socket.send(&query(2)).unwrap();
            });
            socket
        });
        let unconnected = socket(&pod, nameserver);
        pod.inside(|| {
            ask_for_errors(&unconnected, nameserver).unwrap();
            unconnected.send_to(&query(1), &nameserver.into()).unwrap();
            unconnected.send_to(&query(2), &nameserver.into()).unwrap();
            // The resolver's second try of one of them.
            unconnected.send_to(&query(2), &nameserver.into()).unwrap();
        });
        let (level, name) = recverr(nameserver);
        for socket in connected.iter().chain([&unconnected]) {
            assert_eq!(option(socket, level, name, 7_i32), 0, "{nameserver}");
        }

        for (nth, kind) in pod.events(6).into_iter().enumerate() {
            let KernelEventKind::Held(caller) = kind else { panic!("{nameserver}: {kind:?}") };
            assert_eq!(caller.destination, nameserver);
            assert_eq!(caller.query, Some(QueryId(nth as u64 % 2 + 1)));
            assert_eq!(caller.pid, Some(std::process::id()));
        }
        let counts = pod.counts();
        assert_eq!((counts.held_queries, counts.dropped, counts.held), (6, 7, 0));
        assert_eq!((counts.records, counts.datagrams), (3, 6));

        let listener = UdpSocket::bind(nameserver).unwrap();
        pod.open();
        pod.replay();
        let port = |socket: &Socket| socket.local_addr().unwrap().as_socket().unwrap().port();
        let mut expected: Vec<_> = connected
            .iter()
            .chain([&unconnected])
            .flat_map(|socket| {
                [1, 2].map(|id| (query(id), SocketAddr::new(nameserver.ip(), port(socket))))
            })
            .collect();
        let mut arrived = received(&listener, 6);
        expected.sort();
        arrived.sort();
        assert_eq!(arrived, expected);
        // The answer finds the socket.
        listener.send_to(b"an answer", arrived[0].1).unwrap();
        drop((connected, unconnected));
        for kind in pod.events(3) {
            assert_eq!(kind, KernelEventKind::Closed, "{nameserver}");
        }
        assert_eq!((pod.counts().records, pod.counts().datagrams), (0, 0), "{nameserver}");
        pod.detach();
    }
}

#[test]
fn an_answer_to_a_replayed_query_reaches_its_socket() {
    let mut pod = Pod::new();
    for nameserver in NAMESERVERS {
        let gate = holding(&pod);
        pod.set(&gate);
        let resolver = socket(&pod, nameserver);
        pod.inside(|| {
            resolver.connect(&nameserver.into()).unwrap();
            resolver.send(&query(7)).unwrap();
        });
        let listener = UdpSocket::bind(nameserver).unwrap();
        pod.open();
        pod.replay();
        let (question, from) = received(&listener, 1).remove(0);
        listener.send_to(&question, from).unwrap();
        let resolver = UdpSocket::from(resolver);
        resolver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut answer = [0; 64];
        let len = resolver.recv(&mut answer).unwrap();
        assert_eq!(&answer[..len], query(7), "{nameserver}");
        pod.detach();
    }
}

#[test]
fn only_what_a_hook_saw_is_stored() {
    let mut pod = Pod::new();
    let nameserver = NAMESERVERS[0];
    let resolver = socket(&pod, nameserver);
    resolver.connect(&nameserver.into()).unwrap();
    let gate = holding(&pod);
    pod.set(&gate);
    resolver.send(&query(1)).unwrap();
    let KernelEventKind::Held(caller) = pod.events(1).remove(0) else { panic!("not held") };
    assert_eq!((caller.pid, caller.query), (None, Some(QueryId(1))));
    assert_eq!(caller.destination, nameserver);
    let counts = pod.counts();
    assert_eq!((counts.dropped, counts.records, counts.datagrams), (1, 0, 0));
}

#[test]
fn what_is_no_query_is_held_and_not_stored() {
    let mut pod = Pod::new();
    let gate = holding(&pod);
    pod.set(&gate);
    let nameserver = NAMESERVERS[0];
    let resolver = socket(&pod, nameserver);
    let listener = UdpSocket::bind(nameserver).unwrap();
    pod.inside(|| {
        for len in [11, MAX_QUERY + 1] {
            resolver.send_to(&vec![1; len], &nameserver.into()).unwrap();
        }
        // The longest that is one.
        resolver.send_to(&[2; MAX_QUERY], &nameserver.into()).unwrap();
    });
    assert_eq!((pod.counts().dropped, pod.counts().datagrams), (3, 1));
    pod.open();
    pod.replay();
    assert_eq!(received(&listener, 1)[0].0, [2; MAX_QUERY]);
}

#[test]
fn a_socket_keeps_its_newest_queries_and_a_pod_its_quota() {
    let mut pod = Pod::with(&LoadOptions { max_sockets_per_pod: 10, ..LoadOptions::default() });
    let gate = holding(&pod);
    pod.set(&gate);
    let nameserver = NAMESERVERS[1];
    let sockets = [0; 2].map(|_| socket(&pod, nameserver));
    let send = |nth: usize, id| {
        pod.inside(|| sockets[nth].send_to(&query(id), &nameserver.into()).unwrap());
    };
    (1..=11).for_each(|id| send(0, id));
    assert_eq!(pod.counts().datagrams, 8);
    (21..=24).for_each(|id| send(1, id));
    assert_eq!(pod.counts().datagrams, 10);
    assert_eq!(pod.counts().dropped, 15);

    let listener = UdpSocket::bind(nameserver).unwrap();
    pod.open();
    pod.replay();
    let mut ids: Vec<_> =
        received(&listener, 10).into_iter().map(|(message, _)| message[1]).collect();
    ids.sort_unstable();
    assert_eq!(ids, [4, 5, 6, 7, 8, 9, 10, 11, 21, 22]);
    let [first, second] = sockets;
    drop(first);
    assert_eq!(pod.counts().datagrams, 2);
    drop(second);
    assert_eq!((pod.counts().datagrams, pod.counts().records), (0, 0));
}

#[test]
fn a_detached_gate_leaves_no_query() {
    let mut pod = Pod::new();
    let gate = holding(&pod);
    pod.set(&gate);
    let nameserver = NAMESERVERS[0];
    let resolver = socket(&pod, nameserver);
    pod.inside(|| resolver.send_to(&query(1), &nameserver.into()).unwrap());
    let (cookie, record) = pod.sockets.held_by(pod.id()).remove(0);
    assert_eq!(pod.sockets.queries(cookie, &record).len(), 1);
    pod.detach();
    assert!(pod.sockets.queries(cookie, &record).is_empty());
    assert!(pod.sockets.held_by(pod.id()).is_empty());
}

#[test]
fn a_query_is_held_no_longer_than_its_resolver_waits() {
    let mut pod = Pod::new();
    let gate = holding(&pod);
    pod.set(&gate);
    let budget = Duration::from_nanos(DNS_BUDGET_NS);
    let [nameserver, unseen_nameserver] = NAMESERVERS;
    let resolver = socket(&pod, nameserver);
    let unseen = socket(&pod, unseen_nameserver);
    let started = Instant::now();
    let stream = pod.connect(nameserver);
    pod.inside(|| resolver.send_to(&query(1), &nameserver.into()).unwrap());
    // No hook sees a call from outside of the pod.
    unseen.send_to(&query(1), &unseen_nameserver.into()).unwrap();
    assert_eq!(pod.counts().datagrams, 1);

    thread::sleep((budget - Duration::from_millis(500)).saturating_sub(started.elapsed()));
    let listeners = NAMESERVERS.map(|nameserver| UdpSocket::bind(nameserver).unwrap());
    let tcp_listener = TcpListener::bind(nameserver).unwrap();
    let send = || {
        pod.inside(|| resolver.send_to(&query(1), &nameserver.into()).unwrap());
        unseen.send_to(&query(1), &unseen_nameserver.into()).unwrap();
    };
    send();
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
        listener.set_nonblocking(false).unwrap();
    }
    assert!(stream.is_waiting());
    thread::sleep(Duration::from_millis(700));
    send();
    for listener in &listeners {
        assert_eq!(received(listener, 1)[0].0, query(1));
    }
    let (result, waited) = stream.result();
    result.unwrap();
    assert!(waited >= budget - Duration::from_millis(60), "{waited:?}");
    drop(tcp_listener);
    // Another query begins anew.
    pod.inside(|| resolver.send_to(&query(2), &nameserver.into()).unwrap());
    assert_eq!(pod.counts().held_queries, 3);
}

#[test]
fn queries_of_those_who_pass_and_of_other_modes_go_through() {
    let mut pod = Pod::new();
    let nameserver = NAMESERVERS[0];
    let listener = UdpSocket::bind(nameserver).unwrap();
    let resolver = socket(&pod, nameserver);
    let ask = |pod: &Pod, id| {
        pod.inside(|| resolver.send_to(&query(id), &nameserver.into()).unwrap());
        assert_eq!(received(&listener, 1)[0].0, query(id));
    };
    let gate = holding(&pod);
    pod.set(&gate);
    pod.set_verdict(Verdict::Pass);
    ask(&pod, 1);
    pod.set_verdict(Verdict::PassAndTell);
    ask(&pod, 2);
    ask(&pod, 3);
    let KernelEventKind::InitPassed(caller) = pod.events(1).remove(0) else { panic!() };
    assert_eq!((caller.destination, caller.query), (nameserver, Some(QueryId(2))));
    assert_eq!(caller.pid, Some(std::process::id()));
    pod.set_verdict(Verdict::Hold);
    pod.set(&SetGate { mode: Mode::Refuse, ..gate.clone() });
    ask(&pod, 4);
    pod.set(&SetGate { mode: Mode::Observe, ..gate.clone() });
    ask(&pod, 5);
    ask(&pod, 6);
    let observed = |caller: &Caller| (caller.destination, caller.query);
    let KernelEventKind::Observed { caller, refused: false } = pod.events(1).remove(0) else {
        panic!()
    };
    assert_eq!(observed(&caller), (nameserver, Some(QueryId(5))));
    assert!(pod.is_silent());
    // Each at a port of its own: nobody takes queries there.
    for nobody in NAMESERVERS {
        let nobody = SocketAddr::new(nobody.ip(), 15_053);
        pod.set(&SetGate { mode: Mode::Observe, dns_port: Some(nobody.port()), ..gate.clone() });
        let resolver = socket(&pod, nobody);
        pod.inside(|| resolver.send_to(&query(7), &nobody.into()).unwrap());
        let KernelEventKind::Observed { caller, refused: true } = pod.events(1).remove(0) else {
            panic!("{nobody}")
        };
        assert_eq!(observed(&caller), (nobody, Some(QueryId(7))));
    }
    pod.set(&SetGate { dns_port: None, ..gate });
    ask(&pod, 7);
    pod.open();
    ask(&pod, 8);
    assert_eq!((pod.counts().dropped, pod.counts().observed), (0, 3));
}
