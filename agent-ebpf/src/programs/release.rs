//! `cgroup/sock_release`: a socket that goes takes its record with it.

use agent_ebpf::EventKind;
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    programs::SockContext,
};

use super::{maps::SOCKETS, report};

pub(crate) fn forget(ctx: &SockContext) {
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    let Some((pod, drops)) =
        (unsafe { SOCKETS.get(cookie) }).map(|record| (record.pod, record.drops))
    else {
        return;
    };
    report::remove_record(cookie, pod);
    if drops > 0 {
        // A held socket that had connected has no record any more: this one gave up waiting.
        // SAFETY: the helper has no precondition.
        report::end(EventKind::Closed, cookie, pod, unsafe { bpf_ktime_get_ns() });
    }
}
