//! The table of sockets: who called, where to.

use agent_ebpf::{Address, GateCounts, QueryKey, SocketRecord};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_SK_STORAGE_GET_F_CREATE},
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_get_netns_cookie, bpf_get_socket_cookie,
    },
    programs::{SkBuffContext, SockAddrContext},
};

use super::{
    maps::{COUNTS, DATAGRAMS, NO_RECORD, SOCKETS, hold_of},
    pod::Found,
    report,
    sock::IPPROTO_UDP,
};

/// Registers the socket of the current call, which wants to go to `asked`. Its storage is the mark
/// by which the programs that look after it know it. Returns whether there is a record now.
#[inline(always)]
pub(crate) fn register(
    ctx: &SockAddrContext,
    found: &Found,
    asked: Address,
    protocol: u32,
    now: u64,
) -> bool {
    // SAFETY: a context field, a socket pointer or null.
    let mark =
        unsafe { hold_of((*ctx.sock_addr).__bindgen_anon_1.sk, BPF_SK_STORAGE_GET_F_CREATE) };
    if mark.is_none() {
        // Its record would never be removed.
        return false;
    }
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let is_known = SOCKETS.get_ptr(cookie).is_some();
    // A UDP socket may have queries in store, which stay; a TCP socket begins anew.
    let keeps = is_known && protocol == IPPROTO_UDP;
    if !keeps && !make(found, cookie, is_known) {
        return false;
    }
    let Some(record) = SOCKETS.get_ptr_mut(cookie) else {
        return false;
    };
    // SAFETY: the pointer is live for this run. The agent reads no record of which nothing has been
    // dropped yet, and takes from an older one only what stays as it is.
    let record = unsafe { &mut *record };
    let caller = bpf_get_current_pid_tgid();
    record.pod = found.pod;
    record.container = found.container;
    // SAFETY: the context is the one the program was given (kernel 5.7).
    record.netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    record.connect_ns = now;
    record.pid = (caller >> 32) as u32;
    record.tid = caller as u32;
    record.uid = bpf_get_current_uid_gid() as u32;
    record.comm = bpf_get_current_comm().unwrap_or_default();
    record.asked = asked;
    record.protocol = protocol;
    true
}

/// Makes an empty record. Without a place for it the socket loses its replay and its name in the
/// log, never its hold.
#[inline(always)]
fn make(found: &Found, cookie: u64, is_known: bool) -> bool {
    let Some(counts) = COUNTS.get_ptr_mut(found.pod) else {
        return false;
    };
    // SAFETY: the pointer is live for this run. As a limit an old number does no harm; as a ledger, by
    // which the agent knows that a pod has no records (`SocketTable::may_have`), it is kept by atomic adds.
    let records = unsafe { (*counts).records };
    if !is_known && records >= u64::from(found.gate.socket_quota) {
        return false;
    }
    let Some(empty) = NO_RECORD.get(0) else {
        return false;
    };
    if SOCKETS.insert(cookie, empty, BPF_ANY.into()).is_err() {
        return false;
    }
    if !is_known {
        // SAFETY: as above.
        unsafe { report::add(&raw mut (*counts).records, 1) };
    }
    true
}

/// The record of the socket that sends this packet, if a hook has made one.
#[inline(always)]
pub(crate) fn of_packet(
    ctx: &SkBuffContext,
    pod: u64,
    protocol: u32,
) -> (u64, Option<&'static mut SocketRecord>) {
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the pointer is live for this run, and one socket's packets leave one at a time.
    let record = SOCKETS.get_ptr_mut(cookie).map(|record| unsafe { &mut *record });
    (cookie, record.filter(|record| record.pod == pod && record.protocol == protocol))
}

/// Removes a socket's record and gives its place in the pod's quota back.
#[inline(always)]
pub(crate) fn remove(cookie: u64, pod: u64) {
    if SOCKETS.remove(cookie).is_ok() {
        count(pod, |counts| &raw mut counts.records, -1);
    }
}

/// Removes one query and gives its place in the pod's quota back.
#[inline(always)]
pub(crate) fn remove_query(cookie: u64, id: u16, pod: u64) {
    if DATAGRAMS.remove(QueryKey { cookie, id: u64::from(id) }).is_ok() {
        count(pod, |counts| &raw mut counts.datagrams, -1);
    }
}

/// Adds to one of the pod's counters.
#[inline(always)]
pub(crate) fn count(pod: u64, which: impl Fn(&mut GateCounts) -> *mut u64, by: i64) {
    if let Some(counts) = COUNTS.get_ptr_mut(pod) {
        // SAFETY: a live map value.
        unsafe { report::add(which(&mut *counts), by) };
    }
}
