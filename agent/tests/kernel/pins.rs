//! What stands in a BPF file system when one agent follows another.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::{ABI_VERSION, Gate};
use aya::maps::{HashMap, Map, MapData};
use holdfast::{
    bpf::{self, LoadOptions},
    core::{CloseReason, GateSetting, InheritedGate, InheritedState, KernelEventKind, SetGate},
};
use tokio::runtime::Runtime;

use crate::{
    bpffs::BpfFs,
    pod::{Connecting, MINUTE, Pod, claim, option, proxy},
};

fn options() -> LoadOptions {
    LoadOptions::default()
}

/// A pod whose agent has ended while a connect waits.
fn left_with_a_hold(bpffs: &BpfFs) -> (Pod, SetGate, Connecting) {
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    let gate = pod.closed(MINUTE);
    pod.set(&gate);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    pod.leave_gates();
    (pod, gate, connecting)
}

#[test]
fn only_a_bpf_file_system_is_one() {
    let directory = std::env::temp_dir();
    let error = bpf::require_bpffs(&directory).unwrap_err().to_string();
    assert!(error.contains("not a BPF file system"), "{error}");
    bpf::require_bpffs(&BpfFs::new().0).unwrap();
}

#[test]
fn one_agent_works_at_a_time_and_the_next_takes_over_when_it_ends() {
    let bpffs = BpfFs::new();
    let runtime = Runtime::new().unwrap();
    let first = claim(&bpffs.0);
    assert!(bpf::Claim::try_take(&bpffs.0).unwrap().is_none());
    let path = bpffs.0.clone();
    let second = runtime.spawn(async move {
        bpf::Place::take(Some(&path), Path::new("/sys")).await.unwrap().into_parts().0
    });
    // Whoever waits has a right to the directory by its name, not to one that is gone.
    first.remove().unwrap();
    let second = runtime.block_on(second).unwrap();
    assert!(bpffs.directory().is_dir());
    assert!(bpf::Claim::try_take(&bpffs.0).unwrap().is_none());
    drop(second);
    claim(&bpffs.0).remove().unwrap();
    assert!(!bpffs.directory().exists());
}

#[test]
fn a_gate_whose_hooks_have_no_names_has_none_and_says_so_to_a_sentry() {
    let bpffs = BpfFs::new();
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    let version = bpffs.directory().join(format!("v{ABI_VERSION}"));
    let links = version.join("links").join(pod.id().0.to_string());
    let in_the_way = links.join("holdfast_connect4");
    fs::create_dir_all(&in_the_way).unwrap();
    let gate = pod.closed(MINUTE);
    pod.set(&gate);
    let attached = |pod: &Pod| {
        let data = MapData::from_pin(version.join("maps/GATES")).unwrap();
        let gates: HashMap<_, u64, Gate> = HashMap::try_from(Map::HashMap(data)).unwrap();
        gates.get(&pod.id().0, 0).unwrap().attached
    };
    assert!(!links.join("holdfast_gate").exists());
    assert_eq!(attached(&pod), 0);
    // It holds all the same, while its agent lives.
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    assert!(connecting.is_waiting());
    fs::remove_dir(in_the_way).unwrap();
    pod.set(&SetGate { renews: true, ..gate });
    assert!(links.join("holdfast_gate").exists());
    assert_eq!(attached(&pod), 1);
}

#[test]
fn a_hold_goes_on_from_one_agent_to_the_next() {
    let bpffs = BpfFs::new();
    let (mut pod, gate, connecting) = left_with_a_hold(&bpffs);
    let GateSetting::Closed { since, deadline, .. } = gate.state else { unreachable!() };
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    // No agent is there, and the kernel holds on: the socket tries every 500 ms.
    thread::sleep(Duration::from_millis(1_200));
    assert!(connecting.is_waiting());

    let InheritedGate { state, waiting, reached } = pod.inherit(&options(), &bpffs.0).unwrap();
    let reason = CloseReason::Start;
    assert_eq!(state, InheritedState::Closed { reason, since, reached_before: Some(0), deadline });
    assert_eq!((waiting.len(), reached), (1, 1));
    assert_eq!(waiting[0].1.destination, proxy(Ipv4Addr::LOCALHOST));
    // Of what has been dropped the next agent's own count has only what was dropped since.
    let totals = pod.gates().totals();
    let dropped = pod.counts().dropped;
    assert!(dropped > 1 && totals.dropped < dropped, "{totals:?}");
    assert_eq!((totals.records, totals.datagrams), (1, 0));
    thread::sleep(Duration::from_millis(1_200));
    assert!(connecting.is_waiting() && pod.counts().dropped > dropped);
    assert!(pod.gates().totals().dropped > totals.dropped);

    pod.open();
    pod.replay();
    connecting.result().0.unwrap();
    // What the kernel had to tell while nobody read is told to the next.
    let kinds = pod.events(2);
    assert!(matches!(kinds[0], KernelEventKind::Held(_)), "{kinds:?}");
    assert_eq!(kinds[1], KernelEventKind::Connected);
    pod.detach();
    assert_eq!(fs::read_dir(bpffs.version().join("links")).unwrap().count(), 0);
}

#[test]
fn who_comes_before_the_next_agent_has_found_the_pod_is_known_to_it() {
    let bpffs = BpfFs::new();
    let (mut pod, _, _first) = left_with_a_hold(&bpffs);
    pod.load_next(&options(), &bpffs.0);
    let second = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    assert!(second.is_waiting());
    // Both reports are read by now, and belong to nobody.
    assert_eq!(pod.events(2).len(), 2);
    let id = pod.id();
    let InheritedGate { waiting, reached, .. } = pod.gates().inherit(id).unwrap();
    assert_eq!((waiting.len(), reached), (2, 2));
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    pod.open();
    second.result().0.unwrap();
}

#[test]
fn the_deadline_of_a_gate_that_nobody_works_is_the_kernels() {
    let bpffs = BpfFs::new();
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    let timeout = Duration::from_secs(2);
    pod.close(timeout);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    pod.leave_gates();
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    let (result, waited) = connecting.result();
    result.unwrap();
    assert!(waited >= timeout - Duration::from_millis(100), "{waited:?}");
    let state = pod.inherit(&options(), &bpffs.0).unwrap().state;
    assert!(matches!(state, InheritedState::Closed { .. }), "{state:?}");
}

#[test]
fn a_guarded_gate_guards_without_an_agent_and_for_the_next() {
    let bpffs = BpfFs::new();
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    let guarded = pod.gate(GateSetting::Guarded { budget: MINUTE });
    let guarded = SetGate { ports: vec![proxy(Ipv4Addr::LOCALHOST).port()], ..guarded };
    pod.set(&guarded);
    pod.leave_gates();
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    assert!(connecting.is_waiting());
    let inherited = pod.inherit(&options(), &bpffs.0).unwrap();
    assert_eq!(inherited.state, InheritedState::Guarded);
    assert_eq!(inherited.waiting.len(), 1);
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    connecting.result().0.unwrap();
}

#[test]
fn an_agent_that_drops_its_gates_leaves_no_link() {
    let bpffs = BpfFs::new();
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    pod.close(MINUTE);
    let links = bpffs.version().join("links").join(pod.id().to_string());
    assert_eq!(fs::read_dir(&links).unwrap().count(), 5);
    pod.detach();
    assert!(!links.exists());
    pod.close(MINUTE);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    pod.remove_gates();
    assert!(!bpffs.directory().exists());
    // With nobody there to listen.
    assert_eq!(connecting.error().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn what_was_left_for_a_pod_that_is_gone_is_forgotten() {
    let bpffs = BpfFs::new();
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    pod.close(MINUTE);
    pod.set_verdict(holdfast::core::Verdict::Pass);
    pod.leave_gates();
    // Nobody finds the pod any more.
    assert!(pod.inherit(&options(), &bpffs.0).is_some());
    pod.leave_gates();
    pod.load_next(&options(), &bpffs.0);
    pod.gates().forget_left(|_| false);
    assert_eq!(fs::read_dir(bpffs.version().join("links")).unwrap().count(), 0);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    assert_eq!(connecting.error().kind(), std::io::ErrorKind::ConnectionRefused);
    // Nor is the container one any more that passes.
    pod.close(MINUTE);
    assert!(pod.connect(proxy(Ipv4Addr::LOCALHOST)).is_waiting());
}

#[test]
fn a_gate_that_refuses_goes_on_refusing() {
    let bpffs = BpfFs::new();
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    let now = holdfast::clock::now();
    let refusing = pod.gate(GateSetting::Closed {
        reason: CloseReason::ProxyDied,
        since: now,
        reached_before: None,
        deadline: now,
        refuse_until: Some(now + MINUTE),
    });
    pod.set(&refusing);
    pod.leave_gates();
    let state = pod.inherit(&options(), &bpffs.0).unwrap().state;
    assert_eq!(state, InheritedState::Refusing { reason: CloseReason::ProxyDied });
}

#[test]
fn what_is_not_the_agents_own_is_not_used() {
    let bpffs = BpfFs::new();
    let elsewhere = std::env::temp_dir().join(format!("holdfast-elsewhere-{}", std::process::id()));
    fs::create_dir_all(elsewhere.join("kept")).unwrap();
    let directory = bpffs.directory();
    let refused = || bpf::Claim::try_take(&bpffs.0).unwrap_err().to_string();
    // Everybody can write to a BPF file system that was mounted without a mode.
    std::os::unix::fs::symlink(&elsewhere, &directory).unwrap();
    assert!(refused().contains("holdfast: "), "{}", refused());
    assert!(elsewhere.join("kept").is_dir());
    fs::remove_file(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused().contains("open to other users"), "{}", refused());
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&directory, Some(65_534), None).unwrap();
    assert!(refused().contains("not the agent's own"), "{}", refused());
    fs::remove_dir(&directory).unwrap();
    claim(&bpffs.0).remove().unwrap();
    fs::remove_dir_all(&elsewhere).unwrap();
}

#[test]
fn another_versions_gate_keeps_its_deadline_until_this_ones_own_is_there() {
    let bpffs = BpfFs::new();
    let (mut pod, gate, connecting) = left_with_a_hold(&bpffs);
    let GateSetting::Closed { since, deadline, .. } = gate.state else { unreachable!() };
    let other = bpffs.directory().join("v0");
    fs::rename(bpffs.version(), &other).unwrap();

    let InheritedGate { state, waiting, reached } = pod.inherit(&options(), &bpffs.0).unwrap();
    let reason = CloseReason::Start;
    assert_eq!(state, InheritedState::Closed { reason, since, reached_before: None, deadline });
    // Its tables are not to be read; so somebody waits.
    assert_eq!((waiting.len(), reached), (0, 0));
    assert!(connecting.is_waiting());
    pod.set(&gate);
    assert!(!other.join("links").join(pod.id().to_string()).exists());
    thread::sleep(Duration::from_millis(1_200));
    assert!(connecting.is_waiting());
    pod.gates().forget_left(|_| true);
    assert!(!other.exists());
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    pod.open();
    connecting.result().0.unwrap();
}

#[test]
fn what_another_version_has_held_keeps_its_pace_and_gets_its_own_number_of_tries_back() {
    /// `TCP_SYN_RETRIES` (include/net/tcp.h).
    const OWN_SYNCNT: libc::c_int = 6;
    let bpffs = BpfFs::new();
    let (mut pod, gate, connecting) = left_with_a_hold(&bpffs);
    // Two retransmissions, at 1 and 1.5 s: that version's programs have raised the number.
    thread::sleep(Duration::from_millis(1_700));
    fs::rename(bpffs.version(), bpffs.directory().join("v0")).unwrap();
    pod.inherit(&options(), &bpffs.0).unwrap();
    pod.set(&gate);
    // One every 500 ms. Backing off they would be 1, 2, 4, 8 and 16 s apart.
    let begun = Instant::now();
    while pod.counts().dropped < 6 {
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", pod.counts());
        thread::sleep(Duration::from_millis(50));
    }
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    pod.open();
    let stream = connecting.result().0.unwrap();
    assert_eq!(option(&stream, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 0), OWN_SYNCNT);
}

#[test]
fn the_tables_have_the_size_that_was_asked_for_once_no_gate_stands() {
    let bpffs = BpfFs::new();
    let size = |bpffs: &Path| {
        let pin = BpfFs::version_of(bpffs).join("maps/SOCKETS");
        aya::maps::MapInfo::from_pin(pin).unwrap().max_entries()
    };
    let small = || LoadOptions { max_sockets: 1_024, ..options() };
    let mut pod = Pod::under(&options(), Some(&bpffs.0));
    pod.close(MINUTE);
    pod.leave_gates();
    // A gate stands, and its table stays.
    assert!(pod.inherit(&small(), &bpffs.0).is_some());
    assert_eq!(size(&bpffs.0), options().max_sockets);
    pod.detach();
    pod.leave_gates();
    assert!(pod.inherit(&small(), &bpffs.0).is_none());
    assert_eq!(size(&bpffs.0), 1_024);
}
