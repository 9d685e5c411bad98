//! `cgroup/sock_release`: a socket that goes takes its record and its queries with it.

use agent_ebpf::{EventKind, socket::MAX_QUERIES};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    programs::SockContext,
};

use super::{
    maps::{SOCKETS, hold_of},
    record, report,
    say::say,
    sock::IPPROTO_UDP,
};

pub(crate) fn forget<const LOUD: bool>(ctx: &SockContext) {
    // The hooks that make records mark their sockets. Through a guarded gate nearly all sockets are
    // unmarked, and have not even a cookie yet.
    // SAFETY: for this program type the context is the socket (`bpf_sk_storage_get_cg_sock_proto`).
    if unsafe { hold_of(ctx.as_ptr(), 0) }.is_none() {
        return;
    }
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    let Some(known) = (unsafe { SOCKETS.get(cookie) }) else {
        return;
    };
    let (pod, drops, protocol) = (known.pod, known.drops, known.protocol);
    say!(LOUD, Closed, pod, known.container, cookie, drops, 0_u8);
    if protocol == IPPROTO_UDP {
        for slot in 0..MAX_QUERIES {
            if slot as u64 >= known.query_count {
                break;
            }
            record::remove_query(cookie, known.queries[slot], pod);
        }
    }
    record::remove(cookie, pod);
    if drops > 0 {
        // A held socket that had connected has no record any more: this one gave up waiting.
        // SAFETY: the helper has no precondition.
        let now = unsafe { bpf_ktime_get_ns() };
        report::end(EventKind::Closed, cookie, pod, protocol, now);
    }
}
