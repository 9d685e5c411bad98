//! `sock_ops`: makes a held socket's SYN retransmissions last, takes that back afterwards, and
//! reports how a hold ends. In mode refuse it ends sockets whose SYN had to be dropped. And it tells of
//! the listeners that the agent waits for.
//!
//! One program serves a pod's gate and the sentry: which of the two holds a socket is in the socket.
//! Where it is on a pod and on the root of the pods, the second run finds everything done.
//!
//! Only sockets of which a SYN was really dropped are touched: an unheld connect to a dead host
//! times out exactly as it does without holdfast.

use agent_ebpf::{
    EventKind, Treatment,
    pacing::{DEFAULT_SYN_RETRIES, MAX_SYN_RETRIES},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::{bpf_get_socket_cookie, bpf_getsockopt, bpf_ktime_get_ns, bpf_setsockopt},
    programs::SockOpsContext,
};

use super::{
    awaited,
    maps::{GATES, GiveUp, Hold, SOCKETS, hold_of},
    record, report,
    say::say,
    sentry,
    sock::{IPPROTO_TCP, TCP_CLOSE, TCP_SYN_SENT},
};

const SOL_TCP: i32 = 6;
const TCP_SYNCNT: i32 = 7;
const TCP_USER_TIMEOUT: i32 = 18;

/// Passed by the time of the next retransmission, in milliseconds (0 would be none at all).
const SHORTEST_TIMEOUT_MS: u32 = 1;

pub(crate) fn on_callback<const LOUD: bool>(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => awaited::listening(ctx),
        BPF_SOCK_OPS_RTO_CB => retransmitting(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected::<LOUD>(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(0) == TCP_SYN_SENT && ctx.arg(1) == TCP_CLOSE => {
            ended::<LOUD>(ctx);
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

/// Looks only after sockets that a connect hook has marked: through a guarded gate nearly all
/// connects go without.
fn connecting(ctx: &SockOpsContext) {
    let Some(hold) = hold(ctx) else { return };
    // A socket may connect a second time; that is a new hold.
    restore(ctx, hold);
    *hold = Hold::NEW;
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_RTO_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG;
    hold.aided = u32::from(ctx.set_cb_flags(flags as i32).is_ok());
}

/// The retransmission timer fired; the SYN goes out after this callback.
#[inline(always)]
fn retransmitting(ctx: &SockOpsContext) {
    let Some(hold) = hold(ctx) else { return };
    if hold.give_up == GiveUp::Asked as u32 {
        give_up(ctx, hold);
        return;
    }
    if hold.drops == 0 {
        return;
    }
    if hold.aided == 0 {
        adopt(ctx, hold);
    }
    let closed = is_closed(hold);
    let raised = hold.own_syncnt != 0 && hold.released == 0;
    if closed == raised {
        return;
    }
    // Of a socket that was let go before, into silence, the kernel tells the tries of that time.
    let own = if hold.own_syncnt != 0 {
        hold.own_syncnt
    } else {
        option(ctx, TCP_SYNCNT).filter(|own| *own != 0).unwrap_or(DEFAULT_SYN_RETRIES)
    };
    let tries = if closed {
        MAX_SYN_RETRIES
    } else {
        // The tries of the hold are counted by the socket; it gets its own number of them anew.
        let retransmits = ctx.arg(0);
        retransmits.saturating_add(own).min(MAX_SYN_RETRIES)
    };
    if set_option(ctx, TCP_SYNCNT, tries) {
        hold.own_syncnt = own;
        hold.released = u32::from(!closed);
    }
}

/// Looks after a socket that other programs have held before: those of another version, whose maps
/// and with them the course of the hold have gone. What they have asked of the socket is still there:
/// these callbacks, and the highest number of tries, of which it has used some.
#[inline(always)]
fn adopt(ctx: &SockOpsContext, hold: &mut Hold) {
    hold.aided = 1;
    hold.drops = hold.drops.max(ctx.arg(0));
    // What the application has asked for is not known any more.
    if option(ctx, TCP_SYNCNT) == Some(MAX_SYN_RETRIES) {
        hold.own_syncnt = DEFAULT_SYN_RETRIES;
    }
}

/// Whether the gate, or the sentry, would still drop a SYN of this socket.
#[inline(always)]
fn is_closed(hold: &Hold) -> bool {
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    let gate = unsafe { GATES.get(hold.pod) };
    let by_gate = gate.is_some_and(|gate| match gate.treatment(now) {
        Treatment::Hold => now < gate.holds_until(hold.first_ns),
        Treatment::Guard => now < hold.first_ns + gate.guard_ns,
        Treatment::Pass | Treatment::Refuse | Treatment::Observe => false,
    });
    by_gate || (gate.is_none_or(|gate| gate.attached == 0) && sentry::holds(hold, now))
}

/// Has the next expiry of the timer end the socket. TCP_USER_TIMEOUT is looked at for every SYN
/// (`tcp_write_timeout` in net/ipv4/tcp_timer.c); TCP_SYNCNT would end it only after
/// `tcp_syn_linear_timeouts` further ones.
#[inline(always)]
fn give_up(ctx: &SockOpsContext, hold: &mut Hold) {
    // Where the kernel does not tell the socket's own (before 6.1) it gets the default back.
    let own = option(ctx, TCP_USER_TIMEOUT).unwrap_or(0);
    if set_option(ctx, TCP_USER_TIMEOUT, SHORTEST_TIMEOUT_MS) {
        hold.own_user_timeout = own;
        hold.give_up = GiveUp::Set as u32;
    }
}

fn connected<const LOUD: bool>(ctx: &SockOpsContext) {
    // Without the flag no connect hook has marked it.
    if ctx.cb_flags() & BPF_SOCK_OPS_STATE_CB_FLAG == 0 {
        return;
    }
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let Some(hold) = hold(ctx) else { return };
    if LOUD {
        let (pod, container) = whose(cookie, hold);
        say!(LOUD, Connected, pod, container, cookie, hold.drops, 0_u8);
    }
    restore(ctx, hold);
    hold.leave_sentry();
    if hold.drops > 0 {
        end(EventKind::Connected, cookie, hold);
    } else {
        // A candidate that was never held: nothing redirected it to the proxy.
        forget(cookie);
    }
}

/// From SYN_SENT to CLOSE: the kernel gave up, or the application closed a socket that
/// `sock_release` has already reported and whose record is gone.
fn ended<const LOUD: bool>(ctx: &SockOpsContext) {
    let Some(hold) = hold(ctx) else { return };
    // Refused, it may connect again.
    restore(ctx, hold);
    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if LOUD {
        let (pod, container) = whose(cookie, hold);
        say!(LOUD, NotConnected, pod, container, cookie, hold.drops, 0_u8);
    }
    hold.leave_sentry();
    if hold.drops == 0 {
        forget(cookie);
        return;
    }
    if hold.recorded != 0 && SOCKETS.get_ptr(cookie).is_none() {
        return;
    }
    end(EventKind::Failed, cookie, hold);
}

/// The pod and the container of a socket, for a line about it: of one that was never held its record
/// tells, if it has one.
#[inline(always)]
fn whose(cookie: u64, hold: &Hold) -> (u64, u64) {
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    match unsafe { SOCKETS.get(cookie) } {
        Some(record) => (record.pod, record.container),
        None => (hold.pod, 0),
    }
}

/// Removes the record of a socket that was not held.
#[inline(always)]
fn forget(cookie: u64) {
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    if let Some(pod) = unsafe { SOCKETS.get(cookie) }.map(|record| record.pod) {
        record::remove(cookie, pod);
    }
}

#[inline(always)]
fn end(kind: EventKind, cookie: u64, hold: &mut Hold) {
    record::remove(cookie, hold.pod);
    // SAFETY: the helper has no precondition.
    report::end(kind, cookie, hold.pod, IPPROTO_TCP, unsafe { bpf_ktime_get_ns() });
    hold.drops = 0;
}

/// Gives the socket its own options back.
#[inline(always)]
fn restore(ctx: &SockOpsContext, hold: &mut Hold) {
    if hold.own_syncnt != 0 && set_option(ctx, TCP_SYNCNT, hold.own_syncnt) {
        hold.own_syncnt = 0;
        hold.released = 0;
    }
    if hold.give_up == GiveUp::Set as u32
        && set_option(ctx, TCP_USER_TIMEOUT, hold.own_user_timeout)
    {
        hold.give_up = GiveUp::No as u32;
    }
}

/// An option of the socket, where the kernel tells it to programs (from 6.1).
#[inline(always)]
fn option(ctx: &SockOpsContext, name: i32) -> Option<u32> {
    let mut value = 0_u32;
    // SAFETY: the context is the one the program was given; `value` is as long as said.
    let ret = unsafe { bpf_getsockopt(ctx.as_ptr(), SOL_TCP, name, (&raw mut value).cast(), 4) };
    (ret == 0).then_some(value)
}

#[inline(always)]
fn set_option(ctx: &SockOpsContext, name: i32, mut value: u32) -> bool {
    // SAFETY: the context is the one the program was given; `value` is as long as said.
    unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_TCP, name, (&raw mut value).cast(), 4) == 0 }
}
