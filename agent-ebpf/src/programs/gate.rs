//! `cgroup_skb/egress`: the gate itself. It runs after iptables NAT, so a packet to the proxy's
//! loopback port is exactly a connection that the mesh redirects, whatever its rules say.
//!
//! The packet decides, never a table: a socket without a record or without a `Hold` is held too.

mod query;
mod syn;

use agent_ebpf::{EventKind, Gate, pacing::Answer};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_socket_cookie, bpf_get_socket_uid},
    programs::SkBuffContext,
};

use super::{
    packet,
    pod::{Found, Standing},
    record,
    report::{self, Sent},
    sock::{self, TCP_CLOSE, TCP_ESTABLISHED, TCP_SYN_SENT},
};

/// What becomes of a packet.
pub(crate) enum Verdict {
    Pass,
    /// Dropped; the TCP stack tries again in 500 ms, UDP says nothing.
    DropFlat,
    /// Dropped; the TCP stack backs off.
    DropBackOff,
}

/// A guarded gate stays attached, so this must let go of most packets after a few instructions:
/// all of an established connection, and datagrams to elsewhere.
#[inline(always)]
pub(crate) fn answer<const LOUD: bool>(ctx: &SkBuffContext) -> Verdict {
    let answer = match sock::state(ctx) {
        Some(TCP_SYN_SENT) => syn::hold::<LOUD>(ctx),
        Some(TCP_ESTABLISHED | TCP_CLOSE) if packet::is_loopback_udp(ctx) => {
            query::hold::<LOUD>(ctx)
        }
        _ => None,
    };
    Verdict::of(answer)
}

// === impl Verdict ===

impl Verdict {
    /// What the answer to a packet comes to; without one it passes.
    #[inline(always)]
    pub(crate) const fn of(answer: Option<Answer>) -> Self {
        match answer {
            None => Self::Pass,
            Some(Answer::Flat) => Self::DropFlat,
            Some(Answer::BackOff) => Self::DropBackOff,
        }
    }
}

/// Whether the sender passes whatever the gate says: it is the proxy, or in a container that may.
/// Reports an init container's first packet.
#[inline(always)]
fn is_exempt(ctx: &SkBuffContext, found: &Found, sent: impl FnOnce() -> Sent) -> bool {
    match found.standing() {
        Standing::Passes => true,
        Standing::PassesUntold => {
            found.set_told();
            let sent = sent();
            let (cookie, record) = record::of_packet(ctx, found.pod, sent.protocol);
            report::packet(EventKind::InitPassed, &Sent { cookie, ..sent }, record.as_deref());
            true
        }
        Standing::Held => is_proxy(ctx, found.gate),
    }
}

/// The cookie of the packet's socket, for a line about it.
#[inline(always)]
fn cookie_of(ctx: &SkBuffContext) -> u64 {
    // SAFETY: the context is the one the program was given.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Whether the proxy's user made the socket: iptables' own test (`-m owner --uid-owner`). The
/// helper counts uids as the network namespace's owner does, so does the pod's spec.
#[inline(always)]
fn is_proxy(ctx: &SkBuffContext, gate: &Gate) -> bool {
    // SAFETY: the context is the one the program was given.
    gate.proxy_uid != agent_ebpf::gate::NO_UID
        && unsafe { bpf_get_socket_uid(ctx.skb.skb) } == gate.proxy_uid
}
