//! `cgroup/connect4`, `cgroup/connect6`, `cgroup/sendmsg4`, `cgroup/sendmsg6`: who connects (or
//! sends a query), and where to.
//!
//! These hooks cannot wait (a program may not sleep, and returning 0 is an error to the caller).
//! They register the socket as a candidate; the gate decides by the packet.

use agent_ebpf::{Address, Event, EventKind, Gate, GateState, Treatment};
use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval,
    },
    programs::SockAddrContext,
};

use super::{
    listener,
    maps::{HOLDFAST_SET_RETVAL, REDIRECTED, Target},
    pod::{self, Found, Standing},
    record, report,
    say::say,
    sentry,
    sock::{IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_STREAM},
};

/// Where nameservers listen (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// `MAX_ERRNO` of include/linux/err.h, all ones: it serves as a mask.
const MAX_ERRNO: u32 = 4095;

/// Whether the call goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Goes,
    /// It returns the error that was set.
    Fails,
}

/// `user_port` holds the port in network byte order in its lower half.
#[inline(always)]
fn host_port(ctx: *const bpf_sock_addr) -> u16 {
    // SAFETY: a context field, read at its own offset.
    u16::from_be(unsafe { (*ctx).user_port } as u16)
}

#[inline(always)]
pub(crate) fn asked_v4(ctx: &SockAddrContext) -> Address {
    let addr = ctx.sock_addr;
    let mut ip = [0; 16];
    // SAFETY: a context field, read at its own offset.
    let ip4 = unsafe { (*addr).user_ip4 }.to_ne_bytes();
    ip[..4].copy_from_slice(&ip4);
    Address { ip, port: host_port(addr), version: 4 }
}

#[inline(always)]
pub(crate) fn asked_v6(ctx: &SockAddrContext) -> Address {
    let addr = ctx.sock_addr;
    let mut ip = [0; 16];
    for word in 0..4 {
        // SAFETY: context fields; the verifier takes them one word at a time only, and volatile
        // reads keep the compiler from joining them.
        let value = unsafe { core::ptr::addr_of!((*addr).user_ip6[word]).read_volatile() };
        ip[word * 4..word * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    Address { ip, port: host_port(addr), version: 6 }
}

/// connect(): of a stream, or of a socket that is to ask a nameserver.
#[inline(always)]
pub(crate) fn connect<const LOUD: bool>(ctx: &SockAddrContext, asked: Address) -> Call {
    // SAFETY: a context field, read at its own offset.
    match unsafe { (*ctx.sock_addr).type_ } {
        SOCK_STREAM => stream::<LOUD>(ctx, asked),
        SOCK_DGRAM => {
            query::<LOUD>(ctx, asked);
            Call::Goes
        }
        _ => Call::Goes,
    }
}

#[inline(always)]
fn stream<const LOUD: bool>(ctx: &SockAddrContext, asked: Address) -> Call {
    let Some(found) = pod::of_current() else {
        return Call::Goes;
    };
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let treatment = found.gate.treatment(now);
    let (pod, container, port) = (found.pod, found.container, asked.port);
    if treatment == Treatment::Pass {
        let closed = found.gate.state == GateState::Closed as u32;
        say!(LOUD, ConnectPassesOpen, pod, container, cookie_of(ctx), port, closed);
        return Call::Goes;
    }
    if treatment == Treatment::Guard && listener::listens_on_all(ctx, found.gate, &asked) {
        say!(LOUD, ConnectPassesListens, pod, container, cookie_of(ctx), port, 0_u8);
        return Call::Goes;
    }
    let standing = found.standing();
    if standing == Standing::Passes || is_proxy(found.gate) {
        say!(LOUD, ConnectPassesExempt, pod, container, cookie_of(ctx), port, found.gate.proxy_uid);
        return Call::Goes;
    }
    if treatment == Treatment::Refuse
        && standing == Standing::Held
        && HOLDFAST_SET_RETVAL.load() != 0
        && is_redirected(&found, asked)
        && !sentry::is_alone(now)
    {
        refuse(ctx, &found, asked, now);
        say!(LOUD, ConnectRefused, pod, container, cookie_of(ctx), port, found.gate.errno);
        return Call::Fails;
    }
    let recorded = record::register(ctx, &found, asked, IPPROTO_TCP, now);
    say!(LOUD, ConnectSeen, pod, container, cookie_of(ctx), port, recorded);
    Call::Goes
}

/// A UDP socket that is connected, or sends, to a nameserver.
#[inline(always)]
pub(crate) fn query<const LOUD: bool>(ctx: &SockAddrContext, asked: Address) {
    let Some(found) = pod::of_current() else {
        return;
    };
    let gate = found.gate;
    if gate.dns_port == 0 || (asked.port != DNS_PORT && asked.port != gate.dns_port) {
        return;
    }
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    if !matches!(gate.treatment(now), Treatment::Hold | Treatment::Observe)
        || found.standing() == Standing::Passes
        || is_proxy(gate)
    {
        say!(LOUD, AskerPasses, found.pod, found.container, cookie_of(ctx), asked.port, 0_u8);
        return;
    }
    let recorded = record::register(ctx, &found, asked, IPPROTO_UDP, now);
    say!(LOUD, AskerSeen, found.pod, found.container, cookie_of(ctx), asked.port, recorded);
}

#[inline(always)]
fn cookie_of(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one the program was given.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Saves the proxy's own sockets the table; whether they pass is decided by the packet.
#[inline(always)]
fn is_proxy(gate: &Gate) -> bool {
    gate.proxy_uid == bpf_get_current_uid_gid() as u32
}

#[inline(always)]
fn is_redirected(found: &Found, address: Address) -> bool {
    REDIRECTED.get_ptr(Target { pod: found.pod, address, reserved: 0 }).is_some()
}

#[inline(always)]
fn refuse(ctx: &SockAddrContext, found: &Found, asked: Address, now: u64) {
    record::count(found.pod, |counts| &raw mut counts.refused, 1);
    report::event(Event {
        at_ns: now,
        cookie: cookie_of(ctx),
        pod: found.pod,
        container: found.container,
        connect_ns: now,
        kind: EventKind::Refused as u32,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
        asked,
        protocol: IPPROTO_TCP,
        query: 0,
    });
    // From 7.2 on the verifier wants to see that it is one.
    let errno = found.gate.errno & MAX_ERRNO;
    // SAFETY: the helper takes any negative errno; `HOLDFAST_SET_RETVAL` says that it exists.
    unsafe { bpf_set_retval(-(errno as i32)) };
}
