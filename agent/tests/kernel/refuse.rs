//! Connects that fail instead of waiting.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use holdfast::{
    bpf::{self, KernelPart},
    clock,
    core::{CloseReason, GateSetting, KernelEventKind, Mode, RefuseErrno, SetGate, Verdict},
};

use crate::pod::{MINUTE, Pod, addresses, option, proxy};

/// What counts as at once.
const AT_ONCE: Duration = Duration::from_millis(500);

fn refusing(pod: &Pod, errno: RefuseErrno) -> SetGate {
    SetGate { mode: Mode::Refuse, errno, ..pod.closed(MINUTE) }
}

/// Whether connect() itself can fail.
fn can_choose() -> bool {
    !bpf::missing_parts().contains(&KernelPart::SetRetval)
}

#[test]
fn a_redirected_destination_is_refused_with_the_chosen_errno() {
    for (errno, expected) in
        [(RefuseErrno::Again, libc::EAGAIN), (RefuseErrno::TimedOut, libc::ETIMEDOUT)]
    {
        let mut pod = Pod::new();
        let gate = refusing(&pod, errno);
        pod.set(&gate);
        for address in addresses() {
            // That it is redirected shows with the first one.
            let (first, elapsed) = pod.connect(address).result();
            assert_eq!(first.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
            assert!(elapsed < AT_ONCE, "{elapsed:?}");
            let (second, elapsed) = pod.connect(address).result();
            let expected = if can_choose() { expected } else { libc::ECONNREFUSED };
            assert_eq!(second.unwrap_err().raw_os_error(), Some(expected), "{address}");
            assert!(elapsed < AT_ONCE, "{elapsed:?}");
            for kind in pod.events(2) {
                let KernelEventKind::Refused(caller) = kind else { panic!("{kind:?}") };
                assert_eq!((caller.destination, caller.query), (address, None));
                assert_eq!(caller.pid, Some(std::process::id()));
                assert_eq!(caller.container, Some(pod.container()));
            }
        }
        assert!(pod.is_silent());
        let counts = pod.counts();
        assert_eq!((counts.refused, counts.held, counts.dropped, counts.records), (6, 0, 0, 0));
    }
}

#[test]
fn a_destination_that_is_not_redirected_is_left_alone() {
    let mut pod = Pod::new();
    let gate = refusing(&pod, RefuseErrno::Again);
    pod.set(&gate);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 15021));
    let _listener = TcpListener::bind(address).unwrap();
    for _ in 0..2 {
        pod.connect(address).result().0.unwrap();
    }
    assert_eq!(pod.counts().refused, 0);
    assert!(pod.is_silent());
}

#[test]
fn a_proxy_that_listens_before_it_is_ready_does_not_get_the_connection() {
    let mut pod = Pod::new();
    let gate = refusing(&pod, RefuseErrno::ConnRefused);
    pod.set(&gate);
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = proxy(ip);
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let socket = pod.socket(address);
        let started = Instant::now();
        let error = pod.inside(|| socket.connect(&address.into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{address}");
        // One second to the first retransmission, half of one to the second.
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(3), "{address}: {elapsed:?}");
        let own: libc::c_int =
            option(&socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, libc::c_int::MAX);
        assert_eq!(own, 0, "{address}: its own timeout is back");
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(matches!(pod.events(1)[0], KernelEventKind::Refused(_)), "{address}");
        if can_choose() {
            let (again, elapsed) = pod.connect(address).result();
            assert_eq!(again.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert!(elapsed < AT_ONCE, "{elapsed:?}");
            assert!(matches!(pod.events(1)[0], KernelEventKind::Refused(_)), "{address}");
        }
        assert!(pod.is_silent(), "{address}");
    }
}

#[test]
fn those_who_pass_are_not_refused() {
    let mut pod = Pod::new();
    let gate = refusing(&pod, RefuseErrno::Again);
    pod.set(&gate);
    let address = proxy(Ipv4Addr::LOCALHOST);
    // From here on the destination is known as one that is redirected.
    let _: io::Error = pod.connect(address).error();
    let _listener = TcpListener::bind(address).unwrap();
    for verdict in [Verdict::Pass, Verdict::PassAndTell] {
        pod.set_verdict(verdict);
        pod.connect(address).result().0.unwrap();
    }
    assert_eq!(pod.counts().refused, 1);
}

#[test]
fn what_waited_in_vain_is_refused_at_the_deadline() {
    let mut pod = Pod::new();
    let now = clock::now();
    let timeout = Duration::from_secs(2);
    let state = GateSetting::Closed {
        reason: CloseReason::Start,
        since: now,
        reached_before: None,
        deadline: now + timeout,
        refuse_until: Some(now + MINUTE),
    };
    let gate = SetGate { errno: RefuseErrno::TimedOut, ..pod.gate(state) };
    pod.set(&gate);
    let address = proxy(Ipv4Addr::LOCALHOST);
    let (result, waited) = pod.connect(address).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= timeout - Duration::from_millis(60), "{waited:?}");
    let kinds = pod.events(2);
    assert!(matches!(kinds[0], KernelEventKind::Held(_)), "{kinds:?}");
    assert_eq!(kinds[1], KernelEventKind::Failed);
    // Further ones do not wait.
    let (result, waited) = pod.connect(address).result();
    let expected = if can_choose() { ErrorKind::TimedOut } else { ErrorKind::ConnectionRefused };
    assert_eq!(result.unwrap_err().kind(), expected);
    assert!(waited < AT_ONCE, "{waited:?}");
    assert_eq!((pod.counts().held, pod.counts().refused), (1, 2));
}
