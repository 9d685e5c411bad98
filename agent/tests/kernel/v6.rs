//! IPv6 alone, on sockets that know nothing else. Beside IPv4 it is in most of the other tests.

use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use holdfast::core::{GateSetting, KernelEventKind, SetGate};
use socket2::{Domain, Socket, Type};

use crate::pod::{Connecting, MINUTE, Pod, proxy};

fn six() -> SocketAddr {
    proxy(Ipv6Addr::LOCALHOST)
}

fn socket(pod: &Pod, kind: Type) -> Socket {
    pod.inside(|| {
        let socket = Socket::new(Domain::IPV6, kind, None).unwrap();
        socket.set_only_v6(true).unwrap();
        socket
    })
}

fn connect(pod: &Pod) -> Connecting {
    let socket = socket(pod, Type::STREAM);
    pod.inside(|| {
        let connecting = Connecting::start(socket, six());
        thread::sleep(Duration::from_millis(50));
        connecting
    })
}

#[test]
fn a_connect_is_held_replayed_and_given_up_at_the_deadline() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let connecting = connect(&pod);
    assert!(connecting.is_waiting());
    let listener = TcpListener::bind(six()).unwrap();
    pod.open();
    pod.replay();
    let stream = connecting.result().0.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), six());
    let kinds = pod.events(2);
    let KernelEventKind::Held(caller) = &kinds[0] else { panic!("{kinds:?}") };
    assert_eq!(caller.destination, six());
    assert_eq!(kinds[1], KernelEventKind::Connected);
    drop((listener, stream));

    let timeout = Duration::from_secs(2);
    pod.close(timeout);
    let (result, waited) = connect(&pod).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= timeout - Duration::from_millis(60), "{waited:?}");
}

#[test]
fn without_a_listener_the_guard_holds() {
    let mut pod = Pod::new();
    let gate = pod.gate(GateSetting::Guarded { budget: MINUTE });
    pod.set(&SetGate { ports: vec![six().port()], ..gate });
    let connecting = connect(&pod);
    assert!(connecting.is_waiting());
    let _listener = TcpListener::bind(six()).unwrap();
    pod.replay();
    connecting.result().0.unwrap();
}

#[test]
fn a_query_is_held_and_replayed() {
    let mut pod = Pod::new();
    let gate = SetGate { dns_port: Some(six().port()), ..pod.closed(MINUTE) };
    pod.set(&gate);
    // A message with an id, no question in it.
    let question = [[0, 7].as_slice(), &[0; 29]].concat();
    let resolver = socket(&pod, Type::DGRAM);
    pod.inside(|| resolver.send_to(&question, &six().into()).unwrap());
    let nameserver = UdpSocket::bind(six()).unwrap();
    nameserver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = [0; 64];
    assert_eq!(nameserver.recv(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    pod.open();
    pod.replay();
    nameserver.set_read_timeout(Some(MINUTE)).unwrap();
    let len = nameserver.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..len], question);
}
