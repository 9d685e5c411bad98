//! The sentry: what minds pods that start while no agent lives.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use agent_ebpf::pacing::DEFAULT_SYN_RETRIES;
use holdfast::{
    bpf::{LoadOptions, Posting, Sentry, take_down_sentries},
    core::{CgroupId, KernelEventKind},
};
use socket2::{Domain, Socket, Type};

use crate::{
    bpffs::BpfFs,
    pod::{
        Connecting, MINUTE, PROXY_PORT, Pod, addresses, kernel_is_at_least, proxy, tries, wait_for,
    },
};

/// A pod that no agent has taken up, and the sentry that its agent has prepared before it ended.
fn orphan(bpffs: &BpfFs, longest: Duration) -> (Pod, Sentry) {
    let mut pod = Pod::under(&LoadOptions::default(), Some(&bpffs.0));
    let mut sentry = Sentry::open(&bpffs.0).unwrap().expect("an agent has been there");
    sentry.brief(&[PROXY_PORT], longest).unwrap();
    sentry.set_taken_up(CgroupId(pod.id().0 - 1)).unwrap();
    pod.leave_gates();
    (pod, sentry)
}

fn post(sentry: &mut Sentry, pod: &Pod) {
    let posting = sentry.post(&pod.kubepods(), MINUTE).unwrap();
    assert!(matches!(posting, Posting::Posted { .. }), "{posting:?}");
}

/// Nobody listens there, and the sentry does not mind.
fn assert_refused(pod: &Pod, sentry: &Sentry, address: SocketAddr) {
    let held = sentry.held().unwrap();
    assert_eq!(pod.connect(address).error().kind(), ErrorKind::ConnectionRefused, "{address}");
    assert_eq!(sentry.held().unwrap(), held, "{address}: it was held before");
}

/// The same, of a sentry that has been taken off: the kernel lets go of a link some time after its name.
fn assert_let_go(pod: &Pod, sentry: &Sentry, address: SocketAddr) {
    wait_for("connects are held still", || {
        let held = sentry.held().unwrap();
        assert_eq!(pod.connect(address).error().kind(), ErrorKind::ConnectionRefused, "{address}");
        sentry.held().unwrap() == held
    });
}

#[test]
fn a_connect_waits_until_somebody_listens() {
    let bpffs = BpfFs::new();
    let (pod, mut sentry) = orphan(&bpffs, MINUTE);
    assert_refused(&pod, &sentry, proxy(Ipv4Addr::LOCALHOST));
    post(&mut sentry, &pod);
    for address in addresses() {
        let connecting = pod.connect(address);
        // Past what the default number of tries would have borne.
        thread::sleep(Duration::from_millis(4_600));
        assert!(connecting.is_waiting(), "{address}");
        let listener = TcpListener::bind(address).unwrap();
        let stream = connecting.result().0.unwrap();
        if kernel_is_at_least(6, 1) {
            assert_eq!(
                tries(&stream),
                DEFAULT_SYN_RETRIES,
                "{address}: its own number of tries is back"
            );
        }
        // Who listens is connected to at once.
        let held = sentry.held().unwrap();
        pod.connect(address).result().0.unwrap();
        assert_eq!(sentry.held().unwrap(), held, "{address}");
        drop(listener);
    }
    assert_eq!(sentry.relieve().unwrap(), Some(3));
    assert!(!sentry.is_posted());
    assert_refused(&pod, &sentry, proxy(Ipv4Addr::LOCALHOST));
    assert_eq!(sentry.relieve().unwrap(), None);
}

#[test]
fn a_pod_waits_no_longer_than_the_agent_has_said_however_many_connects_it_makes() {
    let bpffs = BpfFs::new();
    let budget = Duration::from_secs(3);
    let (pod, mut sentry) = orphan(&bpffs, budget);
    post(&mut sentry, &pod);
    let address = proxy(Ipv4Addr::LOCALHOST);
    let first = pod.connect(address);
    thread::sleep(Duration::from_millis(1_200));
    let second = pod.connect(address);
    let (result, waited) = first.result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= budget - Duration::from_millis(60), "{waited:?}");
    assert!(waited < MINUTE / 2, "the budget was said, not the posting's minute: {waited:?}");
    assert_eq!(second.error().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(sentry.held().unwrap(), 2);
    // Its time is over, for whatever it does next: an init container whose connects fail one after
    // another does not wait for each.
    assert_refused(&pod, &sentry, address);
    assert!(sentry.is_posted());
}

#[test]
fn who_waits_when_it_is_relieved_gets_its_own_number_of_tries_back() {
    let bpffs = BpfFs::new();
    let (pod, mut sentry) = orphan(&bpffs, MINUTE);
    post(&mut sentry, &pod);
    for address in addresses() {
        let socket = pod.socket(address);
        let seen = socket.try_clone().unwrap();
        let connecting = pod.inside(|| Connecting::start(socket, address));
        wait_for("it has more tries", || tries(&seen) != DEFAULT_SYN_RETRIES);
        assert_eq!(sentry.relieve().unwrap(), Some(1));
        assert!(!sentry.is_posted() && sentry.is_there());
        assert_eq!(connecting.error().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(tries(&seen), DEFAULT_SYN_RETRIES, "{address}");
        // Posted again before it has settled, it goes on with what is still there.
        post(&mut sentry, &pod);
        assert!(sentry.is_posted());
    }
    sentry.relieve().unwrap();
    sentry.settle();
    assert!(!sentry.is_there());
}

#[test]
fn sockets_that_were_there_before_the_sentry_wait_too() {
    let bpffs = BpfFs::new();
    // With flat answers alone the default tries would end after 4 s (6 s from Linux 6.5 on).
    let budget = Duration::from_secs(8);
    let (pod, mut sentry) = orphan(&bpffs, budget);
    post(&mut sentry, &pod);
    let address = proxy(Ipv4Addr::LOCALHOST);
    // From outside, so that the connect hook does not see it.
    let (result, waited) = Connecting::start(pod.socket(address), address).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{waited:?}");
    assert!(waited >= budget - Duration::from_millis(60), "{waited:?}");
}

#[test]
fn the_kernel_relieves_it_and_nobody_prolongs_its_time() {
    let bpffs = BpfFs::new();
    let (pod, mut sentry) = orphan(&bpffs, MINUTE);
    let longest = Duration::from_secs(3);
    let Posting::Posted { until } = sentry.post(&pod.kubepods(), longest).unwrap() else {
        panic!("it was not posted before");
    };
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    assert_eq!(sentry.post(&pod.kubepods(), MINUTE).unwrap(), Posting::Stands);
    assert_eq!(sentry.until().unwrap(), Some(until));
    let (result, waited) = connecting.result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited < MINUTE / 2, "each socket might wait for a minute: {waited:?}");
    assert!(holdfast::clock::now() >= until);
    assert_refused(&pod, &sentry, proxy(Ipv4Addr::LOCALHOST));
    // Others may wait still for the retransmission that gives them their tries back.
    let settled = until + Sentry::SETTLE;
    thread::sleep(settled.since(holdfast::clock::now()));
    assert_eq!(sentry.post(&pod.kubepods(), MINUTE).unwrap(), Posting::Over);
    sentry.take_down();
    assert!(!sentry.is_there());
    assert_eq!(sentry.post(&pod.kubepods(), MINUTE).unwrap(), Posting::Over);
    // Once an agent has worked it may be posted again.
    assert_eq!(sentry.relieve().unwrap(), Some(1));
    post(&mut sentry, &pod);
    assert!(pod.connect(proxy(Ipv4Addr::LOCALHOST)).is_waiting());
}

#[test]
fn a_pod_that_an_agent_has_taken_up_is_none_of_its_business() {
    let bpffs = BpfFs::new();
    let (pod, mut sentry) = orphan(&bpffs, MINUTE);
    post(&mut sentry, &pod);
    sentry.set_taken_up(pod.id()).unwrap();
    assert_eq!(sentry.taken_up().unwrap(), pod.id());
    assert_refused(&pod, &sentry, proxy(Ipv4Addr::LOCALHOST));
    assert_eq!(sentry.relieve().unwrap(), Some(0));
}

#[test]
fn other_ports_and_sockets_of_no_pod_are_none_either() {
    let bpffs = BpfFs::new();
    let (pod, mut sentry) = orphan(&bpffs, MINUTE);
    post(&mut sentry, &pod);
    assert_refused(&pod, &sentry, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PROXY_PORT + 1));
    let address = proxy(Ipv4Addr::LOCALHOST);
    let outside = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let error = Connecting::start(outside, address).error();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(sentry.relieve().unwrap(), Some(0));
}

#[test]
fn the_sentry_of_another_version_stands_until_an_agent_relieves_it() {
    let bpffs = BpfFs::new();
    let (mut pod, mut old) = orphan(&bpffs, MINUTE);
    post(&mut old, &pod);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let own = bpffs.version();
    let mut aside = own.clone().into_os_string();
    aside.push("_0");
    fs::rename(&own, &aside).unwrap();
    pod.load_next(&LoadOptions::default(), &bpffs.0);
    // No gate stands in the other directory; but a sentry does.
    pod.gates().forget_left(|_| true);
    thread::sleep(Duration::from_millis(1_200));
    assert!(connecting.is_waiting());
    let mut sentry = Sentry::open(&bpffs.0).unwrap().expect("an agent works");
    assert!(!sentry.is_posted() && sentry.is_posted_elsewhere());
    assert_eq!(sentry.relieve().unwrap(), None);
    assert_eq!(connecting.error().kind(), ErrorKind::ConnectionRefused);
    sentry.settle();
    assert!(!sentry.is_posted_elsewhere());
    assert_eq!(bpffs.version(), own, "nothing is left of the other");
}

#[test]
fn sentries_that_cannot_be_opened_are_taken_down_all_the_same() {
    let bpffs = BpfFs::new();
    let (pod, mut sentry) = orphan(&bpffs, MINUTE);
    post(&mut sentry, &pod);
    fs::remove_file(bpffs.version().join("maps/POST")).unwrap();
    Sentry::open(&bpffs.0).unwrap_err();
    assert!(sentry.is_posted());
    take_down_sentries(&bpffs.0);
    assert!(!sentry.is_there());
    assert_let_go(&pod, &sentry, proxy(Ipv4Addr::LOCALHOST));
}

#[test]
fn an_agent_that_finds_maps_of_another_layout_leaves_no_program_of_theirs() {
    let bpffs = BpfFs::new();
    let (mut pod, _) = orphan(&bpffs, MINUTE);
    let programs = bpffs.version().join("programs");
    // Only the removal of the old ones takes this name away.
    let old = programs.join("old");
    fs::hard_link(programs.join("holdfast_sentry_gate"), &old).unwrap();
    pod.load_next(&LoadOptions::default(), &bpffs.0);
    pod.leave_gates();
    assert!(old.exists(), "these fit");
    fs::remove_file(bpffs.version().join("maps/POST")).unwrap();
    pod.load_next(&LoadOptions::default(), &bpffs.0);
    assert!(!old.exists());
    assert!(programs.join("holdfast_sentry_gate").exists());
}

#[test]
fn a_pod_with_a_gate_is_left_to_it() {
    let bpffs = BpfFs::new();
    let (mut pod, mut sentry) = orphan(&bpffs, MINUTE);
    pod.load_next(&LoadOptions::default(), &bpffs.0);
    pod.close(MINUTE);
    post(&mut sentry, &pod);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    thread::sleep(Duration::from_millis(1_200));
    assert!(connecting.is_waiting());
    assert_eq!(pod.counts().held, 1);
    pod.open();
    assert_eq!(connecting.error().kind(), ErrorKind::ConnectionRefused);
    assert_refused(&pod, &sentry, proxy(Ipv4Addr::LOCALHOST));
    assert_eq!(sentry.relieve().unwrap(), Some(0));
}

#[test]
fn what_waits_at_the_sentry_goes_on_waiting_at_the_gate_and_its_time_goes_on() {
    let bpffs = BpfFs::new();
    let (mut pod, mut sentry) = orphan(&bpffs, MINUTE);
    post(&mut sentry, &pod);
    // However long the verifier takes on a busy machine, it is not a part of the wait.
    pod.load_next(&LoadOptions::default(), &bpffs.0);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let before = Duration::from_millis(2_500);
    thread::sleep(before);
    let timeout = Duration::from_secs(8);
    pod.close(timeout);
    assert_eq!(sentry.relieve().unwrap(), Some(1));
    // The gate tells of it, though no hook of its own has seen it.
    let held = pod.events(1).remove(0);
    let KernelEventKind::Held(caller) = held else { panic!("{held:?}") };
    let known = holdfast::clock::now().since(caller.connect_at);
    assert!(known >= before, "it has waited for {known:?}");
    let (result, waited) = connecting.result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= timeout - Duration::from_millis(60), "{waited:?}");
    let failed = pod.timed_events(1).remove(0);
    assert_eq!(failed.kind, KernelEventKind::Failed);
    // Both by the kernel's clock.
    let waited = failed.at.since(caller.connect_at);
    assert!(
        waited < timeout + Duration::from_secs(1),
        "its time has begun at the sentry: {waited:?}"
    );
    assert_eq!(pod.counts().held, 1);
}
