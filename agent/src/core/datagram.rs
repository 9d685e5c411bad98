//! From a stored DNS query to the packet that is sent once more.

use agent_ebpf::{Datagram, gate::DNS_BUDGET_NS};

use super::{
    Monotonic,
    packet::{ReplayError, ReplayPacket, between},
};

/// The header of a DNS message (RFC 1035, section 4.1.1).
const MIN_QUERY: usize = 12;

/// Builds the packet that repeats the query at `now`. An answer to it finds the socket as the
/// answer to the original would have: source and destination are the same.
///
/// # Errors
///
/// [`ReplayError`] if nothing usable is stored, or nobody waits for the answer any more.
pub fn query_packet(datagram: &Datagram, now: Monotonic) -> Result<ReplayPacket, ReplayError> {
    let Datagram {
        pod: _,
        first_ns,
        dropped_ns: _,
        source,
        destination,
        len,
        reserved: _,
        message,
    } = datagram;
    if *len == 0 {
        return Err(ReplayError::Nothing);
    }
    let message = message
        .get(..*len as usize)
        .filter(|message| message.len() >= MIN_QUERY)
        .ok_or(ReplayError::NotAQuery)?;
    if now.0.saturating_sub(*first_ns) >= DNS_BUDGET_NS {
        return Err(ReplayError::TooOld);
    }
    let (builder, target) = between(source, destination)?;
    let builder = builder.udp(source.port, destination.port);
    let mut bytes = Vec::with_capacity(builder.size(message.len()));
    builder.write(&mut bytes, message).map_err(|_| ReplayError::NotAQuery)?;
    Ok(ReplayPacket { destination: target, bytes })
}

#[cfg(test)]
mod tests {
    use agent_ebpf::{Address, socket::MAX_QUERY};
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::{super::packet::tests::address, *};

    fn stored(source: Address, destination: Address, query: &[u8]) -> Datagram {
        let mut message = [0; MAX_QUERY];
        message[..query.len()].copy_from_slice(query);
        Datagram {
            pod: 1,
            first_ns: 1_000,
            dropped_ns: 2_000,
            source,
            destination,
            len: u32::try_from(query.len()).unwrap(),
            reserved: 0,
            message,
        }
    }

    /// The message of a packet whose checksums are right.
    fn message_of(packet: &ReplayPacket, source: Address, destination: Address) -> Vec<u8> {
        let sliced = SlicedPacket::from_ip(&packet.bytes).unwrap();
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP header") };
        let header = udp.to_header();
        let expected = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                assert_eq!(
                    (&ip.source[..], &ip.destination[..]),
                    (&source.ip[..4], &destination.ip[..4])
                );
                header.calc_checksum_ipv4(&ip, udp.payload()).unwrap()
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                assert_eq!((ip.source, ip.destination), (source.ip, destination.ip));
                header.calc_checksum_ipv6(&ip, udp.payload()).unwrap()
            }
            NetSlice::Arp(_) => panic!("not IP"),
        };
        assert_eq!(header.checksum, expected);
        assert_eq!((header.source_port, header.destination_port), (source.port, destination.port));
        udp.payload().to_vec()
    }

    #[test]
    fn a_replay_repeats_the_query_between_the_same_ends() {
        for (source, destination) in [("10.7.0.2", "10.96.0.10"), ("fd00:7::2", "fd00:96::a")] {
            let (source, destination) = (address(source, 51_234), address(destination, 53));
            let query: Vec<u8> = (0..=42).collect();
            let packet = query_packet(&stored(source, destination, &query), Monotonic(3_000));
            assert_eq!(message_of(&packet.unwrap(), source, destination), query);
        }
    }

    #[test]
    fn what_is_no_query_or_waits_no_longer_is_not_sent() {
        let (source, destination) = (address("10.7.0.2", 1), address("10.8.0.2", 53));
        let now = Monotonic(3_000);
        let query = |bytes: &[u8]| query_packet(&stored(source, destination, bytes), now);
        assert_eq!(query(&[]), Err(ReplayError::Nothing));
        assert_eq!(query(&[0; MIN_QUERY - 1]), Err(ReplayError::NotAQuery));
        let mut long = stored(source, destination, &[0; 20]);
        long.len = u32::try_from(MAX_QUERY).unwrap() + 1;
        assert_eq!(query_packet(&long, now), Err(ReplayError::NotAQuery));
        let aging = stored(source, destination, &[0; 20]);
        assert!(query_packet(&aging, Monotonic(999 + DNS_BUDGET_NS)).is_ok());
        assert_eq!(
            query_packet(&aging, Monotonic(1_000 + DNS_BUDGET_NS)),
            Err(ReplayError::TooOld)
        );
    }

    proptest! {
        #[test]
        fn whatever_is_stored_the_result_is_an_error_or_that_message(
            bytes in proptest::collection::vec(any::<u8>(), MAX_QUERY),
            len in 0_u32..600,
            versions in (0_u16..8, 0_u16..8),
        ) {
            let mut stored = stored(address("10.7.0.2", 1), address("10.8.0.2", 53), &bytes);
            stored.len = len;
            stored.source.version = versions.0;
            stored.destination.version = versions.1;
            if let Ok(packet) = query_packet(&stored, Monotonic(0)) {
                let sent = message_of(&packet, stored.source, stored.destination);
                prop_assert_eq!(&sent[..], &bytes[..len as usize]);
            }
        }
    }
}
