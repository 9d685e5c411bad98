//! Stored SYNs and queries, on their way back onto the network: a record, then the time of the
//! replay. Nothing may be sent that the pod has not sent itself.

use std::net::{IpAddr, SocketAddr};

use agent_ebpf::{Address, Datagram, SocketRecord, StoredSyn, gate::DNS_BUDGET_NS};
use bytemuck::Zeroable as _;
use etherparse::{NetSlice, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice, ip_number};

use crate::core::{Monotonic, query_packet, syn_packet};

/// TCP's timestamp clock ticks once a millisecond (`TCP_TS_HZ`, include/net/tcp.h).
const NS_PER_TICK: u64 = 1_000_000;

pub(super) fn run_syn(data: &[u8]) {
    let Some((record, now)) = split::<SocketRecord>(data) else { return };
    let Ok(packet) = syn_packet(&record, now) else { return };
    let StoredSyn { source, destination, header_len, header } = record.syn;
    let length = usize::try_from(header_len).expect("it has been a length");
    let stored = TcpHeader::from_slice(&header[..length]).expect("it has been replayed").0;

    let (ends, transport) = open(&packet.bytes);
    assert_eq!(ends, [socket(&source), socket(&destination)]);
    assert_eq!(packet.destination, socket(&destination));
    let Transport::Tcp(sent, payload) = transport else { panic!("not TCP") };
    assert!(payload.is_empty(), "a replay has no payload");
    assert!(sent.syn && !sent.ack && !sent.rst && !sent.fin);

    // But for its ports, which are those before NAT, its checksum and its timestamp it is the same.
    let ticks =
        u32::try_from((now.0.saturating_sub(record.dropped_ns) / NS_PER_TICK) & 0xffff_ffff)
            .expect("it has 32 bits");
    let mut same = sent.clone();
    (same.source_port, same.destination_port) = (stored.source_port, stored.destination_port);
    (same.checksum, same.options) = (stored.checksum, stored.options.clone());
    assert_eq!(same, stored);
    assert_options(&stored, &sent, ticks);
}

/// The timestamp has advanced by `ticks`, and nothing else is different.
fn assert_options(stored: &TcpHeader, sent: &TcpHeader, ticks: u32) {
    let (before, after) = (stored.options.as_slice(), sent.options.as_slice());
    assert_eq!(before.len(), after.len());
    let differs = (0..before.len()).filter(|at| before[*at] != after[*at]);
    if let (Some(first), Some(last)) = (differs.clone().next(), differs.last()) {
        // Only the four bytes of one timestamp's value may. Others can look like one, too.
        let value = (0..before.len().saturating_sub(5)).find(|at| {
            let value = at + 2..at + 6;
            before[*at..].starts_with(&[8, 10]) && value.contains(&first) && value.contains(&last)
        });
        let value = value.expect("what differs is a timestamp") + 2;
        let read = |options: &[u8]| {
            u32::from_be_bytes(options[value..value + 4].try_into().expect("four bytes"))
        };
        assert_eq!(read(after), read(before).wrapping_add(ticks));
    }
    let timestamp = |header: &TcpHeader| {
        header.options_iterator().map_while(Result::ok).find_map(|option| match option {
            TcpOptionElement::Timestamp(value, echo) => Some((value, echo)),
            _ => None,
        })
    };
    if let Some((value, echo)) = timestamp(stored) {
        assert_eq!(timestamp(sent), Some((value.wrapping_add(ticks), echo)));
    }
}

pub(super) fn run_query(data: &[u8]) {
    let Some((stored, now)) = split::<Datagram>(data) else { return };
    let Ok(packet) = query_packet(&stored, now) else { return };
    assert!(now.0.saturating_sub(stored.first_ns) < DNS_BUDGET_NS, "nobody waits for its answer");
    let Datagram { source, destination, len, message, .. } = stored;
    let (ends, transport) = open(&packet.bytes);
    assert_eq!(ends, [socket(&source), socket(&destination)]);
    assert_eq!(packet.destination, socket(&destination));
    let Transport::Udp(payload) = transport else { panic!("not UDP") };
    assert_eq!(payload, &message[..usize::try_from(len).expect("it has been a length")]);
}

/// What is in an IP packet.
enum Transport<'a> {
    Tcp(TcpHeader, &'a [u8]),
    Udp(&'a [u8]),
}

/// The two ends of a packet and what is in it. Its lengths and checksums are right, there is nothing
/// behind it, and it is not a fragment.
fn open(bytes: &[u8]) -> ([SocketAddr; 2], Transport<'_>) {
    let sliced = SlicedPacket::from_ip(bytes).expect("a replay is an IP packet");
    let net = sliced.net.expect("it is an IP packet");
    let (ends, rest): ([IpAddr; 2], usize) = match &net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), bytes.len());
            assert!(header.options.is_empty() && header.time_to_live == 64);
            assert!(!header.is_fragmenting_payload());
            ([header.source.into(), header.destination.into()], header.header_len())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert!(matches!(header.next_header, ip_number::TCP | ip_number::UDP));
            assert_eq!(usize::from(header.payload_length) + header.header_len(), bytes.len());
            ([header.source.into(), header.destination.into()], header.header_len())
        }
        NetSlice::Arp(_) => panic!("not IP"),
    };
    let (ports, transport) = match sliced.transport.expect("TCP or UDP") {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            assert_eq!(rest + header.header_len() + payload.len(), bytes.len());
            let expected = match &net {
                NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
                NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                NetSlice::Arp(_) => panic!("not IP"),
            };
            assert_eq!(Ok(header.checksum), expected);
            ([header.source_port, header.destination_port], Transport::Tcp(header, payload))
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            assert_eq!(rest + usize::from(header.length), bytes.len());
            let expected = match &net {
                NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
                NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                NetSlice::Arp(_) => panic!("not IP"),
            };
            assert_eq!(Ok(header.checksum), expected);
            ([header.source_port, header.destination_port], Transport::Udp(payload))
        }
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => {
            panic!("neither TCP nor UDP")
        }
    };
    ([SocketAddr::new(ends[0], ports[0]), SocketAddr::new(ends[1], ports[1])], transport)
}

/// An address that has been replayed from or to.
fn socket(address: &Address) -> SocketAddr {
    let Address { ip, port, version } = address;
    let ip = match version {
        4 => IpAddr::from(<[u8; 4]>::try_from(&ip[..4]).expect("four bytes")),
        6 => IpAddr::from(*ip),
        _ => panic!("a replay between addresses of version {version}"),
    };
    SocketAddr::new(ip, *port)
}

/// A record, and the time that stands behind it.
fn split<T: bytemuck::AnyBitPattern>(data: &[u8]) -> Option<(T, Monotonic)> {
    let (record, now) = data.split_at_checked(size_of::<T>())?;
    let now = now.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Some((bytemuck::pod_read_unaligned(record), Monotonic(now)))
}

fn join(record: &impl bytemuck::NoUninit, now: u64) -> Vec<u8> {
    [bytemuck::bytes_of(record), &now.to_le_bytes()].concat()
}

fn ends(version: u16) -> (Address, Address) {
    let ip = |last| match version {
        4 => [10, 7, 0, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        _ => [0xfd, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last],
    };
    (Address { ip: ip(2), port: 51_234, version }, Address { ip: ip(9), port: 443, version })
}

pub(super) fn syn_seeds() -> Vec<Vec<u8>> {
    use TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
    };
    let linux = [
        MaximumSegmentSize(1460),
        SelectiveAcknowledgementPermitted,
        Timestamp(u32::MAX - 7, 0),
        Noop,
        WindowScale(7),
    ];
    let kinds = [(4, &linux[..]), (6, &linux[..]), (4, &linux[..1]), (6, &[])];
    kinds
        .into_iter()
        .map(|(version, options)| {
            let mut header = TcpHeader::new(40_000, 15_001, 0xdead_beef, 64_240);
            header.syn = true;
            header.set_options(options).expect("they fit");
            let bytes = header.to_bytes();
            let mut record = SocketRecord { dropped_ns: 10_000_000, ..SocketRecord::zeroed() };
            (record.syn.source, record.syn.destination) = ends(version);
            record.syn.header[..bytes.len()].copy_from_slice(&bytes);
            record.syn.header_len = u32::try_from(bytes.len()).expect("60 at most");
            join(&record, 2_510_999_999)
        })
        .collect()
}

pub(super) fn query_seeds() -> Vec<Vec<u8>> {
    // A question for the address of a.b, with an id of 0xbeef.
    let question =
        b"\xbe\xef\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01";
    [4, 6]
        .map(|version| {
            let (source, destination) = ends(version);
            let mut stored = Datagram {
                pod: 1,
                first_ns: 1_000,
                dropped_ns: 2_000,
                source,
                destination,
                len: u32::try_from(question.len()).expect("it is short"),
                ..Datagram::zeroed()
            };
            stored.message[..question.len()].copy_from_slice(question);
            join(&stored, 3_000)
        })
        .into()
}
