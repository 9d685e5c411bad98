//! From a stored SYN to the packet that is sent once more.
//!
//! A replayed SYN is a plain duplicate of one that the socket itself sent: same sequence number,
//! same options, addresses as the socket has them (before NAT, so that the mesh's rules and
//! conntrack treat it as they treated the original). Only its timestamp is brought up to date.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_ebpf::{Address, SocketRecord, StoredSyn};
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};

use super::Monotonic;

/// Hop limit of a replayed packet: what Linux gives to any other (`IPDEFTTL`, include/net/ip.h).
const HOP_LIMIT: u8 = 64;

/// TCP option kinds (RFC 9293 and RFC 7323).
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_TIMESTAMPS: u8 = 8;
const TIMESTAMPS_LEN: u8 = 10;

/// TCP's timestamp clock ticks once a millisecond (`TCP_TS_HZ`, include/net/tcp.h).
const NS_PER_TICK: u64 = 1_000_000;

/// A packet from its IP header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayPacket {
    /// Where it goes, before NAT.
    pub destination: SocketAddr,
    /// IP header, TCP header; no payload.
    pub bytes: Vec<u8>,
}

/// Why a record cannot be replayed. None of these refuses the connect: it waits for its own
/// retransmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SynError {
    /// No SYN of the socket was dropped yet.
    #[error("no SYN stored")]
    Nothing,
    /// The bytes are not a SYN's header.
    #[error("stored bytes are not the header of a SYN")]
    NotASyn,
    /// The addresses are not of one IP version.
    #[error("stored addresses are of no known or of different IP versions")]
    Addresses,
}

/// Builds the packet that repeats the SYN of `record` at `now`.
///
/// The timestamp advances by the whole milliseconds since the SYN was dropped. With the old value
/// the hold would become the connection's first round-trip sample: seconds of RTO, and a slow
/// start for BBR. It never overtakes the socket's own clock, which would make the proxy's answer
/// unacceptable (`tcp_rcv_synsent_state_process` in net/ipv4/tcp_input.c): both are truncated from
/// the same nanosecond clock, and the sum of two truncations is at most the truncated sum.
///
/// # Errors
///
/// [`SynError`] if nothing usable is stored.
pub fn replay_packet(record: &SocketRecord, now: Monotonic) -> Result<ReplayPacket, SynError> {
    let StoredSyn { source, destination, header_len, header } = &record.syn;
    if *header_len == 0 {
        return Err(SynError::Nothing);
    }
    let stored = header.get(..*header_len as usize).ok_or(SynError::NotASyn)?;
    let (mut tcp, rest) = TcpHeader::from_slice(stored).map_err(|_| SynError::NotASyn)?;
    if !rest.is_empty() || !tcp.syn || tcp.ack || tcp.rst || tcp.fin {
        return Err(SynError::NotASyn);
    }
    tcp.source_port = source.port;
    tcp.destination_port = destination.port;
    let ticks = now.0.saturating_sub(record.dropped_ns) / NS_PER_TICK;
    advance_timestamp(tcp.options.as_mut_slice(), ticks as u32);

    let source = ip(source).ok_or(SynError::Addresses)?;
    let target = ip(destination).ok_or(SynError::Addresses)?;
    let mut bytes = Vec::with_capacity(Ipv6Header::LEN + tcp.header_len());
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let payload = u16::try_from(tcp.header_len()).map_err(|_| SynError::NotASyn)?;
            let mut header = Ipv4Header::new(
                payload,
                HOP_LIMIT,
                IpNumber::TCP,
                source.octets(),
                target.octets(),
            )
            .map_err(|_| SynError::NotASyn)?;
            header.header_checksum = header.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&header, &[]).map_err(|_| SynError::NotASyn)?;
            bytes.extend_from_slice(&header.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: u16::try_from(tcp.header_len()).map_err(|_| SynError::NotASyn)?,
                next_header: IpNumber::TCP,
                hop_limit: HOP_LIMIT,
                source: source.octets(),
                destination: target.octets(),
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&header, &[]).map_err(|_| SynError::NotASyn)?;
            bytes.extend_from_slice(&header.to_bytes());
        }
        _ => return Err(SynError::Addresses),
    }
    bytes.extend_from_slice(&tcp.to_bytes());
    Ok(ReplayPacket { destination: SocketAddr::new(target, destination.port), bytes })
}

fn ip(address: &Address) -> Option<IpAddr> {
    match address.version {
        4 => {
            let [a, b, c, d, ..] = address.ip;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        6 => Some(Ipv6Addr::from(address.ip).into()),
        _ => None,
    }
}

/// Adds `ticks` to the sender's timestamp, if the options carry one.
fn advance_timestamp(mut options: &mut [u8], ticks: u32) {
    loop {
        match options {
            [] | [OPTION_END, ..] => return,
            [OPTION_NOP, ..] => options = &mut options[1..],
            [OPTION_TIMESTAMPS, TIMESTAMPS_LEN, a, b, c, d, ..] => {
                let value = u32::from_be_bytes([*a, *b, *c, *d]).wrapping_add(ticks);
                [*a, *b, *c, *d] = value.to_be_bytes();
                return;
            }
            [_, len, ..] => {
                let len = usize::from(*len);
                // A length that leads nowhere or outside: no timestamp to be found.
                if len < 2 || len > options.len() {
                    return;
                }
                options = &mut options[len..];
            }
            [_] => return,
        }
    }
}

#[cfg(test)]
mod tests;
