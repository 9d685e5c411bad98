//! Whether somebody listens on a loopback port of the pod.

use core::ffi::c_void;

use agent_ebpf::{Address, Gate, gate::MAX_PORTS};
use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};

/// Whether somebody listens at `address`: on it, or on a wildcard that covers it.
#[inline(always)]
pub(crate) fn listens(ctx: &impl EbpfContext, address: &Address) -> bool {
    is_there(ctx, address, bpf_sk_lookup_tcp)
}

/// Whether somebody takes datagrams at `address`.
#[inline(always)]
pub(crate) fn takes_datagrams(ctx: &impl EbpfContext, address: &Address) -> bool {
    is_there(ctx, address, bpf_sk_lookup_udp)
}

/// A helper that looks for a socket.
type Lookup = unsafe fn(*mut c_void, *mut bpf_sock_tuple, u32, u64, u64) -> *mut bpf_sock;

/// The tuple's source is empty, and no packet comes from port 0, so that only a socket that takes
/// them from anybody can be found.
#[inline(always)]
fn is_there(ctx: &impl EbpfContext, address: &Address, lookup: Lookup) -> bool {
    let [a, b, c, d] = words(&address.ip);
    let dport = address.port.to_be();
    let tuple = if address.version == 4 {
        bpf_sock_tuple__bindgen_ty_1 {
            ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: 0,
                daddr: a,
                sport: 0,
                dport,
            },
        }
    } else {
        bpf_sock_tuple__bindgen_ty_1 {
            ipv6: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: [0; 4],
                daddr: [a, b, c, d],
                sport: 0,
                dport,
            },
        }
    };
    let mut tuple = bpf_sock_tuple { __bindgen_anon_1: tuple };
    // The helpers tell the versions apart by the size.
    let size = if address.version == 4 {
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>()
    } else {
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>()
    };
    // SAFETY: the context is the one the program was given; the tuple is as long as said.
    let found =
        unsafe { lookup(ctx.as_ptr(), &raw mut tuple, size as u32, BPF_F_CURRENT_NETNS as u64, 0) };
    if found.is_null() {
        return false;
    }
    // SAFETY: the reference that the lookup returned, given back once.
    unsafe { bpf_sk_release(found.cast()) };
    true
}

/// Whether somebody listens on all ports of the proxy, seen from an application that connects to
/// `asked`: where a redirect would lead it.
#[inline(always)]
pub(crate) fn listens_on_all(ctx: &impl EbpfContext, gate: &Gate, asked: &Address) -> bool {
    let mut address = Address { ip: [0; 16], port: 0, version: 4 };
    if asked.version == 6 && !is_v4_mapped(&asked.ip) {
        address.version = 6;
        address.ip[15] = 1;
    } else {
        address.ip[0] = 127;
        address.ip[3] = 1;
    }
    for slot in 0..MAX_PORTS {
        address.port = gate.ports[slot];
        // Ports fill the array from the front.
        if address.port == 0 {
            break;
        }
        if !listens(ctx, &address) {
            return false;
        }
    }
    true
}

#[inline(always)]
fn words(ip: &[u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([ip[0], ip[1], ip[2], ip[3]]),
        u32::from_ne_bytes([ip[4], ip[5], ip[6], ip[7]]),
        u32::from_ne_bytes([ip[8], ip[9], ip[10], ip[11]]),
        u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]),
    ]
}

/// `::ffff:0:0/96`: an IPv4 destination of an IPv6 socket.
#[inline(always)]
fn is_v4_mapped(ip: &[u8; 16]) -> bool {
    let [a, b, c, _] = words(ip);
    a == 0 && b == 0 && c == 0xffff_u32.to_be()
}
