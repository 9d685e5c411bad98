//! Listeners that are waited for.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use holdfast::{
    awaited::Awaited,
    bpf::{KernelPart, missing_parts},
    core::{NetnsCookie, Pace, PodUid, ReadyCheck},
    netns::{Entrance, own_cookie},
    readiness::{ProbeEvent, ProbeTarget, Prober},
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use tokio::{sync::mpsc, time::timeout};

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
    own_cookie().unwrap()
}

/// Waits at these ports for the pod's processes; `None` where the kernel tells of none.
fn wait_at(pod: &Pod, ports: &[u16]) -> Option<Awaited> {
    let lacks = missing_parts().contains(&KernelPart::SockOpsNetns);
    assert_eq!(pod.awaited_ports().is_none(), lacks);
    let awaited = pod.awaited_ports()?.wait_at(cookie().unwrap(), ports.iter().copied());
    awaited.ask().unwrap();
    Some(awaited)
}

fn comes(pod: &Pod, within: Duration, awaited: &Awaited) -> bool {
    pod.block_on(async {
        timeout(within, awaited.arrived()).await.is_ok_and(|ports| !ports.is_empty())
    })
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
        assert!(comes(&pod, SOON, &awaited));
        drop(listen(&pod, address));
        assert!(!comes(&pod, QUIET, &awaited), "told without being asked");
        awaited.ask().unwrap();
    }
    // The other port and the other family are no less.
    drop(listen(&pod, "[::1]:15021".parse().unwrap()));
    assert!(comes(&pod, SOON, &awaited));
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
    assert!(!comes(&pod, QUIET, &awaited));
    drop(other_netns);
    drop(listen(&pod, outbound()));
    assert!(comes(&pod, SOON, &awaited));
}

#[test]
fn the_last_who_waits_at_a_port_hears_of_it() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let Some(first) = wait_at(&pod, &[PROXY_PORT]) else { return };
    let second = wait_at(&pod, &[PROXY_PORT]).unwrap();
    // As of a probe that was replaced: it ends after the new one has begun.
    drop(first);
    drop(listen(&pod, outbound()));
    assert!(comes(&pod, SOON, &second));
}

/// How often a proxy is looked at that the agent has given up.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// From the start of a probe to the word that the proxy is ready, which begins to listen once it was
/// found not to.
fn found_after(pod: &Pod) -> Duration {
    let (events, mut probed) = mpsc::channel(16);
    let entrance = Entrance::start().unwrap();
    let ports = pod.awaited_ports().cloned();
    let mut prober = Prober::new(entrance, PathBuf::from("/proc"), 0, ports, events);
    let process = u32::try_from(gettid().as_raw()).unwrap();
    let begun = Instant::now();
    let target = ProbeTarget {
        uid: PodUid::new("awaited"),
        checks: vec![ReadyCheck::Http { port: PROXY_PORT, path: "/".to_owned() }],
        ports: vec![PROXY_PORT],
        any_port: false,
        pace: Pace::GivenUp,
        find_process: Arc::new(move || Ok(Some(process))),
    };
    let mut next = |wanted: fn(&ProbeEvent) -> bool| {
        pod.block_on(async {
            let found = async { while !wanted(&probed.recv().await.unwrap()) {} };
            timeout(SOON, found).await.expect("the probe tells in time");
        });
    };
    pod.block_on(async { prober.start(target) });
    next(|event| matches!(event, ProbeEvent::Finding(..)));
    let listener = listen(pod, outbound());
    // The kernels of the matrix do not tell who listens (no module of theirs is loaded): it is asked.
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // All of it, or the answer would be followed by a reset.
        let _request = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    next(|event| matches!(event, ProbeEvent::Ready(..)));
    begun.elapsed()
}

#[test]
fn a_proxy_that_begins_to_listen_is_looked_at_at_once() {
    let mut pod = Pod::new();
    pod.close(MINUTE);
    if pod.awaited_ports().is_none() {
        return;
    }
    // Where the machine stands still for so long the next round may have found it by itself.
    let at_once = (0..5).any(|_| found_after(&pod) < GIVEN_UP);
    assert!(at_once, "found by looking only");
}
