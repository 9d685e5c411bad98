//! A gate that is open, but stays attached and holds when nobody listens.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use holdfast::core::{GateSetting, KernelEventKind, SetGate, Verdict};

use socket2::{Domain, Socket, Type};

use crate::pod::{Connecting, MINUTE, Pod, addresses, proxy};

/// Guards the proxy's port alone: nobody ever listens on the other one.
fn guarded(pod: &Pod, budget: Duration) -> SetGate {
    let ports = vec![proxy(Ipv4Addr::LOCALHOST).port()];
    SetGate { ports, ..pod.gate(GateSetting::Guarded { budget }) }
}

#[test]
fn with_a_listener_a_guarded_gate_does_nothing() {
    let mut pod = Pod::new();
    let gate = guarded(&pod, MINUTE);
    pod.set(&gate);
    for address in addresses() {
        let _listener = TcpListener::bind(address).unwrap();
        let stream = pod.connect(address).result().0.unwrap();
        assert_eq!(pod.counts().records, 0, "{address}: no hook has registered it");
        drop(stream);
        // Other ports are refused as ever.
        let other = SocketAddr::new(address.ip(), 15021);
        assert_eq!(pod.connect(other).error().kind(), ErrorKind::ConnectionRefused);
    }
    assert!(pod.is_silent());
    let counts = pod.counts();
    assert_eq!((counts.held, counts.dropped, counts.around), (0, 0, 0));
}

#[test]
fn without_a_listener_it_holds_until_one_is_back() {
    let mut pod = Pod::new();
    let gate = guarded(&pod, MINUTE);
    for address in addresses() {
        pod.set(&gate);
        let replayed = pod.connect(address);
        assert!(replayed.is_waiting(), "{address}");
        let _listener = TcpListener::bind(address).unwrap();
        pod.replay();
        replayed.result().0.unwrap();
        let kinds = pod.events(2);
        assert!(matches!(kinds[0], KernelEventKind::Held(_)), "{address}: {kinds:?}");
        assert_eq!(kinds[1], KernelEventKind::Connected, "{address}");
    }
    assert_eq!((pod.counts().held, pod.counts().records), (3, 0));
}

#[test]
fn a_replay_lets_nobody_be_refused_who_is_held_after_it() {
    let mut pod = Pod::new();
    let gate = guarded(&pod, MINUTE);
    pod.set(&gate);
    let address = proxy(Ipv4Addr::LOCALHOST);
    pod.enter();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    pod.replay();
    // The replay looks twice, 15 ms apart; in between this one begins to wait.
    thread::sleep(Duration::from_millis(9));
    let connecting = Connecting::start(socket, address);
    pod.leave();
    thread::sleep(Duration::from_millis(50));
    assert!(connecting.is_waiting());
    assert_eq!(pod.counts().records, 1);
}

#[test]
fn a_listener_needs_no_agent_to_be_found() {
    let mut pod = Pod::new();
    let gate = guarded(&pod, MINUTE);
    pod.set(&gate);
    for address in addresses() {
        let connecting = pod.connect(address);
        // Past what the default number of tries would have borne.
        thread::sleep(Duration::from_millis(1_800));
        assert!(connecting.is_waiting(), "{address}");
        let _listener = TcpListener::bind(address).unwrap();
        connecting.result().0.unwrap();
    }
}

#[test]
fn the_budget_of_a_guarded_socket_ends() {
    let mut pod = Pod::new();
    let budget = Duration::from_secs(2);
    let gate = guarded(&pod, budget);
    pod.set(&gate);
    let (result, waited) = pod.connect(proxy(Ipv4Addr::LOCALHOST)).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= budget - Duration::from_millis(60), "{waited:?}");
    assert!(waited < budget + Duration::from_secs(1), "{waited:?}");
    assert_eq!(pod.events(2)[1], KernelEventKind::Failed);
}

#[test]
fn sockets_that_no_hook_looks_after_outlast_the_budget_too() {
    let mut pod = Pod::new();
    // With flat answers alone the default tries would end after 4 s (6 s from Linux 6.5 on).
    let budget = Duration::from_secs(8);
    let gate = guarded(&pod, budget);
    pod.set(&gate);
    let address = proxy(Ipv4Addr::LOCALHOST);
    let (result, waited) = Connecting::start(pod.socket(address), address).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{waited:?}");
    assert!(waited >= budget - Duration::from_millis(60), "{waited:?}");
}

#[test]
fn who_passes_a_closed_gate_passes_a_guarded_one() {
    let mut pod = Pod::new();
    let gate = guarded(&pod, MINUTE);
    pod.set(&gate);
    for verdict in [Verdict::Pass, Verdict::PassAndTell] {
        pod.set_verdict(verdict);
        let error = pod.connect(proxy(Ipv4Addr::LOCALHOST)).error();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert!(pod.is_silent());
}

#[test]
fn a_held_connect_goes_on_waiting_when_its_gate_becomes_guarded_and_back() {
    let mut pod = Pod::new();
    let address = proxy(Ipv4Addr::LOCALHOST);
    let gate = SetGate { dns_port: Some(53), ..guarded(&pod, MINUTE) };
    let closed = SetGate { state: pod.closed(MINUTE).state, ..gate.clone() };
    pod.set(&closed);
    let connecting = pod.connect(address);
    pod.set(&gate);
    thread::sleep(Duration::from_millis(1_200));
    assert!(connecting.is_waiting());
    pod.set(&closed);
    let _listener = TcpListener::bind(address).unwrap();
    thread::sleep(Duration::from_millis(700));
    assert!(connecting.is_waiting(), "a closed gate holds whoever listens");
    pod.set(&gate);
    connecting.result().0.unwrap();
    assert_eq!(pod.counts().held, 1);
}
