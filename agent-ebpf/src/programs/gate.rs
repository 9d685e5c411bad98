//! `cgroup_skb/egress`: the gate itself. It runs after iptables NAT, so a packet to the proxy's
//! loopback port is exactly a connection that the mesh redirects, whatever its rules say.

use agent_ebpf::{
    Address, ContainerVerdict, Event, EventKind, Gate, SocketRecord,
    pacing::{self, Answer},
    socket::{MAX_TCP_HEADER, MIN_TCP_HEADER},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_fullsock},
    programs::SkBuffContext,
};
use aya_log_ebpf::debug;

use super::{
    maps::{CONTAINERS, COUNTS, Hold, SOCKETS, hold_of},
    packet::{self, Syn},
    pod, report,
};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// What becomes of a packet.
pub(crate) enum Verdict {
    Pass,
    /// Dropped; the TCP stack tries again in 500 ms.
    DropFlat,
    /// Dropped; the TCP stack backs off.
    DropBackOff,
}

#[inline(always)]
pub(crate) fn answer(ctx: &SkBuffContext) -> Verdict {
    match hold(ctx) {
        None => Verdict::Pass,
        Some(Answer::Flat) => Verdict::DropFlat,
        Some(Answer::BackOff) => Verdict::DropBackOff,
    }
}

/// The packet decides, never a table: a socket without a record or without a `Hold` is held too.
#[inline(always)]
fn hold(ctx: &SkBuffContext) -> Option<Answer> {
    let syn = packet::loopback_syn(ctx)?;
    let found = pod::of_packet(ctx)?;
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    if !found.gate.holds(now) || !names_port(found.gate, syn.destination_port) {
        return None;
    }
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    let verdict = unsafe { CONTAINERS.get(found.container) };
    if verdict.is_some_and(|verdict| *verdict == ContainerVerdict::Pass as u32) {
        return None;
    }
    let sk = tcp_socket(ctx)?;

    // SAFETY: the context is the one the program was given.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let record = SOCKETS.get_ptr_mut(cookie).filter(|record| {
        // SAFETY: the pointer is live for this run.
        unsafe { (**record).pod == found.pod }
    });
    if let Some(record) = record {
        // SAFETY: the pointer is live for this run; one socket's packets leave one at a time.
        unsafe { store(ctx, &syn, sk, now, &mut *record) };
    }
    if let Some(counts) = COUNTS.get_ptr_mut(found.pod) {
        // SAFETY: a live map value.
        unsafe { report::add(&raw mut (*counts).dropped_syns, 1) };
    }

    // SAFETY: `sk` came from bpf_sk_fullsock.
    let Some(hold) = (unsafe { hold_of(sk, BPF_SK_STORAGE_GET_F_CREATE) }) else {
        return Some(Answer::Flat);
    };
    let Hold { pod, drops, backoffs, own_syncnt: _, released: _, recorded, reserved: _ } = hold;
    *drops += 1;
    if *drops == 1 {
        *pod = found.pod;
        *recorded = u32::from(record.is_some());
        if let Some(counts) = COUNTS.get_ptr_mut(found.pod) {
            // SAFETY: a live map value.
            unsafe { report::add(&raw mut (*counts).held, 1) };
        }
        let fallback = Event {
            at_ns: now,
            cookie,
            pod: found.pod,
            container: found.container,
            connect_ns: now,
            kind: EventKind::Held as u32,
            pid: 0,
            uid: 0,
            comm: [0; 16],
            // SAFETY: `sk` came from bpf_sk_fullsock.
            asked: unsafe { destination(sk, syn.version) },
        };
        // SAFETY: the pointer is live for this run.
        report::held(record.map(|record| unsafe { &*record }), fallback);
    }
    let answer = pacing::answer(*drops, *backoffs, found.gate.deadline_ns.saturating_sub(now));
    if answer == Answer::BackOff {
        *backoffs += 1;
    }
    debug!(
        ctx,
        "SYN dropped: pod {} cookie {} port {} -> {} drop {}",
        found.pod,
        cookie,
        syn.source_port,
        syn.destination_port,
        *drops
    );
    Some(answer)
}

#[inline(always)]
fn names_port(gate: &Gate, port: u16) -> bool {
    gate.ports.contains(&port)
}

/// The sending socket, if it is a TCP one. A raw socket's forgery is none of ours: it passes as it
/// would without holdfast. Ports are not compared: NAT changes the destination's always, and the
/// source's when two connections would collide behind the redirect.
#[inline(always)]
fn tcp_socket(ctx: &SkBuffContext) -> Option<*mut bpf_sock> {
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
    // SAFETY: a full socket's fields, read at their own offsets.
    let (kind, protocol) = unsafe { ((*sk).type_, (*sk).protocol) };
    (kind == SOCK_STREAM && protocol == IPPROTO_TCP).then_some(sk)
}

/// Writes the SYN into the socket's record: header and options only. The payload of a TCP Fast
/// Open SYN stays with the socket; replayed, it could reach the proxy after its sender has gone.
///
/// # Safety
///
/// `sk` must come from `bpf_sk_fullsock`.
#[inline(always)]
unsafe fn store(
    ctx: &SkBuffContext,
    syn: &Syn,
    sk: *mut bpf_sock,
    now: u64,
    record: &mut SocketRecord,
) {
    record.drops += 1;
    record.dropped_ns = now;
    record.syn.header_len = 0;
    // SAFETY: by contract.
    unsafe {
        record.syn.source = source(sk, syn.version);
        record.syn.destination = destination(sk, syn.version);
    }
    let Ok(fixed) = ctx.load::<[u8; MIN_TCP_HEADER]>(syn.offset) else {
        return;
    };
    record.syn.header[..MIN_TCP_HEADER].copy_from_slice(&fixed);
    // A word at a time: a load of variable length is hard to prove to the verifier.
    let mut at = MIN_TCP_HEADER;
    while at < MAX_TCP_HEADER {
        if at >= syn.header_len {
            break;
        }
        let Ok(word) = ctx.load::<[u8; 4]>(syn.offset + at) else {
            return;
        };
        record.syn.header[at..at + 4].copy_from_slice(&word);
        at += 4;
    }
    record.syn.header_len = syn.header_len as u32;
}

/// # Safety
///
/// `sk` must come from `bpf_sk_fullsock`.
#[inline(always)]
unsafe fn source(sk: *mut bpf_sock, version: u16) -> Address {
    // SAFETY: by contract; fields are read at their own offsets, addresses word by word.
    unsafe {
        let ip = if version == 4 { v4((*sk).src_ip4) } else { v6(&raw const (*sk).src_ip6) };
        Address { ip, port: (*sk).src_port as u16, version }
    }
}

/// # Safety
///
/// `sk` must come from `bpf_sk_fullsock`.
#[inline(always)]
unsafe fn destination(sk: *mut bpf_sock, version: u16) -> Address {
    // SAFETY: by contract; fields are read at their own offsets, addresses word by word.
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
        // SAFETY: by contract. The verifier refuses a joint read of the array (`bpf_sock`'s
        // fields are translated one by one); volatile keeps the reads apart.
        let value = unsafe { words.cast::<u32>().add(word).read_volatile() };
        ip[word * 4..word * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    ip
}
