//! `cgroup/connect4` and `cgroup/connect6`: who connects, and where to.
//!
//! These hooks cannot wait (a program may not sleep, and returning 0 is EPERM to the caller). They
//! register the socket as a candidate; the gate decides by the packet.

use agent_ebpf::{Address, SocketRecord, StoredSyn};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, bpf_sock_addr},
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns,
    },
    programs::SockAddrContext,
};

use super::{
    maps::{COUNTS, SOCKETS},
    pod,
};

const SOCK_STREAM: u32 = 1;

/// `user_port` holds the port in network byte order in its lower half.
#[inline(always)]
fn host_port(ctx: *const bpf_sock_addr) -> u16 {
    // SAFETY: a context field, read at its own offset.
    u16::from_be(unsafe { (*ctx).user_port } as u16)
}

pub(crate) fn register_v4(ctx: &SockAddrContext) {
    let addr = ctx.sock_addr;
    let mut ip = [0; 16];
    // SAFETY: a context field, read at its own offset.
    let ip4 = unsafe { (*addr).user_ip4 }.to_ne_bytes();
    ip[..4].copy_from_slice(&ip4);
    register(ctx, Address { ip, port: host_port(addr), version: 4 });
}

pub(crate) fn register_v6(ctx: &SockAddrContext) {
    let addr = ctx.sock_addr;
    let mut ip = [0; 16];
    for word in 0..4 {
        // SAFETY: context fields; the verifier takes them one word at a time only, and volatile
        // reads keep the compiler from joining them.
        let value = unsafe { core::ptr::addr_of!((*addr).user_ip6[word]).read_volatile() };
        ip[word * 4..word * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    register(ctx, Address { ip, port: host_port(addr), version: 6 });
}

#[inline(always)]
fn register(ctx: &SockAddrContext, asked: Address) {
    // SAFETY: a context field, read at its own offset.
    if unsafe { (*ctx.sock_addr).type_ } != SOCK_STREAM {
        return;
    }
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(found) = pod::of_current() else {
        return;
    };
    if !found.gate.holds(now) {
        return;
    }
    let Some(counts) = COUNTS.get_ptr_mut(found.pod) else {
        return;
    };
    // SAFETY: the pointer is live for this run; the count is a limit, not a ledger, so a lost
    // update by another CPU does no harm.
    if unsafe { (*counts).records } >= u64::from(found.gate.socket_quota) {
        return;
    }
    let caller = bpf_get_current_pid_tgid();
    let record = SocketRecord {
        pod: found.pod,
        container: found.container,
        // SAFETY: the context is the one the program was given (kernel 5.7).
        netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        connect_ns: now,
        dropped_ns: 0,
        pid: (caller >> 32) as u32,
        tid: caller as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
        asked,
        drops: 0,
        reserved: 0,
        syn: StoredSyn {
            source: Address { ip: [0; 16], port: 0, version: 0 },
            destination: Address { ip: [0; 16], port: 0, version: 0 },
            header_len: 0,
            header: [0; 60],
        },
    };
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let known = SOCKETS.get_ptr(cookie).is_some();
    // A full table costs this socket its replay and its name in the log, never its hold.
    if SOCKETS.insert(cookie, record, BPF_ANY.into()).is_ok() && !known {
        // SAFETY: as above.
        unsafe { super::report::add(&raw mut (*counts).records, 1) };
    }
}
