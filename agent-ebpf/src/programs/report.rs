//! Counting, and telling the agent.

use agent_ebpf::{Address, Event, EventKind, SocketRecord};

use super::maps::{EVENTS, EVENTS_LOST};

/// Adds to a counter in a map.
///
/// Inline assembly, because `core`'s `fetch_add` does not exist for the BPF target and would
/// return the old value, for which kernels before 5.12 have no instruction (`BPF_FETCH`).
///
/// # Safety
///
/// `counter` must point into a live map value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, by: i64) {
    // SAFETY: one atomic add to memory that is valid by contract.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {by}",
            counter = in(reg) counter,
            by = in(reg) by,
            options(nostack),
        );
    }
}

/// Sends one event; a full ring is counted.
#[inline(always)]
pub(crate) fn event(event: Event) {
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        entry.write(event);
        entry.submit(0);
    } else if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
        // SAFETY: a live element of a per-CPU array.
        unsafe { *lost += 1 };
    }
}

/// Reports the end of a hold.
#[inline(always)]
pub(crate) fn end(kind: EventKind, cookie: u64, pod: u64, protocol: u32, at_ns: u64) {
    event(Event {
        at_ns,
        cookie,
        pod,
        container: 0,
        connect_ns: 0,
        kind: kind as u32,
        pid: 0,
        uid: 0,
        comm: [0; 16],
        asked: Address { ip: [0; 16], port: 0, version: 0 },
        protocol,
        query: 0,
    });
}

/// A packet that the gate has something to say about.
pub(crate) struct Sent {
    pub(crate) at_ns: u64,
    /// When the first packet of its socket was dropped, if no hook saw the socket.
    pub(crate) first_ns: u64,
    pub(crate) cookie: u64,
    pub(crate) pod: u64,
    pub(crate) container: u64,
    /// Where the socket sends it, if no hook saw the socket.
    pub(crate) destination: Address,
    pub(crate) protocol: u32,
    /// The id of its DNS query.
    pub(crate) query: u16,
}

/// Reports a packet: with what a hook recorded, or with what the packet alone tells.
#[inline(always)]
pub(crate) fn packet(kind: EventKind, sent: &Sent, record: Option<&SocketRecord>) {
    let &Sent { at_ns, first_ns, cookie, pod, container, destination, protocol, query } = sent;
    let fallback = Event {
        at_ns,
        cookie,
        pod,
        container,
        connect_ns: first_ns,
        kind: kind as u32,
        pid: 0,
        uid: 0,
        comm: [0; 16],
        asked: destination,
        protocol,
        query: u32::from(query),
    };
    event(match record {
        Some(record) => Event {
            connect_ns: record.connect_ns,
            pid: record.pid,
            uid: record.uid,
            comm: record.comm,
            asked: record.asked,
            ..fallback
        },
        None => fallback,
    });
}
