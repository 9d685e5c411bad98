//! A forged SYN: what a raw socket in a pod can send without any TCP socket behind it.

use std::{
    io::ErrorKind,
    mem::MaybeUninit,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testbed::clock::monotonic_ns;

use crate::report;

/// Over loopback an answer comes in microseconds; without a listener it is a RST.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
const TCP_HEADER: usize = 20;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Which ports the SYN shows.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// The source port, of which no socket needs to know.
    #[arg(long)]
    source: u16,
    /// The destination port.
    #[arg(long, default_value_t = 15001)]
    destination: u16,
    /// How many SYNs.
    #[arg(long, default_value_t = 1)]
    count: u32,
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))
        .context("make a raw socket: it takes CAP_NET_RAW")?;
    let to = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for index in 0..args.count {
        let segment = syn(args.source, args.destination, index);
        let sent_ns = monotonic_ns();
        let result = socket.send_to(&segment, &to.into());
        let outcome = result.as_ref().map_or_else(report::error_name, |_| "sent".to_owned());
        report::event("raw_syn", index, json!({"start_ns": sent_ns, "outcome": outcome}));
    }
    let answer = answer(&socket, args)?;
    report::event(
        "answer",
        0,
        json!({"flags": answer.unwrap_or("none"), "end_ns": monotonic_ns()}),
    );
    Ok(true)
}

/// The first segment that comes back, by its flags.
fn answer(socket: &Socket, args: &Args) -> Result<Option<&'static str>> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let mut buffer = [MaybeUninit::uninit(); 2048];
    while let Some(left) =
        deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        socket.set_read_timeout(Some(left)).context("set a timeout")?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error).context("read from the raw socket"),
        };
        // SAFETY: recv has initialised the first `length` bytes.
        let packet: Vec<u8> =
            buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // A raw socket gets every TCP packet of the namespace, with its IP header.
        let header = usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4;
        let Some(tcp) = packet.get(header..header + TCP_HEADER) else {
            continue;
        };
        let source = u16::from_be_bytes([tcp[0], tcp[1]]);
        let destination = u16::from_be_bytes([tcp[2], tcp[3]]);
        if (source, destination) == (args.destination, args.source) {
            return Ok(Some(match tcp[13] & (SYN | ACK | RST | FIN) {
                flags if flags & RST != 0 => "RST",
                flags if flags == SYN | ACK => "SYN-ACK",
                _ => "other",
            }));
        }
    }
    Ok(None)
}

fn syn(source: u16, destination: u16, sequence: u32) -> [u8; TCP_HEADER] {
    /// Length of the header in 32-bit words, in the upper half of its byte.
    const DATA_OFFSET: u8 = 5 << 4;
    let mut segment = [0; TCP_HEADER];
    segment[0..2].copy_from_slice(&source.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[12] = DATA_OFFSET;
    segment[13] = SYN;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let sum = checksum(&segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// TCP's checksum over the pseudo header of a segment from loopback to loopback.
fn checksum(segment: &[u8; TCP_HEADER]) -> u16 {
    /// TCP's protocol number and the segment's length, as the pseudo header has them.
    const PROTOCOL_AND_LENGTH: [u8; 4] = [0, 6, 0, TCP_HEADER as u8];
    let address = Ipv4Addr::LOCALHOST.octets();
    let mut sum: u32 = address
        .chunks_exact(2)
        .chain(address.chunks_exact(2))
        .chain(PROTOCOL_AND_LENGTH.chunks_exact(2))
        .chain(segment.chunks_exact(2))
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > u32::from(u16::MAX) {
        sum = (sum & u32::from(u16::MAX)) + (sum >> 16);
    }
    let folded = sum as u16;
    !folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_with_its_own_checksum_sums_to_nothing() {
        assert_eq!(checksum(&syn(40_000, 15_001, 7)), 0);
    }
}
