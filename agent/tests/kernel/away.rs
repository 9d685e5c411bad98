//! Closed gates while no agent works for longer than it takes to exchange one.

use std::{
    cell::Cell,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::sentry::AWAY_NS;
use holdfast::{
    bpf::{LoadOptions, Sentry},
    core::{Mode, SetGate},
};

use crate::{
    bpffs::BpfFs,
    pod::{MINUTE, PROXY_PORT, Pod, addresses, proxy, wait_for},
};

/// The gates' own time, which is not to be what ends a wait here.
const LONG: Duration = Duration::from_secs(600);

const AWAY: Duration = Duration::from_nanos(AWAY_NS);

/// A pod with this gate, of which the agent ends now and leaves it, with the sentry posted.
fn left(bpffs: &BpfFs, gate: impl FnOnce(&Pod) -> SetGate) -> (Pod, Sentry) {
    let mut pod = Pod::under(&LoadOptions::default(), Some(&bpffs.0));
    let gate = gate(&pod);
    pod.set(&gate);
    pod.leave_gates();
    let mut sentry = Sentry::open(&bpffs.0).unwrap().expect("an agent has been there");
    sentry.post(&pod.kubepods(), MINUTE).unwrap();
    (pod, sentry)
}

#[test]
fn who_connects_to_a_listener_passes_a_gate_that_no_agent_is_going_to_open() {
    let bpffs = BpfFs::new();
    let before = Instant::now();
    let (mut pod, _sentry) = left(&bpffs, |pod| pod.closed(LONG));
    for address in addresses() {
        let _listener = TcpListener::bind(address).unwrap();
        let connecting = pod.connect(address);
        connecting.result().0.unwrap();
        let waited = before.elapsed();
        assert!(waited >= AWAY && waited < MINUTE, "{address}: {waited:?}");
    }
    // Without holdfast this one would have been refused.
    let waiting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    thread::sleep(Duration::from_millis(1_200));
    assert!(waiting.is_waiting());

    pod.inherit(&LoadOptions::default(), &bpffs.0).expect("it was left");
    pod.gates().attend().unwrap();
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    thread::sleep(Duration::from_millis(1_200));
    assert!(connecting.is_waiting() && waiting.is_waiting(), "an agent decides again");
}

#[test]
fn mode_refuse_lets_them_connect_too() {
    let bpffs = BpfFs::new();
    let before = Instant::now();
    let (pod, _sentry) = left(&bpffs, |pod| SetGate { mode: Mode::Refuse, ..pod.closed(LONG) });
    let address = proxy(Ipv4Addr::LOCALHOST);
    // So that connect() itself fails from now on, where it can.
    assert_eq!(pod.connect(address).error().kind(), ErrorKind::ConnectionRefused);
    let listener = TcpListener::bind(address).unwrap();
    wait_for("connects are refused still", || pod.connect(address).result().0.is_ok());
    assert!(before.elapsed() >= AWAY);
    drop(listener);
    assert_eq!(pod.connect(address).error().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn captured_queries_pass_to_who_takes_them() {
    let bpffs = BpfFs::new();
    let before = Instant::now();
    // A port that no proxy of this pod takes streams at.
    let dns_port = PROXY_PORT + 1;
    let (pod, _sentry) =
        left(&bpffs, |pod| SetGate { dns_port: Some(dns_port), ..pod.closed(LONG) });
    let nameserver = UdpSocket::bind((Ipv4Addr::LOCALHOST, dns_port)).unwrap();
    nameserver.set_nonblocking(true).unwrap();
    let resolver = pod.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let id = Cell::new(0_u16);
    wait_for("queries are held still", || {
        // Each of its own, so that none has waited for as long as a query may.
        id.set(id.get() + 1);
        let mut query = [0; 31];
        query[..2].copy_from_slice(&id.get().to_be_bytes());
        pod.inside(|| resolver.send_to(&query, nameserver.local_addr().unwrap()).unwrap());
        nameserver.recv_from(&mut [0; 64]).is_ok()
    });
    assert!(before.elapsed() >= AWAY);
}
