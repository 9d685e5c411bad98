//! Packets that are sent once more on a socket's behalf, with the addresses as the socket has them
//! (before NAT, so that the mesh's rules and conntrack treat them as they treated the originals).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_ebpf::Address;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

/// Hop limit of a replayed packet: what Linux gives to any other (`IPDEFTTL`, include/net/ip.h).
const HOP_LIMIT: u8 = 64;

/// A packet from its IP header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayPacket {
    /// Where it goes, before NAT.
    pub destination: SocketAddr,
    /// The whole packet.
    pub bytes: Vec<u8>,
}

/// Why something stored cannot be replayed. None of these fails the socket: it waits for its own
/// retransmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// No packet of the socket was dropped yet.
    #[error("nothing stored")]
    Nothing,
    /// The bytes are not a SYN's header.
    #[error("stored bytes are not the header of a SYN")]
    NotASyn,
    /// The length is none that a query can have.
    #[error("stored bytes are not a DNS query")]
    NotAQuery,
    /// The query has waited for as long as its resolver does.
    #[error("stored query is too old")]
    TooOld,
    /// The addresses are not of one IP version.
    #[error("stored addresses are of no known or of different IP versions")]
    Addresses,
}

/// Begins a packet between two stored addresses.
pub(super) fn between(
    source: &Address,
    destination: &Address,
) -> Result<(PacketBuilderStep<IpHeaders>, SocketAddr), ReplayError> {
    let target = ip(destination).ok_or(ReplayError::Addresses)?;
    let builder = match (ip(source).ok_or(ReplayError::Addresses)?, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            PacketBuilder::ipv4(source.octets(), target.octets(), HOP_LIMIT)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            PacketBuilder::ipv6(source.octets(), target.octets(), HOP_LIMIT)
        }
        _ => return Err(ReplayError::Addresses),
    };
    Ok((builder, SocketAddr::new(target, destination.port)))
}

pub(super) fn ip(address: &Address) -> Option<IpAddr> {
    match address.version {
        4 => {
            let [a, b, c, d, ..] = address.ip;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        6 => Some(Ipv6Addr::from(address.ip).into()),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An address as the programs store it.
    pub(in crate::core) fn address(ip: &str, port: u16) -> Address {
        match ip.parse().unwrap() {
            IpAddr::V4(ip) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&ip.octets());
                Address { ip: bytes, port, version: 4 }
            }
            IpAddr::V6(ip) => Address { ip: ip.octets(), port, version: 6 },
        }
    }

    #[test]
    fn a_packet_has_addresses_of_one_version() {
        let (four, six) = (address("10.7.0.2", 1), address("fd00::1", 1));
        let unknown = Address { version: 0, ..four };
        for (source, destination) in [(four, six), (six, four), (unknown, four), (four, unknown)] {
            assert_eq!(between(&source, &destination).err(), Some(ReplayError::Addresses));
        }
        let (_, target) = between(&six, &address("2001:db8::9", 53)).unwrap();
        assert_eq!(target, "[2001:db8::9]:53".parse().unwrap());
    }
}
