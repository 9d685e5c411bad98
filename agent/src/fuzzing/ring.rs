//! Records of the event ring: another version's programs may write to a ring that this one reads.

use std::net::SocketAddr;

use agent_ebpf::{Address, Event, EventKind};

use crate::{
    bpf::decode,
    core::{Caller, KernelEventKind, Monotonic, SocketCookie},
};

/// A command name of 15 bytes, each of them at most one character.
const MAX_COMM: usize = 16;

pub(super) fn run(data: &[u8]) {
    let decoded = decode(data);
    // Where the record stands in memory does not count.
    let mut moved = vec![0];
    moved.extend_from_slice(data);
    assert_eq!(decode(&moved[1..]), decoded);
    let Some(event) = decoded else { return };
    assert_eq!(data.len(), size_of::<Event>());
    let word =
        |at: usize| data[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    assert_eq!((event.at, event.cookie), (Monotonic(word(0)), SocketCookie(word(8))));
    match event.kind {
        KernelEventKind::Held(caller)
        | KernelEventKind::Refused(caller)
        | KernelEventKind::Observed { caller, .. }
        | KernelEventKind::InitPassed(caller) => assert_caller(&caller),
        KernelEventKind::Connected | KernelEventKind::Closed | KernelEventKind::Failed => {}
    }
}

fn assert_caller(caller: &Caller) {
    let Caller { container, pid, uid: _, comm, destination, connect_at: _, query } = caller;
    super::assert_one_line(comm);
    assert!(comm.chars().count() <= MAX_COMM, "{comm:?}");
    assert!(container.is_none_or(|cgroup| cgroup.0 != 0) && *pid != Some(0));
    assert!(query.is_none_or(|id| id.0 <= u64::from(u32::MAX)));
    let text = destination.to_string();
    assert_eq!(text.parse::<SocketAddr>().ok(), Some(*destination));
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let (mut comm, mut ip) = ([0; 16], [0; 16]);
    comm[..4].copy_from_slice(b"cart");
    ip[..4].copy_from_slice(&[10, 96, 0, 10]);
    let event = Event {
        at_ns: 5_000_000_000,
        cookie: 6,
        pod: 7,
        container: 8,
        connect_ns: 4_000_000_000,
        kind: EventKind::Held as u32,
        pid: 9,
        uid: 1000,
        comm,
        asked: Address { ip, port: 8080, version: 4 },
        protocol: libc::IPPROTO_TCP.unsigned_abs(),
        query: 0,
    };
    let query = Event {
        kind: EventKind::Observed as u32,
        protocol: libc::IPPROTO_UDP.unsigned_abs(),
        query: 0xbeef,
        ..event
    };
    let six = Event {
        kind: EventKind::InitPassed as u32,
        asked: Address { version: 6, ..event.asked },
        ..event
    };
    let ended = Event { kind: EventKind::Closed as u32, ..event };
    [event, query, six, ended].map(|event| bytemuck::bytes_of(&event).to_vec()).into()
}
