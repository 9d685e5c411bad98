//! Counting, and telling the agent.

use agent_ebpf::{Address, Event, EventKind, SocketRecord};

use super::maps::{COUNTS, EVENTS, EVENTS_LOST, SOCKETS};

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
pub(crate) fn end(kind: EventKind, cookie: u64, pod: u64, at_ns: u64) {
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
    });
}

/// Removes a socket's record and gives its place in the pod's quota back.
#[inline(always)]
pub(crate) fn remove_record(cookie: u64, pod: u64) {
    if SOCKETS.remove(cookie).is_ok()
        && let Some(counts) = COUNTS.get_ptr_mut(pod)
    {
        // SAFETY: a live map value.
        unsafe { add(&raw mut (*counts).records, -1) };
    }
}

/// Reports a first drop: what the connect hook recorded, or what the packet alone tells.
#[inline(always)]
pub(crate) fn held(record: Option<&SocketRecord>, fallback: Event) {
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
