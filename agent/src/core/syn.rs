//! From a stored SYN to the packet that is sent once more.
//!
//! A replayed SYN is a plain duplicate of one that the socket itself sent: same sequence number,
//! same options. Only its timestamp is brought up to date.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_ebpf::{SocketRecord, StoredSyn};
use etherparse::TcpHeader;

use super::{
    Monotonic,
    packet::{ReplayError, ReplayPacket, between, ip},
};

/// TCP option kinds (RFC 9293 and RFC 7323).
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_TIMESTAMPS: u8 = 8;
const TIMESTAMPS_LEN: u8 = 10;

/// TCP's timestamp clock ticks once a millisecond (`TCP_TS_HZ`, include/net/tcp.h).
const NS_PER_TICK: u64 = 1_000_000;

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
/// [`ReplayError`] if nothing usable is stored.
pub fn syn_packet(record: &SocketRecord, now: Monotonic) -> Result<ReplayPacket, ReplayError> {
    let StoredSyn { source, destination, header_len, header } = &record.syn;
    if *header_len == 0 {
        return Err(ReplayError::Nothing);
    }
    let stored = header.get(..*header_len as usize).ok_or(ReplayError::NotASyn)?;
    let (mut tcp, rest) = TcpHeader::from_slice(stored).map_err(|_| ReplayError::NotASyn)?;
    if !rest.is_empty() || !tcp.syn || tcp.ack || tcp.rst || tcp.fin {
        return Err(ReplayError::NotASyn);
    }
    tcp.source_port = source.port;
    tcp.destination_port = destination.port;
    let ticks = now.0.saturating_sub(record.dropped_ns) / NS_PER_TICK;
    advance_timestamp(tcp.options.as_mut_slice(), ticks as u32);

    let (builder, target) = between(source, destination)?;
    let builder = builder.tcp_header(tcp);
    let mut bytes = Vec::with_capacity(builder.size(0));
    builder.write(&mut bytes, &[]).map_err(|_| ReplayError::NotASyn)?;
    Ok(ReplayPacket { destination: target, bytes })
}

/// Where the SYN of `record` arrives, after NAT: only what goes to the pod's loopback is held. `None`
/// if nothing usable is stored.
///
/// Without NAT that is any of its loopback addresses; a redirection leads to the first one
/// (`nf_nat_redirect_ipv4` and `nf_nat_redirect_ipv6` at `NF_INET_LOCAL_OUT`,
/// net/netfilter/nf_nat_redirect.c).
#[must_use]
pub fn syn_arrival(record: &SocketRecord) -> Option<SocketAddr> {
    let StoredSyn { destination, header_len, header, .. } = &record.syn;
    let stored = header.get(..*header_len as usize)?;
    let (tcp, _) = TcpHeader::from_slice(stored).ok()?;
    let asked = ip(destination)?;
    let first: IpAddr = match asked {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let is_redirected = !asked.is_loopback() || tcp.destination_port != destination.port;
    let address = if is_redirected { first } else { asked };
    Some(SocketAddr::new(address, tcp.destination_port))
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
