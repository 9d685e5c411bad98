//! The SYNs that reach a network namespace, as a sniffer in it sees them.

use std::{
    io::{ErrorKind, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
    sys::time::TimeSpec,
};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::netns::Netns;

/// Room for some thousand SYNs between two readings; the kernel accounts about a KiB for each, and a
/// forged one's whole packet.
const BUFFER: usize = 16 << 20;
/// An IPv6 header and the longest TCP header; of a payload only the length matters.
const SNAPSHOT: usize = 128;
const IPV6_HEADER: usize = 40;

/// One SYN without ACK, as it arrived: behind any nat rule of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedSyn {
    /// When it arrived, by `CLOCK_REALTIME`: to be compared with other SYNs only.
    pub at: Duration,
    /// Its sender.
    pub source: SocketAddr,
    /// Its target.
    pub destination: SocketAddr,
    /// Its sequence number: a replayed SYN has that of the socket's own.
    pub sequence: u32,
    /// Bytes after the TCP header: what a TCP Fast Open carries. None if the header claims to be
    /// longer than the packet.
    pub payload: usize,
    /// IPv6's flow label. Linux gives one to every socket; a packet written by hand may have 0.
    pub flow_label: Option<u32>,
}

/// Collects every SYN that arrives in a namespace, over loopback or from outside.
#[derive(Debug)]
pub struct Capture {
    sockets: [Socket; 2],
}

impl Capture {
    /// Begins now.
    pub fn start(netns: &Netns) -> Result<Self> {
        netns.run(|| {
            let v4 = open(libc::ETH_P_IP, &V4_SYN).context("capture IPv4")?;
            let v6 = open(libc::ETH_P_IPV6, &V6_SYN).context("capture IPv6")?;
            Ok(Self { sockets: [v4, v6] })
        })
    }

    /// The SYNs since the last call, in the order of their arrival.
    pub fn syns(&self) -> Result<Vec<CapturedSyn>> {
        let mut syns = Vec::new();
        for socket in &self.sockets {
            while let Some(syn) = next(socket)? {
                syns.push(syn);
            }
        }
        syns.sort_by_key(|syn| syn.at);
        Ok(syns)
    }

    /// How many SYNs found no room since the last call.
    pub fn lost(&self) -> Result<u32> {
        self.sockets.iter().map(lost).sum()
    }

    /// As [`Self::syns`], those to one port.
    pub fn syns_to(&self, port: u16) -> Result<Vec<CapturedSyn>> {
        let mut syns = self.syns()?;
        syns.retain(|syn| syn.destination.port() == port);
        Ok(syns)
    }
}

/// A socket for one protocol sees arriving packets only, not also the departing ones.
fn open(ethertype: libc::c_int, filter: &[SockFilter]) -> Result<Socket> {
    let protocol = u16::try_from(ethertype).context("an ethertype")?.to_be();
    // Nothing arrives before the protocol is given by binding; the filter must come first.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None).context("make a packet socket")?;
    socket.attach_filter(filter).context("attach a filter")?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("enlarge the buffer")?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context("ask for timestamps")?;
    socket.set_nonblocking(true).context("set O_NONBLOCK")?;
    // SAFETY: zero is a valid value of every field of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    // SAFETY: the address lives during the call, and its own length is passed.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    Errno::result(bound).context("bind the packet socket")?;
    Ok(socket)
}

fn lost(socket: &Socket) -> Result<u32> {
    // SAFETY: zero is a valid value of every field of this plain C structure.
    let mut counts: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `counts`, which has as many.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut length,
        )
    };
    Errno::result(got).context("ask for a packet socket's counts")?;
    Ok(counts.tp_drops)
}

fn next(socket: &Socket) -> Result<Option<CapturedSyn>> {
    let mut bytes = [0; SNAPSHOT];
    let mut control = nix::cmsg_space!(TimeSpec);
    let (length, at) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = socket.as_raw_fd();
        let message = match recvmsg::<()>(fd, &mut parts, Some(&mut control), flags) {
            Ok(message) => message,
            Err(errno) if std::io::Error::from(errno).kind() == ErrorKind::WouldBlock => {
                return Ok(None);
            }
            Err(errno) => return Err(errno).context("read a captured packet"),
        };
        let at = message.cmsgs().context("read a timestamp")?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
            _ => None,
        });
        (message.bytes, at.context("a packet without a timestamp")?)
    };
    parse(&bytes[..length], at).context("a captured SYN is cut short").map(Some)
}

/// `packet` begins with its IP header and has passed the filter.
fn parse(packet: &[u8], at: Duration) -> Option<CapturedSyn> {
    let pair = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let (source, destination, header, length, flow_label): (IpAddr, IpAddr, _, _, _) =
        if packet.first()? >> 4 == 4 {
            let address =
                |at| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            let header = usize::from(packet.first()? & 0x0f) * 4;
            (address(12)?.into(), address(16)?.into(), header, usize::from(pair(2)?), None)
        } else {
            let address =
                |at| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            let label = u32::from_be_bytes(packet.get(..4)?.try_into().ok()?) & 0x000f_ffff;
            let length = IPV6_HEADER + usize::from(pair(4)?);
            (address(8)?.into(), address(24)?.into(), IPV6_HEADER, length, Some(label))
        };
    let tcp_header = usize::from(packet.get(header + 12)? >> 4) * 4;
    let sequence = u32::from_be_bytes(packet.get(header + 4..header + 8)?.try_into().ok()?);
    Some(CapturedSyn {
        at,
        source: SocketAddr::new(source, pair(header)?),
        destination: SocketAddr::new(destination, pair(header + 2)?),
        sequence,
        payload: length.saturating_sub(header + tcp_header),
        flow_label,
    })
}

// === the filters, in classic BPF: TCP with SYN and without ACK ===

const IPPROTO_TCP: u32 = libc::IPPROTO_TCP as u32;
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const SYN_AND_ACK: u32 = 0x12;
/// Loads one byte at a fixed offset, or at one counted from the index register.
const LOAD: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_INDEXED: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
/// Loads the length of an IPv4 header into the index register.
const LOAD_HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const V4_SYN: [SockFilter; 8] = [
    step(LOAD, 9),
    unless_equal_skip(IPPROTO_TCP, 5),
    step(LOAD_HEADER_LENGTH, 0),
    step(LOAD_INDEXED, FLAGS),
    step(AND, SYN_AND_ACK),
    unless_equal_skip(SYN, 1),
    step(RETURN, SNAPSHOT as u32),
    step(RETURN, 0),
];

const V6_SYN: [SockFilter; 7] = [
    step(LOAD, 6),
    unless_equal_skip(IPPROTO_TCP, 4),
    step(LOAD, IPV6_HEADER as u32 + FLAGS),
    step(AND, SYN_AND_ACK),
    unless_equal_skip(SYN, 1),
    step(RETURN, SNAPSHOT as u32),
    step(RETURN, 0),
];

const fn step(code: u16, k: u32) -> SockFilter {
    SockFilter::new(code, 0, 0, k)
}

const fn unless_equal_skip(value: u32, steps: u8) -> SockFilter {
    SockFilter::new(JUMP_IF_EQUAL, 0, steps, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_what_is_left_after_both_headers() {
        let mut packet = vec![0; 20 + 24 + 7];
        packet[0] = 0x45;
        packet[3] = 51;
        packet[12..16].copy_from_slice(&[10, 0, 0, 2]);
        packet[16..20].copy_from_slice(&[127, 0, 0, 1]);
        packet[20..24].copy_from_slice(&[0x9c, 0x40, 0x3a, 0x99]);
        packet[24..28].copy_from_slice(&[1, 2, 3, 4]);
        packet[32] = 6 << 4;
        let syn = parse(&packet, Duration::ZERO).unwrap();
        assert_eq!(syn.source, "10.0.0.2:40000".parse().unwrap());
        assert_eq!(syn.destination, "127.0.0.1:15001".parse().unwrap());
        assert_eq!((syn.sequence, syn.payload, syn.flow_label), (0x0102_0304, 7, None));
        assert!(parse(&packet[..30], Duration::ZERO).is_none());
    }
}
