//! What a forged packet looks like: mostly right, wrong in one place or another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Combinations that the stack takes, and some that nobody sends.
const FLAGS: [u8; 8] = [SYN, SYN, SYN, RST, SYN | ACK, RST | ACK, SYN | FIN, ACK | FIN];

const TCP_HEADER: usize = 20;
const MAX_OPTIONS: usize = 40;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const IPPROTO_TCP: u8 = 6;
/// One in so many is as long as IP allows.
const HUGE_EVERY: u32 = 64;
/// The longest IPv4 packet, less the longest headers of both.
const HUGE: usize = 65_535 - 60 - 60;
/// `IP_MF`: more fragments follow.
const MORE_FRAGMENTS: u16 = 0x2000;
/// Hop-by-hop, routing and destination options (RFC 8200).
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// More than the gate follows, and more than the stack takes.
const MAX_EXTENSIONS: usize = 9;

/// By which way a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A TCP segment; the kernel writes the IP header.
    Segment,
    /// With an IP header of its own.
    Packet,
    /// The same two over IPv6.
    SegmentV6,
    PacketV6,
    /// Straight onto the device.
    Device,
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Header and payload; the checksum is yet to be written.
    bytes: Vec<u8>,
    /// Whether its checksum is to be right.
    is_sound: bool,
}

impl Kind {
    pub(super) fn random(random: &mut fastrand::Rng) -> Self {
        let all = [Self::Segment, Self::Packet, Self::SegmentV6, Self::PacketV6, Self::Device];
        all[random.usize(..all.len())]
    }
}

// === impl Segment ===

impl Segment {
    pub(super) fn random(
        random: &mut fastrand::Rng,
        source: SocketAddr,
        destination: SocketAddr,
        sequence: u32,
    ) -> Self {
        let options = random.usize(..=MAX_OPTIONS / 4) * 4;
        let payload = match random.u32(..HUGE_EVERY) {
            0 => HUGE,
            1..16 => random.usize(..1400),
            _ => 0,
        };
        let mut bytes = vec![0; TCP_HEADER];
        bytes[0..2].copy_from_slice(&source.port().to_be_bytes());
        bytes[2..4].copy_from_slice(&destination.port().to_be_bytes());
        bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
        bytes[8..12].copy_from_slice(&random.u32(..).to_be_bytes());
        // Mostly the header's true length, sometimes one that leads into the payload or nowhere.
        let words =
            if random.u8(..8) == 0 { random.u8(..16) } else { ((TCP_HEADER + options) / 4) as u8 };
        bytes[12] = words << 4;
        bytes[13] = FLAGS[random.usize(..FLAGS.len())];
        bytes[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        bytes.extend((0..options + payload).map(|_| random.u8(..)));
        Self { source, destination, bytes, is_sound: random.bool() }
    }

    /// With the checksum of one family's pseudo header, unless it is to be wrong.
    pub(super) fn bytes(&self, is_ipv4: bool) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let sum = if is_ipv4 {
            let octets = |address: SocketAddr| match address.ip() {
                IpAddr::V4(ip) => ip.octets(),
                IpAddr::V6(_) => Ipv4Addr::LOCALHOST.octets(),
            };
            checksum(&[&octets(self.source), &octets(self.destination)], &bytes)
        } else {
            let loopback = Ipv6Addr::LOCALHOST.octets();
            checksum(&[&loopback, &loopback], &bytes)
        };
        let sum = if self.is_sound { sum } else { !sum };
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// With options and fragment fields that may make no sense.
    pub(super) fn ipv4_packet(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let options = if random.bool() { 0 } else { random.usize(..=MAX_OPTIONS / 4) * 4 };
        let mut packet = vec![0; IPV4_HEADER];
        packet[0] = 0x40 | ((IPV4_HEADER + options) / 4) as u8;
        packet[4..6].copy_from_slice(&random.u16(..).to_be_bytes());
        let fragment = match random.u8(..8) {
            0 => MORE_FRAGMENTS,
            1 => random.u16(..),
            _ => 0,
        };
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[8] = random.u8(1..);
        packet[9] = IPPROTO_TCP;
        for (at, address) in [(12, self.source), (16, self.destination)] {
            if let IpAddr::V4(ip) = address.ip() {
                packet[at..at + 4].copy_from_slice(&ip.octets());
            }
        }
        packet.extend((0..options).map(|_| random.u8(..)));
        let length = (packet.len() + self.bytes.len()) as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let sum = checksum_of(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(self.bytes(true));
        packet
    }

    /// With any number of extension headers.
    pub(super) fn ipv6_packet(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let extensions: Vec<u8> = (0..random.usize(..=MAX_EXTENSIONS))
            .map(|_| EXTENSIONS[random.usize(..EXTENSIONS.len())])
            .collect();
        let mut rest = Vec::new();
        for (at, _) in extensions.iter().enumerate() {
            let next = extensions.get(at + 1).copied().unwrap_or(IPPROTO_TCP);
            // A length of 8 bytes, and an option (PadN) or no segments left.
            rest.extend([next, 0, 1, 0, 0, 0, 0, 0]);
        }
        rest.extend(self.bytes(false));
        let mut packet = vec![0; IPV6_HEADER];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
        packet[6] = extensions.first().copied().unwrap_or(IPPROTO_TCP);
        packet[7] = random.u8(1..);
        let loopback = Ipv6Addr::LOCALHOST.octets();
        packet[8..24].copy_from_slice(&loopback);
        packet[24..40].copy_from_slice(&loopback);
        packet.extend(rest);
        packet
    }
}

/// TCP's checksum: over both addresses, the protocol, the length and the segment.
fn checksum(addresses: &[&[u8]], segment: &[u8]) -> u16 {
    let mut all = addresses.concat();
    all.extend((segment.len() as u32).to_be_bytes());
    all.extend([0, IPPROTO_TCP]);
    all.extend(segment);
    checksum_of(&all)
}

fn checksum_of(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        rest => u32::from(rest[0]) << 8,
    });
    let mut sum: u32 = words.sum();
    while sum > u32::from(u16::MAX) {
        sum = (sum & u32::from(u16::MAX)) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_segment_sums_to_nothing_and_another_does_not() {
        let mut random = fastrand::Rng::with_seed(7);
        let [source, destination] =
            ["10.0.0.2:4000", "127.0.0.1:15001"].map(|a| a.parse().unwrap());
        for sequence in 0..200 {
            let segment = Segment::random(&mut random, source, destination, sequence);
            let bytes = segment.bytes(true);
            let sum = checksum(&[&[10, 0, 0, 2], &[127, 0, 0, 1]], &bytes);
            assert_eq!(sum == 0, segment.is_sound, "{segment:?}");
            let packet = segment.ipv4_packet(&mut random);
            let header = usize::from(packet[0] & 0x0f) * 4;
            assert_eq!(checksum_of(&packet[..header]), 0);
            assert_eq!(packet.len(), usize::from(u16::from_be_bytes([packet[2], packet[3]])));
        }
    }
}
