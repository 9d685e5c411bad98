//! A closed gate's hold of TCP connects, and its ends.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::pacing::{DEFAULT_SYN_RETRIES, MAX_SYN_RETRIES};
use holdfast::{
    bpf::LoadOptions,
    clock,
    core::{Caller, GateSetting, KernelEventKind},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::pod::{
    Connecting, MINUTE, Pod, addresses, kernel_is_at_least, option, proxy, set_option, tries,
    wait_for,
};

/// How often the socket itself sent a segment once more.
fn retransmits(stream: &TcpStream) -> u32 {
    // SAFETY: all-zero is a valid tcp_info.
    let info: libc::tcp_info = unsafe { std::mem::zeroed() };
    option(stream, libc::IPPROTO_TCP, libc::TCP_INFO, info).tcpi_total_retrans
}

#[test]
fn held_connects_are_released_by_replay() {
    let mut pod = Pod::new();
    for address in addresses() {
        pod.close(MINUTE);
        let connecting = pod.connect(address);
        if !connecting.is_waiting() {
            panic!("{address} is not held: {:?}", connecting.result());
        }
        let _listener = TcpListener::bind(address).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(connecting.is_waiting(), "{address}: only the replay or a timer may release it");
        pod.open();
        pod.replay();
        let (result, _) = connecting.result();
        let stream = result.unwrap_or_else(|error| panic!("{address}: {error}"));
        // Of the SYNs that the socket sent all were dropped: the one that got through was ours.
        let sent = retransmits(&stream) + 1;
        assert_eq!(pod.counts().dropped, u64::from(sent), "{address}");
        let kinds = pod.events(2);
        let KernelEventKind::Held(caller) = &kinds[0] else { panic!("{address}: {kinds:?}") };
        assert_eq!(caller.destination, address);
        assert_eq!(kinds[1], KernelEventKind::Connected, "{address}");
        pod.detach();
    }
}

#[test]
fn a_multipath_connect_is_held_and_replayed_like_any_other() {
    let mut pod = Pod::new();
    for address in addresses() {
        let (domain, mptcp) = (Domain::for_address(address), Some(Protocol::MPTCP));
        let Ok(socket) = pod.inside(|| Socket::new(domain, Type::STREAM, mptcp)) else {
            // A kernel without it. Debian's have it from 6.1 on.
            assert!(!kernel_is_at_least(6, 1));
            return;
        };
        pod.close(MINUTE);
        let connecting = pod.inside(|| {
            let connecting = Connecting::start(socket, address);
            thread::sleep(Duration::from_millis(50));
            connecting
        });
        assert!(connecting.is_waiting(), "{address}");
        assert_eq!(pod.counts().records, 1, "{address}");
        let _listener = TcpListener::bind(address).unwrap();
        pod.open();
        pod.replay();
        connecting.result().0.unwrap();
        let kinds = pod.events(2);
        assert!(matches!(kinds[0], KernelEventKind::Held(_)), "{address}: {kinds:?}");
        assert_eq!(kinds[1], KernelEventKind::Connected, "{address}");
        pod.detach();
    }
}

#[test]
fn without_a_replay_the_retransmission_gets_through() {
    let mut pod = Pod::new();
    for address in addresses() {
        pod.close(MINUTE);
        let connecting = pod.connect(address);
        let _listener = TcpListener::bind(address).unwrap();
        thread::sleep(Duration::from_millis(1_200));
        pod.open();
        let stream = connecting.result().0.unwrap();
        let sent = retransmits(&stream) + 1;
        assert_eq!(pod.counts().dropped + 1, u64::from(sent), "{address}");
        pod.detach();
    }
}

#[test]
fn a_hold_outlasts_the_default_number_of_syn_retries() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    // At 500 ms a try the default of 6 (and 4 linear ones) ends after 6.1 s.
    thread::sleep(Duration::from_secs(9));
    assert!(connecting.is_waiting());
    assert!(pod.counts().dropped > 12, "{:?}", pod.counts());
    pod.open();
    connecting.result().0.unwrap();
}

/// Somebody who listens and does not answer: a backlog of 0 takes one connection, and the kernel drops
/// the SYN of whoever comes after it without a word.
fn deaf_listener(address: SocketAddr) -> (Socket, TcpStream) {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    // From outside of the pod, past its gate.
    let queued = TcpStream::connect(address).unwrap();
    (listener, queued)
}

#[test]
fn who_was_let_go_into_silence_waits_again_like_anybody_else() {
    const OWN: u32 = 5;
    const HELD: u32 = MAX_SYN_RETRIES;
    let mut pod = Pod::new();
    let address = proxy(Ipv4Addr::LOCALHOST);
    let socket = pod.socket(address);
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, &OWN, size_of_val(&OWN)).unwrap();
    let seen = socket.try_clone().unwrap();
    let let_go = |pod: &mut Pod| {
        wait_for("it has not the tries of a held socket", || tries(&seen) == HELD);
        let deaf = deaf_listener(address);
        pod.open();
        wait_for("it has not its own number of tries", || tries(&seen) != HELD);
        deaf
    };
    pod.close(MINUTE);
    let connecting = pod.inside(|| Connecting::start(socket, address));
    let deaf = let_go(&mut pod);
    assert!(connecting.is_waiting());
    pod.close(MINUTE);
    drop(deaf);
    // At 500 ms a try its own 5 (and 4 linear ones) end within 6.5 s, the wait under way included.
    thread::sleep(Duration::from_secs(8));
    assert!(connecting.is_waiting());
    assert_eq!(tries(&seen), HELD);

    // As often as it happens, and behind a guarded gate too.
    let deaf = let_go(&mut pod);
    let guarded = pod.gate(GateSetting::Guarded { budget: MINUTE });
    pod.set(&guarded);
    drop(deaf);
    wait_for("it is not held again", || tries(&seen) == HELD);
    let _listener = TcpListener::bind(address).unwrap();
    let stream = connecting.result().0.unwrap();
    assert_eq!(pod.counts().held, 1, "one hold, however often its gate opened");
    let own = if kernel_is_at_least(6, 1) { OWN } else { DEFAULT_SYN_RETRIES };
    assert_eq!(tries(&stream), own);
}

#[test]
fn the_kernel_itself_opens_at_the_deadline() {
    let mut pod = Pod::new();
    let deadline = Duration::from_secs(2);
    pod.close(deadline);
    let (result, waited) = pod.connect(proxy(Ipv4Addr::LOCALHOST)).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= deadline - Duration::from_millis(60), "{waited:?}");
    assert_eq!(pod.events(2)[1], KernelEventKind::Failed);
}

#[test]
fn the_deadline_opens_for_a_proxy_that_came_in_the_meantime() {
    let mut pod = Pod::new();
    pod.close(Duration::from_secs(2));
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    connecting.result().0.unwrap();
}

#[test]
fn the_report_names_who_waits_and_how_it_ended() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let container = pod.container();
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let KernelEventKind::Held(caller) = pod.events(1).remove(0) else { panic!("not held") };
    let Caller { container: of, pid, uid, comm, destination, connect_at, query } = caller;
    assert_eq!((of, pid, uid), (Some(container), Some(std::process::id()), 0));
    assert_eq!(query, None);
    assert!(!comm.is_empty());
    assert_eq!(destination, proxy(Ipv4Addr::LOCALHOST));
    assert!(clock::now().since(connect_at) < MINUTE);
    drop(connecting);

    let socket = pod.socket(destination);
    socket.set_nonblocking(true).unwrap();
    let _: io::Result<()> = pod.inside(|| socket.connect(&destination.into()));
    drop(socket);
    assert_eq!(pod.events(2)[1], KernelEventKind::Closed);
}

#[test]
fn a_full_table_holds_all_the_same() {
    let mut pod = Pod::with(&LoadOptions {
        max_sockets: 2,
        max_sockets_per_pod: 2,
        ..LoadOptions::default()
    });
    pod.close(MINUTE);
    let address = proxy(Ipv4Addr::LOCALHOST);
    let connecting: Vec<_> = (0..6).map(|_| pod.connect(address)).collect();
    let _listener = TcpListener::bind(address).unwrap();
    thread::sleep(Duration::from_secs(8));
    assert!(connecting.iter().all(Connecting::is_waiting));
    assert_eq!(pod.counts().held, 6);
    assert_eq!(pod.sockets.held_by(pod.id()).len(), 2);
    pod.open();
    for connecting in connecting {
        connecting.result().0.unwrap();
    }
}

#[test]
fn a_detached_gate_leaves_nothing() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    assert_eq!(pod.sockets.held_by(pod.id()).len(), 1);
    let before = pod.gates().totals();
    assert!(before.dropped >= 1 && before.records == 1, "{before:?}");
    pod.detach();
    assert!(pod.sockets.held_by(pod.id()).is_empty());
    let id = pod.id();
    assert!(pod.gates().counts(id).is_none());
    // But for the count of all that was ever dropped, which must not fall.
    let after = pod.gates().totals();
    assert!(after.dropped >= before.dropped && after.records == 0, "{after:?}");
    assert_eq!(connecting.result().0.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let started = Instant::now();
    let (result, _) = pod.connect(proxy(Ipv4Addr::LOCALHOST)).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn nobody_waits_longer_because_the_gate_was_closed_anew() {
    let mut pod = Pod::new();
    let timeout = Duration::from_secs(4);
    pod.close(timeout);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    thread::sleep(Duration::from_secs(3));
    // As by an agent that has not heard of it.
    pod.close(timeout);
    let (result, waited) = connecting.result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= timeout - Duration::from_millis(60), "{waited:?}");
    assert!(waited < timeout + Duration::from_millis(2_500), "{waited:?}");
    assert_eq!(pod.counts().held, 1);
}
