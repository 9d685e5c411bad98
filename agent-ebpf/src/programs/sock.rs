//! Reading a socket: `bpf_sock`'s fields are translated one by one, so each is read at its own
//! offset and addresses word by word.

use agent_ebpf::Address;
use aya_ebpf::{bindings::bpf_sock, helpers::bpf_sk_fullsock, programs::SkBuffContext};

pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const SOCK_DGRAM: u32 = 2;

pub(crate) const IPPROTO_TCP: u32 = 6;
pub(crate) const IPPROTO_UDP: u32 = 17;

/// Socket states (include/net/tcp_states.h). A UDP socket is "established" if it is connected,
/// else "closed".
pub(crate) const TCP_ESTABLISHED: u32 = 1;
pub(crate) const TCP_SYN_SENT: u32 = 2;
pub(crate) const TCP_CLOSE: u32 = 7;

/// The state of the sending socket, if there is one. Costs no call.
#[inline(always)]
pub(crate) fn state(ctx: &SkBuffContext) -> Option<u32> {
    // SAFETY: a context field.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: `sk` is the context's socket and not null; every kind of socket has a state.
    Some(unsafe { (*sk).state })
}

/// The sending socket, if it is of this type and protocol. A raw socket's forgery is none of ours:
/// it passes as it would without holdfast. Ports are not compared: NAT changes the destination's
/// always, and the source's when two connections would collide behind the redirect.
#[inline(always)]
pub(crate) fn of_kind(ctx: &SkBuffContext, kind: u32, protocol: u32) -> Option<*mut bpf_sock> {
    // SAFETY: a context field.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: `sk` is the context's socket and not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return None;
    }
    // SAFETY: a full socket's fields.
    let is_it = unsafe { (*sk).type_ == kind && (*sk).protocol == protocol };
    is_it.then_some(sk)
}

/// Where the socket sends from.
///
/// # Safety
///
/// `sk` must come from [`of_kind`].
#[inline(always)]
pub(crate) unsafe fn source(sk: *mut bpf_sock, version: u16) -> Address {
    // SAFETY: by contract.
    unsafe {
        let ip = if version == 4 { v4((*sk).src_ip4) } else { v6(&raw const (*sk).src_ip6) };
        Address { ip, port: (*sk).src_port as u16, version }
    }
}

/// Where the socket is, or is to be, connected to.
///
/// # Safety
///
/// `sk` must come from [`of_kind`].
#[inline(always)]
pub(crate) unsafe fn destination(sk: *mut bpf_sock, version: u16) -> Address {
    // SAFETY: by contract.
    unsafe {
        let ip = if version == 4 { v4((*sk).dst_ip4) } else { v6(&raw const (*sk).dst_ip6) };
        Address { ip, port: u16::from_be((*sk).dst_port), version }
    }
}

#[inline(always)]
fn v4(word: u32) -> [u8; 16] {
    let mut ip = [0; 16];
    ip[..4].copy_from_slice(&word.to_ne_bytes());
    ip
}

/// # Safety
///
/// `words` must point to the address field of a socket that the verifier knows as such.
#[inline(always)]
unsafe fn v6(words: *const [u32; 4]) -> [u8; 16] {
    let mut ip = [0; 16];
    for word in 0..4 {
        // SAFETY: by contract. The verifier refuses a joint read of the array; volatile keeps the
        // reads apart.
        let value = unsafe { words.cast::<u32>().add(word).read_volatile() };
        ip[word * 4..word * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    ip
}
