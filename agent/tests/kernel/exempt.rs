//! Who passes a closed gate, and what is noticed of it.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    thread,
};

use holdfast::core::{KernelEventKind, Mode, Verdict};
use socket2::{Domain, Socket, Type};

use crate::pod::{Connecting, MINUTE, Pod, addresses, proxy};

/// The user of Istio's proxy.
const PROXY_UID: u32 = 1337;

/// Somewhere else: addresses of the loopback interface that are not loopback addresses.
const ELSEWHERE: [&str; 2] = ["10.9.9.9", "fd00:9::9"];

#[test]
fn only_the_named_loopback_ports_are_held() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let error = pod.connect(SocketAddr::new(ip, 15021)).error();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    // The other of the two named ports.
    assert!(pod.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))).is_waiting());
    assert_eq!(pod.counts().held, 1);
}

#[test]
fn a_container_that_may_pass_is_not_held() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    pod.set_verdict(Verdict::Pass);
    let error = pod.connect(proxy(Ipv4Addr::LOCALHOST)).error();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(pod.is_silent());
    pod.set_verdict(Verdict::Hold);
    assert!(pod.connect(proxy(Ipv4Addr::LOCALHOST)).is_waiting());
}

#[test]
fn an_init_container_passes_and_is_reported_once() {
    let mut pod = Pod::new();
    for address in addresses() {
        pod.close(MINUTE);
        pod.set_verdict(Verdict::PassAndTell);
        for _ in 0..2 {
            let error = pod.connect(address).error();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
        }
        let KernelEventKind::InitPassed(caller) = pod.events(1).remove(0) else {
            panic!("not reported: {address}")
        };
        assert_eq!(caller.destination, address);
        assert_eq!(caller.pid, Some(std::process::id()));
        assert_eq!(caller.container, Some(pod.container()));
        assert!(pod.is_silent(), "{address}");
        assert_eq!(pod.counts().held, 0);
        pod.detach();
    }
}

#[test]
fn the_proxys_user_is_never_held() {
    let mut pod = Pod::new();
    let mut gate = pod.closed(MINUTE);
    gate.proxy_uid = Some(PROXY_UID);
    pod.set(&gate);
    for address in addresses() {
        let result = pod.inside(|| {
            thread::spawn(move || {
                // The system call itself, which is about this thread alone.
                // SAFETY: takes plain numbers; -1 leaves an id as it is.
                let ret = unsafe { libc::syscall(libc::SYS_setresuid, -1, PROXY_UID, -1) };
                assert_eq!(ret, 0, "{}", io::Error::last_os_error());
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
                socket.unwrap().connect(&address.into())
            })
            .join()
            .unwrap()
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
        assert!(pod.connect(address).is_waiting(), "{address}: anybody else is held");
    }
    assert_eq!(pod.counts().held, 3);
}

#[test]
fn what_is_only_observed_passes_and_is_reported() {
    let mut pod = Pod::new();
    let mut gate = pod.closed(MINUTE);
    gate.mode = Mode::Observe;
    pod.set(&gate);
    for address in addresses() {
        let error = pod.connect(address).error();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
        let listener = TcpListener::bind(address).unwrap();
        let stream = pod.connect(address).result().0.unwrap();
        // The first has found nobody.
        for (kind, expected) in pod.events(2).into_iter().zip([true, false]) {
            let KernelEventKind::Observed { caller, refused } = kind else { panic!("{kind:?}") };
            assert_eq!(refused, expected, "{address}");
            assert_eq!(caller.destination, address);
            assert_eq!(caller.pid, Some(std::process::id()));
        }
        drop((listener, stream));
        assert!(pod.is_silent(), "{address}: nothing ends that was not held");
    }
    let counts = pod.counts();
    assert_eq!((counts.observed, counts.held, counts.dropped, counts.records), (6, 0, 0, 0));
}

#[test]
fn connects_that_nothing_redirects_are_counted() {
    let mut pod = Pod::new();
    let elsewhere = ELSEWHERE.map(|ip| SocketAddr::new(ip.parse().unwrap(), 80));
    add_to_loopback(elsewhere);
    pod.close(MINUTE);
    for address in elsewhere {
        let error = pod.connect(address).error();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
    assert_eq!((pod.counts().around, pod.counts().held), (2, 0));

    // Those who are not to be held are nobody's business.
    pod.set_verdict(Verdict::Pass);
    for address in elsewhere {
        let _: io::Error = pod.connect(address).error();
    }
    assert_eq!(pod.counts().around, 2);
    // Neither is a guarded gate's traffic, nor an open one's.
    pod.set_verdict(Verdict::Hold);
    pod.open();
    let _: io::Error = pod.connect(elsewhere[0]).error();
    assert_eq!(pod.counts().around, 2);
}

#[test]
fn a_socket_that_no_hook_saw_is_held_all_the_same() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let address = proxy(Ipv4Addr::LOCALHOST);
    // Made in the container, connected from outside of the pod.
    let connecting = Connecting::start(pod.socket(address), address);
    let KernelEventKind::Held(caller) = pod.events(1).remove(0) else { panic!("not held") };
    assert_eq!((caller.pid, caller.destination), (None, address));
    assert_eq!(pod.counts().records, 0);
    let _listener = TcpListener::bind(address).unwrap();
    pod.open();
    connecting.result().0.unwrap();
}

/// Gives the loopback interface further addresses.
fn add_to_loopback(addresses: [SocketAddr; 2]) {
    /// `struct in6_ifreq` (include/uapi/linux/ipv6.h).
    #[repr(C)]
    struct In6Request {
        address: [u8; 16],
        prefix_len: u32,
        index: libc::c_int,
    }

    for address in addresses {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
        let ret = match address.ip() {
            IpAddr::V4(ip) => {
                // SAFETY: an all-zero ifreq is a valid one.
                let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
                for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo:1") {
                    *slot = byte.cast_signed();
                }
                let family = libc::AF_INET as u16;
                let mut data = [0; 14];
                for (slot, byte) in data[2..].iter_mut().zip(ip.octets()) {
                    *slot = byte.cast_signed();
                }
                request.ifr_ifru.ifru_addr = libc::sockaddr { sa_family: family, sa_data: data };
                // SAFETY: the request is live, names an interface and carries an address.
                unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &raw mut request) }
            }
            IpAddr::V6(ip) => {
                // The loopback interface is a namespace's first.
                let mut request = In6Request { address: ip.octets(), prefix_len: 128, index: 1 };
                // SAFETY: as above.
                unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &raw mut request) }
            }
        };
        assert_eq!(ret, 0, "{address}: {}", io::Error::last_os_error());
    }
}
