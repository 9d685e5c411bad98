//! `sock_ops`: makes a held socket's SYN retransmissions last, takes that back afterwards, and
//! reports how a hold ends.
//!
//! Only sockets of which a SYN was really dropped are touched: an unheld connect to a dead host
//! times out exactly as it does without holdfast.

use agent_ebpf::{
    EventKind,
    pacing::{DEFAULT_SYN_RETRIES, MAX_SYN_RETRIES},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    },
    helpers::{bpf_get_socket_cookie, bpf_getsockopt, bpf_ktime_get_ns, bpf_setsockopt},
    programs::SockOpsContext,
};

use super::{
    maps::{GATES, Hold, SOCKETS, hold_of},
    report,
};

const IPPROTO_TCP: i32 = 6;
const TCP_SYNCNT: i32 = 7;

/// TCP states (include/net/tcp_states.h).
const TCP_SYN_SENT: u32 = 2;
const TCP_CLOSE: u32 = 7;

pub(crate) fn on_callback(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx),
        BPF_SOCK_OPS_RTO_CB => retransmitting(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(0) == TCP_SYN_SENT && ctx.arg(1) == TCP_CLOSE => {
            ended(ctx);
        }
        _ => {}
    }
}

/// The hold of the socket this callback is about.
#[inline(always)]
fn hold<'a>(ctx: &SockOpsContext) -> Option<&'a mut Hold> {
    // SAFETY: a context field, a socket pointer or null.
    unsafe { hold_of((*ctx.ops).__bindgen_anon_2.sk, 0) }
}

fn connecting(ctx: &SockOpsContext) {
    // A socket may connect a second time; that is a new hold.
    if let Some(hold) = hold(ctx) {
        restore(ctx, hold);
        *hold = Hold {
            pod: 0,
            drops: 0,
            backoffs: 0,
            own_syncnt: 0,
            released: 0,
            recorded: 0,
            reserved: 0,
        };
    }
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_RTO_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG;
    // Without its callbacks the socket is still held, for the 6 s of the default budget.
    let _ = ctx.set_cb_flags(flags as i32);
}

/// The retransmission timer fired; the SYN goes out after this callback.
fn retransmitting(ctx: &SockOpsContext) {
    let Some(hold) = hold(ctx) else { return };
    if hold.drops == 0 {
        return;
    }
    // SAFETY: the helper has no precondition; the map is not preallocated, so a removed element
    // stays valid for this run.
    let closed = unsafe { GATES.get(hold.pod).is_some_and(|gate| gate.holds(bpf_ktime_get_ns())) };
    if closed && hold.own_syncnt == 0 {
        let own = syncnt(ctx);
        if set_syncnt(ctx, MAX_SYN_RETRIES) {
            hold.own_syncnt = own;
        }
    } else if !closed && hold.own_syncnt != 0 && hold.released == 0 {
        // The tries of the hold are counted by the socket; it gets its own number of them anew.
        let retransmits = ctx.arg(0);
        let tries = retransmits.saturating_add(hold.own_syncnt).min(MAX_SYN_RETRIES);
        hold.released = u32::from(set_syncnt(ctx, tries));
    }
}

fn connected(ctx: &SockOpsContext) {
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let Some(hold) = hold(ctx).filter(|hold| hold.drops > 0) else {
        // A candidate that was never held: nothing redirected it to the proxy.
        // SAFETY: as in `retransmitting`.
        if let Some(pod) = unsafe { SOCKETS.get(cookie) }.map(|record| record.pod) {
            report::remove_record(cookie, pod);
        }
        return;
    };
    restore(ctx, hold);
    end(EventKind::Connected, cookie, hold);
}

/// From SYN_SENT to CLOSE: the kernel gave up, or the application closed a socket that
/// `sock_release` has already reported and whose record is gone.
fn ended(ctx: &SockOpsContext) {
    let Some(hold) = hold(ctx).filter(|hold| hold.drops > 0) else {
        return;
    };
    // Refused, it may connect again.
    restore(ctx, hold);
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if hold.recorded != 0 && SOCKETS.get_ptr(cookie).is_none() {
        return;
    }
    end(EventKind::Failed, cookie, hold);
}

#[inline(always)]
fn end(kind: EventKind, cookie: u64, hold: &mut Hold) {
    report::remove_record(cookie, hold.pod);
    // SAFETY: the helper has no precondition.
    report::end(kind, cookie, hold.pod, unsafe { bpf_ktime_get_ns() });
    hold.drops = 0;
}

/// Gives the socket its own TCP_SYNCNT back.
#[inline(always)]
fn restore(ctx: &SockOpsContext, hold: &mut Hold) {
    if hold.own_syncnt != 0 && set_syncnt(ctx, hold.own_syncnt) {
        hold.own_syncnt = 0;
        hold.released = 0;
    }
}

/// The socket's own TCP_SYNCNT, or the default where the kernel does not tell it (before 6.1).
#[inline(always)]
fn syncnt(ctx: &SockOpsContext) -> u32 {
    let mut value = 0_u32;
    // SAFETY: the context is the one the program was given; `value` is as long as said.
    let ret = unsafe {
        bpf_getsockopt(ctx.as_ptr(), IPPROTO_TCP, TCP_SYNCNT, (&raw mut value).cast(), 4)
    };
    if ret == 0 && value != 0 { value } else { DEFAULT_SYN_RETRIES }
}

#[inline(always)]
fn set_syncnt(ctx: &SockOpsContext, mut value: u32) -> bool {
    // SAFETY: the context is the one the program was given; `value` is as long as said.
    unsafe {
        bpf_setsockopt(ctx.as_ptr(), IPPROTO_TCP, TCP_SYNCNT, (&raw mut value).cast(), 4) == 0
    }
}
