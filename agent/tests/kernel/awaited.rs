//! Listeners that are waited for.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use holdfast::{
    bpf::{Awaited, KernelPart, missing_parts},
    core::NetnsCookie,
    netns::cookie_of,
};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use tokio::time::timeout;

use crate::pod::{MINUTE, PROXY_PORT, Pod, loopback_up, proxy};

/// For news that should come.
const SOON: Duration = Duration::from_secs(20);

/// For news that should not.
const QUIET: Duration = Duration::from_millis(300);

fn outbound() -> SocketAddr {
    proxy(Ipv4Addr::LOCALHOST)
}

/// That of the pod's network namespace, in which this thread is.
fn cookie() -> Option<NetnsCookie> {
    cookie_of(&Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap())
}

/// Waits at these ports for the pod's processes; `None` where the kernel tells of none.
fn wait_at(pod: &Pod, ports: &[u16]) -> Option<Awaited> {
    let lacks = missing_parts().contains(&KernelPart::SockOpsNetns);
    assert_eq!(pod.awaited_ports().is_none(), lacks);
    let awaited = pod.awaited_ports()?.wait_at(cookie().unwrap(), ports.iter().copied());
    awaited.ask().unwrap();
    Some(awaited)
}

fn comes(pod: &Pod, within: Duration, news: impl Future<Output = ()>) -> bool {
    pod.block_on(async { timeout(within, news).await.is_ok() })
}

fn listen(pod: &Pod, address: SocketAddr) -> TcpListener {
    pod.inside(|| TcpListener::bind(address).unwrap())
}

#[test]
fn who_begins_to_listen_is_told_of_once_each_time_it_is_asked_for() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let address = outbound();
    let Some(awaited) = wait_at(&pod, &[PROXY_PORT, 15021]) else { return };
    for _ in 0..2 {
        drop(listen(&pod, address));
        assert!(comes(&pod, SOON, awaited.arrived()));
        drop(listen(&pod, address));
        assert!(!comes(&pod, QUIET, awaited.arrived()), "told without being asked");
        awaited.ask().unwrap();
    }
    // The other port and the other family are no less.
    drop(listen(&pod, "[::1]:15021".parse().unwrap()));
    assert!(comes(&pod, SOON, awaited.arrived()));
}

#[test]
fn only_who_is_waited_for_is_told_of() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let Some(awaited) = wait_at(&pod, &[PROXY_PORT]) else { return };
    let _other_port = listen(&pod, "127.0.0.1:15002".parse().unwrap());
    // Another namespace's processes, of the same pod's cgroup.
    let elsewhere = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        loopback_up();
        TcpListener::bind(outbound()).unwrap()
    };
    let other_netns = pod.inside(|| thread::spawn(elsewhere).join().unwrap());
    assert!(!comes(&pod, QUIET, awaited.arrived()));
    drop(other_netns);
    drop(listen(&pod, outbound()));
    assert!(comes(&pod, SOON, awaited.arrived()));
}

#[test]
fn nobody_hears_of_a_port_that_is_waited_for_no_more_and_the_last_who_waits_hears_of_it() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let Some(first) = wait_at(&pod, &[PROXY_PORT]) else { return };
    let second = wait_at(&pod, &[PROXY_PORT]).unwrap();
    // As of a probe that was replaced: it ends after the new one has begun.
    drop(first);
    drop(listen(&pod, outbound()));
    assert!(comes(&pod, SOON, second.arrived()));
    second.ask().unwrap();
    drop(second);
    let third = pod.awaited_ports().unwrap().wait_at(cookie().unwrap(), [PROXY_PORT]);
    drop(listen(&pod, outbound()));
    assert!(!comes(&pod, QUIET, third.arrived()), "the question outlived who asked");
}
