//! Reading a packet that leaves a socket, after NAT. Packets are read from the network header on:
//! that is where a cgroup_skb program's data begins.

use agent_ebpf::{
    Address,
    socket::{MAX_TCP_HEADER, MIN_TCP_HEADER},
};
use aya_ebpf::programs::SkBuffContext;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_DSTOPTS: u8 = 60;

/// 127.0.0.0/8: REDIRECT in OUTPUT rewrites to 127.0.0.1 (nf_nat_redirect_ipv4 in
/// net/netfilter/nf_nat_redirect.c), applications may dial any of it.
const LOOPBACK_NET: u8 = 127;

/// Extension headers a socket can put in front of TCP: hop-by-hop, routing, destination options
/// (twice: RFC 8200, section 4.1).
const MAX_EXTENSIONS: usize = 4;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;

const FLAGS_OFFSET: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A SYN.
pub(crate) struct Syn {
    /// Where its TCP header begins, counted from the network header.
    pub(crate) offset: usize,
    /// Length of the TCP header with its options: 20 to 60.
    pub(crate) header_len: usize,
    /// Where it goes, after NAT.
    pub(crate) destination: Address,
    pub(crate) loopback: bool,
}

/// A UDP datagram to a loopback address.
pub(crate) struct Datagram {
    /// Where its message begins, counted from the network header.
    pub(crate) offset: usize,
    /// Length of its message.
    pub(crate) len: usize,
    pub(crate) source: Address,
    /// Where it goes, after NAT.
    pub(crate) destination: Address,
}

struct Payload {
    offset: usize,
    destination: [u8; 16],
    version: u16,
    loopback: bool,
}

#[inline(always)]
fn ether_type(ctx: &SkBuffContext) -> u16 {
    u16::from_be(ctx.skb.protocol() as u16)
}

/// Whether this is a UDP datagram to a loopback address. Every packet of an attached gate's pod is
/// asked this, so the packet's bytes are looked at where they are.
#[inline(always)]
pub(crate) fn is_loopback_udp(ctx: &SkBuffContext) -> bool {
    // SAFETY: context fields.
    let (data, end) = unsafe { ((*ctx.skb.skb).data as usize, (*ctx.skb.skb).data_end as usize) };
    let bytes = data as *const u8;
    match ether_type(ctx) {
        // SAFETY: within the packet's data as compared.
        ETH_P_IP if data + IPV4_HEADER <= end => unsafe {
            *bytes.add(9) == IPPROTO_UDP && *bytes.add(16) == LOOPBACK_NET
        },
        // SAFETY: as above. Extension headers, which no resolver sends, are not followed.
        ETH_P_IPV6 if data + IPV6_HEADER <= end => unsafe {
            *bytes.add(6) == IPPROTO_UDP && is_v6_loopback(bytes.add(24))
        },
        _ => false,
    }
}

/// # Safety
///
/// `address` must point to 16 bytes of the packet.
#[inline(always)]
unsafe fn is_v6_loopback(address: *const u8) -> bool {
    let words = address.cast::<u32>();
    // SAFETY: by contract; supported machines read unaligned words.
    unsafe {
        words.read_unaligned() == 0
            && words.add(1).read_unaligned() == 0
            && words.add(2).read_unaligned() == 0
            && words.add(3).read_unaligned() == 1_u32.to_be()
    }
}

/// The datagram in a packet of which [`is_loopback_udp`] is true.
#[inline(always)]
pub(crate) fn datagram(ctx: &SkBuffContext) -> Option<Datagram> {
    let (mut from, mut to) = ([0; 16], [0; 16]);
    let (offset, version) = if ether_type(ctx) == ETH_P_IP {
        let header: [u8; IPV4_HEADER] = ctx.load(0).ok()?;
        from[..4].copy_from_slice(&header[12..16]);
        to[..4].copy_from_slice(&header[16..20]);
        (usize::from(header[0] & 0x0f) * 4, 4)
    } else {
        (from, to) = (ctx.load(8).ok()?, ctx.load(24).ok()?);
        (IPV6_HEADER, 6)
    };
    let header: [u8; UDP_HEADER] = ctx.load(offset).ok()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    Some(Datagram {
        offset: offset + UDP_HEADER,
        len: len.saturating_sub(UDP_HEADER),
        source: Address { ip: from, port: u16::from_be_bytes([header[0], header[1]]), version },
        destination: Address { ip: to, port: u16::from_be_bytes([header[2], header[3]]), version },
    })
}

/// The SYN in this packet, if it is one (without ACK).
#[inline(always)]
pub(crate) fn syn(ctx: &SkBuffContext) -> Option<Syn> {
    let Payload { offset, destination, version, loopback } = match ether_type(ctx) {
        ETH_P_IP => ipv4_payload(ctx)?,
        ETH_P_IPV6 => ipv6_payload(ctx)?,
        _ => return None,
    };
    let header: [u8; MIN_TCP_HEADER] = ctx.load(offset).ok()?;
    if header[FLAGS_OFFSET] & (SYN | ACK) != SYN {
        return None;
    }
    let header_len = usize::from(header[12] >> 4) * 4;
    if !(MIN_TCP_HEADER..=MAX_TCP_HEADER).contains(&header_len) {
        return None;
    }
    let port = u16::from_be_bytes([header[2], header[3]]);
    Some(Syn {
        offset,
        header_len,
        destination: Address { ip: destination, port, version },
        loopback,
    })
}

#[inline(always)]
fn ipv4_payload(ctx: &SkBuffContext) -> Option<Payload> {
    let header: [u8; IPV4_HEADER] = ctx.load(0).ok()?;
    if header[9] != IPPROTO_TCP {
        return None;
    }
    let mut destination = [0; 16];
    destination[..4].copy_from_slice(&header[16..20]);
    Some(Payload {
        offset: usize::from(header[0] & 0x0f) * 4,
        destination,
        version: 4,
        loopback: header[16] == LOOPBACK_NET,
    })
}

#[inline(always)]
fn ipv6_payload(ctx: &SkBuffContext) -> Option<Payload> {
    let next: [u8; 1] = ctx.load(6).ok()?;
    let destination: [u8; 16] = ctx.load(24).ok()?;
    let mut next = next[0];
    let mut offset = IPV6_HEADER;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            IPPROTO_TCP => break,
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => {
                let extension: [u8; 2] = ctx.load(offset).ok()?;
                next = extension[0];
                offset += (usize::from(extension[1]) + 1) * 8;
            }
            _ => return None,
        }
    }
    (next == IPPROTO_TCP).then_some(Payload {
        offset,
        destination,
        version: 6,
        loopback: u128::from_be_bytes(destination) == 1,
    })
}
