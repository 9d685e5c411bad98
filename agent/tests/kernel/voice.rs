//! The programs that write debug lines: what they say, and that nothing else changes by them.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use agent_ebpf::note::{Detail, Note, NoteLine};
use caps::{CapSet, Capability};
use holdfast::{
    bpf::{BpfError, LoadOptions},
    core::{GateSetting, Mode, SetGate, Verdict},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::pod::{Connecting, MINUTE, Pod, proxy};

/// A moment in which a line would have come.
const A_WHILE: Duration = Duration::from_millis(700);

fn v4() -> SocketAddr {
    proxy(Ipv4Addr::LOCALHOST)
}

fn switch(pod: &mut Pod, on: bool) {
    let id = pod.id();
    if on {
        pod.gates().loud_programs().load().unwrap_or_else(|error| panic!("{error}"));
    }
    pod.gates().set_kernel_log(id, on).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pod.gates().has_kernel_log(id), on);
}

/// The programs that this process has loaded.
fn programs() -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    let targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.filter(|target| target == Path::new("anon_inode:bpf-prog")).count()
}

fn assert_of(line: &NoteLine, pod: &Pod) {
    assert_eq!((line.pod, line.container), (pod.id().0, pod.container().0), "{line:?}");
}

#[test]
fn a_hold_can_be_followed_line_by_line() {
    let mut pod = Pod::new();
    let silent = programs();
    pod.close(MINUTE);
    let first = pod.connect(v4());
    thread::sleep(A_WHILE);
    assert!(pod.lines.take().is_empty(), "nobody has asked");

    switch(&mut pod, true);
    assert_eq!(programs(), silent + 7);
    // The connect that waits goes on, and tells of it.
    let dropped = pod.lines.wait(Note::SynDropped);
    assert_of(&dropped, &pod);
    assert!(dropped.detail(Detail::Drops).unwrap() > 1, "{dropped:?}");
    assert_eq!(dropped.detail(Detail::Port), Some(u64::from(v4().port())));
    assert!(first.is_waiting());
    let second = pod.connect(v4());
    let seen = pod.lines.wait(Note::ConnectSeen);
    assert_of(&seen, &pod);
    assert_eq!(seen.detail(Detail::Recorded), Some(1));
    let listener = TcpListener::bind(v4()).unwrap();
    pod.open();
    pod.replay();
    for connecting in [first, second] {
        connecting.result().0.unwrap();
        let connected = pod.lines.wait(Note::Connected);
        assert_of(&connected, &pod);
        assert!(connected.detail(Detail::Drops).unwrap() > 0);
    }
    // Taken off and put on again, the gate still tells.
    pod.detach();
    pod.close(MINUTE);
    let third = pod.connect(v4());
    pod.lines.wait(Note::SynDropped);

    switch(&mut pod, false);
    assert_eq!(programs(), silent + 7, "whoever asks again need not wait for the verifier");
    thread::sleep(A_WHILE);
    pod.lines.take();
    thread::sleep(A_WHILE);
    assert!(pod.lines.take().is_empty());
    assert!(third.is_waiting());
    drop(listener);
}

#[test]
fn a_gate_holds_while_its_programs_are_exchanged() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    // Some that wait all the time, and one after the other that begins to.
    let mut waiting: Vec<Connecting> = (0..4).map(|_| pod.connect(v4())).collect();
    for round in 0..100 {
        switch(&mut pod, round % 2 == 0);
        if round % 10 == 0 {
            let socket = pod.socket(v4());
            pod.enter();
            waiting.push(Connecting::start(socket, v4()));
        }
    }
    thread::sleep(A_WHILE);
    pod.leave();
    assert!(waiting.iter().all(Connecting::is_waiting), "one was refused");
    assert_eq!(pod.counts().held, 14);
    let _listener = TcpListener::bind(v4()).unwrap();
    pod.open();
    for connecting in waiting {
        connecting.result().0.unwrap();
    }
}

#[test]
fn gates_work_while_the_programs_that_write_lines_are_loaded() {
    let mut pod = Pod::new();
    let loud = pod.gates().loud_programs();
    let loading: Vec<_> = (0..2)
        .map(|_| {
            let loud = loud.clone();
            thread::spawn(move || loud.load())
        })
        .collect();
    // None of this asks for what the threads have taken.
    let mut rounds = 0;
    while rounds == 0 || !loud.are_loaded() {
        pod.close(MINUTE);
        pod.open();
        pod.detach();
        rounds += 1;
    }
    for thread in loading {
        thread.join().unwrap().unwrap();
    }
    pod.close(MINUTE);
    let connecting = pod.connect(v4());
    switch(&mut pod, true);
    pod.lines.wait(Note::SynDropped);
    assert!(connecting.is_waiting());
}

#[test]
fn programs_that_are_refused_change_nothing() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let connecting = pod.connect(v4());
    let (id, silent) = (pod.id(), programs());
    // Of this thread alone.
    let lacking = [Capability::CAP_SYS_ADMIN, Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
    for capability in lacking {
        let _ = caps::drop(None, CapSet::Effective, capability);
    }
    let refused = pod.gates().loud_programs().load();
    for capability in lacking {
        let _ = caps::raise(None, CapSet::Effective, capability);
    }
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("loud_"), "{error}");
    let not_loaded = pod.gates().set_kernel_log(id, true).unwrap_err();
    assert!(matches!(not_loaded, BpfError::NotLoaded), "{not_loaded}");
    assert!(!pod.gates().has_kernel_log(id));
    assert_eq!(programs(), silent);
    assert!(connecting.is_waiting());
    assert!(pod.connect(v4()).is_waiting());
    // It was not the last word.
    switch(&mut pod, true);
    pod.lines.wait(Note::SynDropped);
}

#[test]
fn all_pods_tell_from_the_start_if_asked_and_one_can_be_silenced() {
    let mut pod = Pod::with(&LoadOptions { kernel_log: true, ..LoadOptions::default() });
    pod.close(MINUTE);
    let connecting = pod.connect(v4());
    pod.lines.wait(Note::SynDropped);
    switch(&mut pod, false);
    thread::sleep(A_WHILE);
    pod.lines.take();
    thread::sleep(A_WHILE);
    assert!(pod.lines.take().is_empty());
    let id = pod.id();
    pod.gates().reset_kernel_log(id).unwrap();
    pod.lines.wait(Note::SynDropped);
    assert!(connecting.is_waiting());
}

#[test]
fn the_next_agent_begins_silent() {
    let bpffs = std::env::temp_dir().join(format!("holdfast-voice-{}", std::process::id()));
    fs::create_dir_all(&bpffs).unwrap();
    let nothing: Option<&str> = None;
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), nothing).unwrap();
    let options = LoadOptions::default();
    {
        let mut pod = Pod::under(&options, Some(&bpffs));
        pod.close(MINUTE);
        let connecting = pod.connect(v4());
        switch(&mut pod, true);
        pod.lines.wait(Note::SynDropped);
        pod.leave_gates();
        assert!(pod.inherit(&options, &bpffs).is_some());
        let id = pod.id();
        assert!(!pod.gates().has_kernel_log(id));
        thread::sleep(A_WHILE);
        pod.lines.take();
        thread::sleep(A_WHILE);
        assert!(pod.lines.take().is_empty());
        assert!(connecting.is_waiting());
        // What was inherited can be told to speak, too.
        switch(&mut pod, true);
        pod.lines.wait(Note::SynDropped);
        pod.remove_gates();
    }
    umount2(&bpffs, MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir(&bpffs).unwrap();
}

#[test]
fn a_connect_that_passes_says_why() {
    let mut pod = Pod::new();
    switch(&mut pod, true);
    let closed = pod.closed(MINUTE);
    let refused = |pod: &Pod, to| {
        assert_eq!(pod.connect(to).error().kind(), ErrorKind::ConnectionRefused, "{to}");
    };

    pod.set(&closed);
    refused(&pod, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9));
    assert_of(&pod.lines.wait(Note::SynPassesOtherPort), &pod);
    let ended = pod.lines.wait(Note::NotConnected);
    assert_eq!(ended.detail(Detail::Drops), Some(0));

    pod.set_verdict(Verdict::Pass);
    refused(&pod, v4());
    assert_of(&pod.lines.wait(Note::ConnectPassesExempt), &pod);
    assert_of(&pod.lines.wait(Note::SynPassesExempt), &pod);
    pod.set_verdict(Verdict::Hold);

    pod.set(&SetGate { mode: Mode::Observe, ..closed.clone() });
    refused(&pod, v4());
    let observed = pod.lines.wait(Note::SynObserved);
    assert_eq!(observed.detail(Detail::Listens), Some(0));

    pod.set(&SetGate { mode: Mode::Refuse, ..closed });
    refused(&pod, v4());
    assert_of(&pod.lines.wait(Note::SynRefused), &pod);

    // The kernel opens a gate by itself.
    pod.close(Duration::ZERO);
    refused(&pod, v4());
    let passed = pod.lines.wait(Note::SynPassesOpen);
    assert_eq!(passed.detail(Detail::DeadlineOver), Some(1));
    pod.open();
    refused(&pod, v4());
    let passed = pod.lines.wait(Note::ConnectPassesOpen);
    assert_eq!(passed.detail(Detail::DeadlineOver), Some(0));
    pod.lines.wait(Note::SynPassesOpen);

    // A guarded gate holds for its budget where nobody listens.
    let budget = Duration::from_millis(600);
    let ports = vec![v4().port()];
    pod.set(&SetGate { ports, ..pod.gate(GateSetting::Guarded { budget }) });
    refused(&pod, v4());
    pod.lines.wait(Note::SynDropped);
    pod.lines.wait(Note::SynPassesTimeOver);
    let _listener = TcpListener::bind(v4()).unwrap();
    pod.connect(v4()).result().0.unwrap();
    pod.lines.wait(Note::ConnectPassesListens);
    pod.lines.wait(Note::SynPassesListens);
}

#[test]
fn a_query_says_what_becomes_of_it() {
    let mut pod = Pod::new();
    switch(&mut pod, true);
    let nameserver = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
    let listener = UdpSocket::bind(nameserver).unwrap();
    let resolver = pod.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let ask = |pod: &Pod, id: u8| {
        let mut message = [0; 31];
        message[1] = id;
        pod.inside(|| resolver.send_to(&message, nameserver).unwrap());
    };
    let gate = SetGate { dns_port: Some(53), ..pod.closed(MINUTE) };
    pod.set(&gate);
    ask(&pod, 1);
    assert_of(&pod.lines.wait(Note::AskerSeen), &pod);
    let dropped = pod.lines.wait(Note::QueryDropped);
    assert_of(&dropped, &pod);
    assert_eq!(dropped.detail(Detail::Query), Some(1));
    pod.set(&SetGate { mode: Mode::Observe, ..gate.clone() });
    ask(&pod, 2);
    pod.lines.wait(Note::QueryObserved);
    pod.set(&gate);
    pod.set_verdict(Verdict::Pass);
    ask(&pod, 3);
    pod.lines.wait(Note::AskerPasses);
    pod.lines.wait(Note::QueryPassesExempt);
    drop((resolver, listener));
    assert_of(&pod.lines.wait(Note::Closed), &pod);
}
