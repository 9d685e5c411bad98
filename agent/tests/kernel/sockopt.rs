//! What becomes of the calls that the setsockopt hook sees.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use holdfast::core::{Mode, SetGate, Verdict};
use socket2::{Domain, Socket, Type};

use crate::pod::{MINUTE, Pod, option, set_option};

/// More than the page that the kernel hands to programs; iptables' tables are larger still.
const LARGE: usize = 8 * 1024;

fn recverr(socket: &Socket) -> io::Result<i32> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, &1_i32, size_of::<i32>())?;
    Ok(option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 7_i32))
}

fn socket(kind: Type) -> Socket {
    Socket::new(Domain::IPV4, kind, None).unwrap()
}

fn silencing(pod: &Pod) -> SetGate {
    SetGate { dns_port: Some(15053), ..pod.closed(MINUTE) }
}

#[test]
fn all_other_calls_go_on_untouched() {
    let mut pod = Pod::new();
    let gate = silencing(&pod);
    pod.set(&gate);
    pod.inside(|| {
        let stream = socket(Type::STREAM);
        let mut name = [0_u8; LARGE];
        name[..4].copy_from_slice(b"reno");
        set_option(&stream, libc::IPPROTO_TCP, libc::TCP_CONGESTION, &name, LARGE).unwrap();
        let set = option(&stream, libc::IPPROTO_TCP, libc::TCP_CONGESTION, [0_u8; 16]);
        assert_eq!(&set[..5], b"reno\0");
        // An error stays the kernel's own.
        name[..4].copy_from_slice(b"none");
        let error = set_option(&stream, libc::IPPROTO_TCP, libc::TCP_CONGESTION, &name, LARGE);
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        for len in [4, 4096] {
            let mut value = [0_u32; 1024];
            value[0] = 40;
            set_option(&stream, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &value, len).unwrap();
            assert_eq!(option(&stream, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 0_u32), 40);
        }
        assert_eq!(recverr(&stream).unwrap(), 1, "TCP's own use of the option");
    });
}

#[test]
fn a_resolver_does_not_hear_of_errors_while_its_queries_are_held() {
    let mut pod = Pod::new();
    let gate = silencing(&pod);
    pod.set(&gate);
    let six = || {
        let ip = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let socket = Socket::new(Domain::for_address((ip, 0).into()), Type::DGRAM, None).unwrap();
        let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
        set_option(&socket, level, name, &1_i32, size_of::<i32>()).unwrap();
        option(&socket, level, name, 7_i32)
    };
    assert_eq!(pod.inside(|| recverr(&socket(Type::DGRAM)).unwrap()), 0);
    assert_eq!(pod.inside(six), 0);
    // A byte is as good as an integer.
    let byte = pod.inside(|| {
        let socket = socket(Type::DGRAM);
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, &1_u8, 1).unwrap();
        option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 7_i32)
    });
    assert_eq!(byte, 0);
    // Outside of the pod the option works.
    assert_eq!(recverr(&socket(Type::DGRAM)).unwrap(), 1);
}

#[test]
fn an_option_that_was_set_before_can_be_taken_back() {
    let mut pod = Pod::new();
    let socket = pod.inside(|| socket(Type::DGRAM));
    assert_eq!(recverr(&socket).unwrap(), 1);
    let gate = silencing(&pod);
    pod.set(&gate);
    pod.inside(|| {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, &0_i32, size_of::<i32>()).unwrap();
    });
    assert_eq!(option(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 7_i32), 0);
}

#[test]
fn where_queries_are_not_held_the_option_works() {
    let mut pod = Pod::new();
    let gate = silencing(&pod);
    pod.set(&gate);
    let works = |pod: &Pod| pod.inside(|| recverr(&socket(Type::DGRAM)).unwrap()) == 1;
    pod.set_verdict(Verdict::Pass);
    assert!(works(&pod), "a container that passes");
    pod.set_verdict(Verdict::Hold);
    assert!(!works(&pod));
    for mode in [Mode::Observe, Mode::Refuse] {
        pod.set(&SetGate { mode, ..gate.clone() });
        assert!(works(&pod), "{mode:?}");
    }
    pod.set(&SetGate { mode: Mode::Retry, ..gate.clone() });
    assert!(!works(&pod));
    pod.set(&SetGate { dns_port: None, ..gate });
    assert!(works(&pod), "{} captures no DNS", Ipv4Addr::LOCALHOST);
    pod.detach();
    assert!(works(&pod));
}
