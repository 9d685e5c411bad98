use std::net::SocketAddr;

use agent_ebpf::Address;
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};
use proptest::prelude::*;

use super::{
    super::packet::{ip, tests::address},
    *,
};

const MS: u64 = 1_000_000;

/// A SYN as Linux sends it: MSS, SACK permitted, timestamps, NOP, window scale.
fn linux_syn(tsval: u32) -> TcpHeader {
    let mut header = TcpHeader::new(40_000, 15_001, 0xdead_beef, 64_240);
    header.syn = true;
    header
        .set_options(&[
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(tsval, 0),
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(7),
        ])
        .unwrap();
    header
}

fn record(source: Address, destination: Address, header: &[u8]) -> SocketRecord {
    let mut stored = [0; 60];
    stored[..header.len()].copy_from_slice(header);
    SocketRecord {
        pod: 1,
        container: 2,
        netns_cookie: 3,
        connect_ns: 0,
        dropped_ns: 10 * MS,
        pid: 1,
        tid: 1,
        uid: 1,
        comm: [0; 16],
        asked: destination,
        drops: 1,
        protocol: 6,
        queries: [0; 8],
        query_count: 0,
        syn: StoredSyn {
            source,
            destination,
            header_len: u32::try_from(header.len()).unwrap(),
            header: stored,
        },
    }
}

fn tcp_of(packet: &ReplayPacket) -> TcpHeader {
    let sliced = SlicedPacket::from_ip(&packet.bytes).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP header") };
    assert!(tcp.payload().is_empty());
    let header = tcp.to_header();
    let expected = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), &[]).unwrap(),
        NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), &[]).unwrap(),
        NetSlice::Arp(_) => panic!("not IP"),
    };
    assert_eq!(header.checksum, expected);
    header
}

#[test]
fn a_replay_repeats_the_syn_before_nat_with_a_current_timestamp() {
    for (source, destination) in [("10.7.0.2", "203.0.113.9"), ("fd00:7::2", "2001:db8::9")] {
        let syn = linux_syn(1_000);
        let (source, destination) = (address(source, 51_234), address(destination, 443));
        let record = record(source, destination, &syn.to_bytes());
        let packet = syn_packet(&record, Monotonic(2_510 * MS + 999_999)).unwrap();
        assert_eq!(packet.destination, SocketAddr::new(ip(&destination).unwrap(), 443));
        let mut expected = linux_syn(3_500);
        expected.source_port = 51_234;
        expected.destination_port = 443;
        let mut sent = tcp_of(&packet);
        sent.checksum = 0;
        assert_eq!(sent, expected);
    }
}

#[test]
fn the_timestamp_wraps_like_the_clock_it_comes_from() {
    let syn = linux_syn(u32::MAX);
    let record = record(address("10.7.0.2", 1), address("10.8.0.2", 2), &syn.to_bytes());
    let sent = tcp_of(&syn_packet(&record, Monotonic(12 * MS)).unwrap());
    assert_eq!(sent.options.as_slice(), linux_syn(1).options.as_slice());
}

#[test]
fn a_syn_without_timestamps_is_repeated_as_it_is() {
    let mut syn = TcpHeader::new(40_000, 15_001, 7, 64_240);
    syn.syn = true;
    syn.set_options(&[TcpOptionElement::MaximumSegmentSize(1460)]).unwrap();
    let record = record(address("10.7.0.2", 1), address("10.8.0.2", 2), &syn.to_bytes());
    let sent = tcp_of(&syn_packet(&record, Monotonic(MS * 60_000)).unwrap());
    assert_eq!(sent.options, syn.options);
}

#[test]
fn nothing_but_a_syn_is_ever_built() {
    let (source, destination) = (address("10.7.0.2", 1), address("10.8.0.2", 2));
    let now = Monotonic(MS);
    assert_eq!(syn_packet(&record(source, destination, &[]), now), Err(ReplayError::Nothing));
    let mut ack = linux_syn(1);
    ack.ack = true;
    let mut rst = linux_syn(1);
    rst.rst = true;
    let mut data = linux_syn(1);
    data.syn = false;
    for header in [ack, rst, data] {
        let record = record(source, destination, &header.to_bytes());
        assert_eq!(syn_packet(&record, now), Err(ReplayError::NotASyn));
    }
    let six = address("fd00::1", 1);
    let mixed = record(six, destination, &linux_syn(1).to_bytes());
    assert_eq!(syn_packet(&mixed, now), Err(ReplayError::Addresses));
    let mut none = record(source, destination, &linux_syn(1).to_bytes());
    none.syn.destination.version = 0;
    assert_eq!(syn_packet(&none, now), Err(ReplayError::Addresses));
}

#[test]
fn a_syn_arrives_on_loopback_at_the_port_after_nat() {
    for (asked, port, arrives) in [
        ("203.0.113.9", 443, "127.0.0.1:15001"),
        ("2001:db8::9", 443, "[::1]:15001"),
        // Redirected as well, from another loopback address.
        ("127.0.0.3", 443, "127.0.0.1:15001"),
        // The application dials its side-car.
        ("127.0.0.1", 15_001, "127.0.0.1:15001"),
        ("127.0.0.3", 15_001, "127.0.0.3:15001"),
        ("::1", 15_001, "[::1]:15001"),
    ] {
        let (source, asked) = (address("10.7.0.2", 51_234), address(asked, port));
        let record = record(source, asked, &linux_syn(1).to_bytes());
        assert_eq!(syn_arrival(&record), Some(arrives.parse().unwrap()), "{asked:?}");
    }
    let mut nothing = record(address("10.7.0.2", 1), address("10.8.0.2", 2), &[]);
    assert_eq!(syn_arrival(&nothing), None);
    nothing.syn.header_len = u32::MAX;
    assert_eq!(syn_arrival(&nothing), None);
}

proptest! {
    #[test]
    fn whatever_is_stored_the_result_is_an_error_or_one_bare_syn(
        bytes in proptest::collection::vec(any::<u8>(), 60),
        len in any::<u32>(),
        versions in (0_u16..8, 0_u16..8),
        now in any::<u64>(),
    ) {
        let mut record = record(address("10.7.0.2", 1), address("10.8.0.2", 2), &bytes);
        record.syn.header_len = len;
        record.syn.source.version = versions.0;
        record.syn.destination.version = versions.1;
        let arrival = syn_arrival(&record);
        if let Ok(packet) = syn_packet(&record, Monotonic(now)) {
            prop_assert!(arrival.is_some_and(|arrival| arrival.ip().is_loopback()));
            let sent = tcp_of(&packet);
            prop_assert!(sent.syn && !sent.ack);
            prop_assert_eq!(&sent.sequence_number.to_be_bytes()[..], &bytes[4..8]);
        }
    }
}
