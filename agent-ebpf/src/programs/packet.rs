//! Finding a SYN to a loopback address in a packet that leaves a socket, after NAT.

use agent_ebpf::socket::{MAX_TCP_HEADER, MIN_TCP_HEADER};
use aya_ebpf::programs::SkBuffContext;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

const IPPROTO_HOPOPTS: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_DSTOPTS: u8 = 60;

/// Extension headers a socket can put in front of TCP: hop-by-hop, routing, destination options
/// (twice: RFC 8200, section 4.1).
const MAX_EXTENSIONS: usize = 4;

const IPV6_HEADER: usize = 40;

const FLAGS_OFFSET: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A SYN to loopback.
pub(crate) struct Syn {
    /// Where its TCP header begins, counted from the network header.
    pub(crate) offset: usize,
    /// Length of the TCP header with its options: 20 to 60.
    pub(crate) header_len: usize,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// 4 or 6.
    pub(crate) version: u16,
}

/// The SYN in this packet, if it is one (without ACK) to a loopback address. Packets are read from
/// the network header on: that is where a cgroup_skb program's data begins.
#[inline(always)]
pub(crate) fn loopback_syn(ctx: &SkBuffContext) -> Option<Syn> {
    let (offset, version) = match u16::from_be(ctx.skb.protocol() as u16) {
        ETH_P_IP => (ipv4_payload(ctx)?, 4),
        ETH_P_IPV6 => (ipv6_payload(ctx)?, 6),
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
    Some(Syn {
        offset,
        header_len,
        source_port: u16::from_be_bytes([header[0], header[1]]),
        destination_port: u16::from_be_bytes([header[2], header[3]]),
        version,
    })
}

#[inline(always)]
fn ipv4_payload(ctx: &SkBuffContext) -> Option<usize> {
    let header: [u8; 20] = ctx.load(0).ok()?;
    // 127.0.0.0/8: REDIRECT in OUTPUT rewrites to 127.0.0.1 (nf_nat_redirect_ipv4 in
    // net/netfilter/nf_nat_redirect.c), applications may dial any of it.
    if header[9] != IPPROTO_TCP || header[16] != 127 {
        return None;
    }
    Some(usize::from(header[0] & 0x0f) * 4)
}

#[inline(always)]
fn ipv6_payload(ctx: &SkBuffContext) -> Option<usize> {
    let header: [u8; IPV6_HEADER] = ctx.load(0).ok()?;
    let destination: [u8; 16] = [
        header[24], header[25], header[26], header[27], header[28], header[29], header[30],
        header[31], header[32], header[33], header[34], header[35], header[36], header[37],
        header[38], header[39],
    ];
    if u128::from_be_bytes(destination) != 1 {
        return None;
    }
    let mut next = header[6];
    let mut offset = IPV6_HEADER;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            IPPROTO_TCP => return Some(offset),
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => {
                let extension: [u8; 2] = ctx.load(offset).ok()?;
                next = extension[0];
                offset += (usize::from(extension[1]) + 1) * 8;
            }
            _ => return None,
        }
    }
    (next == IPPROTO_TCP).then_some(offset)
}
