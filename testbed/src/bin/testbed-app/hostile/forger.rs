//! Packets that no TCP socket has sent: over raw sockets with and without a header of their own, and
//! straight onto the loopback device.
//!
//! Every forged SYN has a sequence number of its own, below the number of packets, by which it is
//! told from what sockets send.

mod packet;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use self::packet::{Kind, Segment};
use super::set_int;
use crate::report;

/// Sockets of its own that wait while their connections are forged.
const OWN: usize = 8;
/// How many packets between two rounds of UDP datagrams.
const DATAGRAM_EVERY: u32 = 4;
/// Ports from which no socket sends by itself (`net.ipv4.ip_local_port_range`).
const FORGED_PORTS: std::ops::Range<u16> = 1024..10_000;
/// `ETH_HLEN`: on loopback both addresses are zero.
const ETHERNET_HEADER: usize = 14;
/// `IPV6_HDRINCL` (include/uapi/linux/in6.h).
const IPV6_HDRINCL: libc::c_int = 36;

/// What is forged.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where its own sockets dial, as ADDRESS:PORT.
    #[arg(long)]
    to: SocketAddr,
    /// The port of all that is forged.
    #[arg(long, default_value_t = testbed::PROXY_PORT)]
    port: u16,
    /// How many packets.
    #[arg(long)]
    count: u32,
    /// What everything random comes from.
    #[arg(long)]
    seed: u64,
}

/// The ways out.
struct Ways {
    segments: Socket,
    packets: Socket,
    segments_v6: Socket,
    packets_v6: Socket,
    device: Socket,
    datagrams: UdpSocket,
}

pub(super) fn run(args: &Args) -> Result<bool> {
    let own: Vec<Socket> = (0..OWN).map(|_| super::begin(args.to)).collect::<Result<_>>()?;
    let known: Vec<SocketAddr> =
        own.iter().filter_map(|socket| socket.local_addr().ok()?.as_socket()).collect();
    let ways = Ways::open()?;
    let mut random = fastrand::Rng::with_seed(args.seed);
    let (mut sent, mut refused) = (0_u32, 0_u32);
    for sequence in 0..args.count {
        let segment = forged(&mut random, args.port, sequence, &known);
        match ways.send(&mut random, &segment) {
            Ok(()) => sent += 1,
            // Much of it the kernel takes for what it is.
            Err(_) => refused += 1,
        }
        if sequence % DATAGRAM_EVERY == 0 {
            ways.datagram(&mut random);
        }
        if sequence == args.count / 4 {
            report::event("under_way", 0, json!({}));
        }
    }
    report::event("forged", 0, json!({"sent": sent, "refused": refused}));
    // Its own connects go on waiting; they end with it.
    loop {
        std::thread::park();
    }
}

/// Half of it looks as if its own held sockets had sent it, or were answered by it.
fn forged(random: &mut fastrand::Rng, port: u16, sequence: u32, known: &[SocketAddr]) -> Segment {
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (source, destination) = match random.u8(..4) {
        0 if !known.is_empty() => (known[random.usize(..known.len())], proxy),
        1 if !known.is_empty() => (proxy, known[random.usize(..known.len())]),
        _ => (SocketAddr::from((Ipv4Addr::LOCALHOST, random.u16(FORGED_PORTS))), proxy),
    };
    Segment::random(random, source, destination, sequence)
}

// === impl Ways ===

impl Ways {
    fn open() -> Result<Self> {
        let raw = |domain, protocol| -> Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))
                .context("make a raw socket: it takes CAP_NET_RAW")?;
            socket.set_nonblocking(true).context("make it non-blocking")?;
            // Room for one packet of 64 KiB with what the kernel adds.
            socket.set_send_buffer_size(1 << 20).context("enlarge a buffer")?;
            Ok(socket)
        };
        let packets_v6 = raw(Domain::IPV6, libc::IPPROTO_RAW)?;
        set_int(&packets_v6, libc::IPPROTO_IPV6, IPV6_HDRINCL, 1).context("set IPV6_HDRINCL")?;
        Ok(Self {
            segments: raw(Domain::IPV4, libc::IPPROTO_TCP)?,
            packets: raw(Domain::IPV4, libc::IPPROTO_RAW)?,
            segments_v6: raw(Domain::IPV6, libc::IPPROTO_TCP)?,
            packets_v6,
            device: on_loopback_device()?,
            datagrams: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a UDP socket")?,
        })
    }

    /// Sends a segment by one way or another.
    fn send(&self, random: &mut fastrand::Rng, segment: &Segment) -> io::Result<()> {
        let to = |ip: IpAddr| SocketAddr::new(ip, 0).into();
        match Kind::random(random) {
            Kind::Segment => {
                let ip = segment.destination.ip();
                self.segments.send_to(&segment.bytes(ip.is_ipv4()), &to(ip)).map(drop)
            }
            Kind::Packet => {
                let packet = segment.ipv4_packet(random);
                self.packets.send_to(&packet, &to(segment.destination.ip())).map(drop)
            }
            Kind::SegmentV6 => {
                let ip = Ipv6Addr::LOCALHOST.into();
                self.segments_v6.send_to(&segment.bytes(false), &to(ip)).map(drop)
            }
            Kind::PacketV6 => {
                let packet = segment.ipv6_packet(random);
                self.packets_v6.send_to(&packet, &to(Ipv6Addr::LOCALHOST.into())).map(drop)
            }
            Kind::Device => {
                let mut frame = vec![0; ETHERNET_HEADER];
                frame[12..14].copy_from_slice(&(libc::ETH_P_IP as u16).to_be_bytes());
                frame.extend(segment.ipv4_packet(random));
                self.device.send(&frame).map(drop)
            }
        }
    }

    /// Two datagrams of any length to the DNS port: by way of the redirect, and straight.
    fn datagram(&self, random: &mut fastrand::Rng) {
        let bytes: Vec<u8> = (0..random.usize(..1400)).map(|_| random.u8(..)).collect();
        for port in [53, testbed::DNS_PORT] {
            // What the kernel does not take is not sent.
            let _: io::Result<usize> = self.datagrams.send_to(&bytes, (Ipv4Addr::LOCALHOST, port));
        }
    }
}

/// A socket below all of IP (`AF_PACKET`).
fn on_loopback_device() -> Result<Socket> {
    let protocol = (libc::ETH_P_IP as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol))))
        .context("make a packet socket")?;
    // SAFETY: zero is a valid value of every field of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    let index = if_nametoindex("lo").context("find the loopback device")?;
    address.sll_ifindex = i32::try_from(index).context("a device's index")?;
    // SAFETY: the address lives during the call, and its own length is passed.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound != 0 {
        return Err(io::Error::last_os_error()).context("bind the packet socket");
    }
    socket.set_nonblocking(true).context("make it non-blocking")?;
    Ok(socket)
}
