//! The sentry's own programs: on the root of kubelet's tree while no agent lives, for pods that none
//! has taken up. See [`agent_ebpf::sentry`].
//!
//! A pod with a gate is left to the gate's programs, so that no packet is treated by both.

use agent_ebpf::{Post, Sentry, pacing::Answer, sentry::agents_are_away};
use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE},
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_ns, bpf_skb_ancestor_cgroup_id},
    programs::{SkBuffContext, SockAddrContext},
};

use super::{
    gate::Verdict,
    listener,
    maps::{AWAY_SINCE, BRANCHES, GATES, HeldBy, Hold, POST, SENTRY, WAITING_SINCE, hold_of},
    packet,
    pod::MAX_LEVEL,
    report,
    sock::{self, IPPROTO_TCP, SOCK_STREAM, TCP_SYN_SENT},
};

/// `cgroup_skb/egress`. Every packet of every pod is asked this, so most must be let go after a few
/// instructions: all but those of sockets that are not connected yet.
#[inline(always)]
pub(crate) fn answer(ctx: &SkBuffContext) -> Verdict {
    let answer = match sock::state(ctx) {
        Some(TCP_SYN_SENT) => hold(ctx),
        _ => None,
    };
    Verdict::of(answer)
}

/// `cgroup/connect4`, `cgroup/connect6`: marks the sockets of its pods, so that `sock_ops` looks after
/// their retransmissions.
#[inline(always)]
pub(crate) fn mark(ctx: &SockAddrContext) {
    // SAFETY: a context field, read at its own offset.
    if unsafe { (*ctx.sock_addr).type_ } != SOCK_STREAM {
        return;
    }
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the helper takes any level and answers 0 for one that does not exist.
    let ancestor = |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) };
    if on_duty(now).is_some_and(|(sentry, _)| minded(sentry, now, ancestor).is_some()) {
        // SAFETY: a context field, a socket pointer or null. Without the mark its tries are those of
        // any socket, and spent accordingly.
        let _: Option<&mut Hold> =
            unsafe { hold_of((*ctx.sock_addr).__bindgen_anon_1.sk, BPF_SK_STORAGE_GET_F_CREATE) };
    }
}

/// Whether the sentry would still drop a SYN of this socket, whose pod has no gate.
#[inline(always)]
pub(crate) fn holds(hold: &Hold, now: u64) -> bool {
    on_duty(now).is_some_and(|(sentry, _)| {
        sentry.holds(hold.pod, waiting_since(hold.pod, hold.first_ns), now)
    })
}

/// When the first of the pod's sockets began to wait; without a note of it, when this one did.
#[inline(always)]
fn waiting_since(pod: u64, first_ns: u64) -> u64 {
    // SAFETY: an element that is reused under a reader's eyes tells of another pod: of a time, not of
    // a place.
    let pods = unsafe { WAITING_SINCE.get(pod) }.copied();
    pods.map_or(first_ns, |pods| pods.min(first_ns))
}

/// What it goes by, while it is posted.
#[inline(always)]
fn on_duty(now: u64) -> Option<(&'static Sentry, *mut Post)> {
    let post = POST.get_ptr_mut(0)?;
    // SAFETY: a live map value; the poster replaces it as a whole, of which one word is read.
    if !unsafe { (*post).is_in_force(now) } {
        return None;
    }
    Some((SENTRY.get(0)?, post))
}

/// Whether no agent has worked for so long that closed gates go by who listens.
#[inline(always)]
pub(crate) fn is_alone(now: u64) -> bool {
    AWAY_SINCE.get(0).is_some_and(|since| agents_are_away(*since, now))
}

/// The pod of which these are the ancestors, if the sentry minds it: the first cgroup below those
/// that hold pods.
#[inline(always)]
fn minded(sentry: &Sentry, now: u64, ancestor: impl Fn(i32) -> u64) -> Option<u64> {
    let mut is_below = false;
    for level in 1..MAX_LEVEL {
        let cgroup = ancestor(level);
        if cgroup == 0 {
            return None;
        }
        if BRANCHES.get_ptr(cgroup).is_some() {
            is_below = true;
        } else if is_below {
            return (sentry.holds(cgroup, now, now) && !has_gate(cgroup)).then_some(cgroup);
        }
    }
    None
}

/// Whether all programs of the pod's own gate are there.
#[inline(always)]
pub(crate) fn has_gate(pod: u64) -> bool {
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    unsafe { GATES.get(pod) }.is_some_and(|gate| gate.attached != 0)
}

#[inline(always)]
fn hold(ctx: &SkBuffContext) -> Option<Answer> {
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let (sentry, post) = on_duty(now)?;
    let syn = packet::syn(ctx)?;
    if !syn.loopback || !sentry.names(syn.destination.port) {
        return None;
    }
    // SAFETY: the context is the one the program was given.
    let pod =
        minded(sentry, now, |level| unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level) })?;
    if listener::listens(ctx, &syn.destination) {
        return None;
    }
    let sk = sock::of_kind(ctx, SOCK_STREAM, IPPROTO_TCP)?;
    // SAFETY: `sk` came from `of_kind`.
    let hold = unsafe { hold_of(sk, BPF_SK_STORAGE_GET_F_CREATE) }?;
    let is_new = hold.drops == 0;
    let since = waiting_since(pod, if is_new { now } else { hold.first_ns });
    if !sentry.holds(pod, since, now) {
        return None;
    }
    if is_new {
        hold.pod = pod;
        hold.first_ns = now;
        hold.held_by = HeldBy::Sentry as u32;
        if since == now {
            // The first of several at once counts. Full or not, an LRU map takes it; without memory
            // each socket has its own time.
            let _ = WAITING_SINCE.insert(pod, now, BPF_NOEXIST.into());
        }
    }
    hold.drops += 1;
    if is_new {
        // SAFETY: a live map value.
        unsafe { report::add(&raw mut (*post).held, 1) };
    }
    Some(hold.answer(since.saturating_add(sentry.guard_ns).saturating_sub(now)))
}
