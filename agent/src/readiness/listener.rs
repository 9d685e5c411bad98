//! Whether anyone listens on a port of a namespace's loopback.
//!
//! A proxy opens its listeners one after the other. A replayed SYN that came between the readiness
//! endpoint's and the outbound listener's would be refused.
//!
//! Asked by sock_diag, for the socket that would take a connection to the port: the kernel looks
//! it up as it does for a SYN (`inet_diag_find_one_icsk`, net/ipv4/inet_diag.c), and nobody notices.
//! Measured: 4 to 6 us a port. A listing of the listening sockets walks a table that all namespaces
//! of the machine share (26 us a family at the least), /proc/net/tcp all connections as well (3 ms a
//! family).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr as InetAddr},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// Both of a port's loopback addresses: a proxy listens on one, or on both.
pub(crate) const LOOPBACK: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Room for an answer: the description of one socket takes some hundred bytes.
const ANSWER_BYTES: usize = 4096;

/// The loopback's index, in every network namespace (`LOOPBACK_IFINDEX`, include/net/net_namespace.h).
const LOOPBACK_INDEX: u32 = 1;

/// Any socket will do, whatever its cookie (`INET_DIAG_NOCOOKIE`, twice).
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Asks about the network namespace in which it was opened.
pub(crate) struct Listeners(Socket);

// === impl Listeners ===

impl Listeners {
    /// For the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers within send(), on the caller's thread (`netlink_rcv_skb`).
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Whether a connection to `address`, one of the loopback's, would be taken. Where the kernel
    /// cannot tell ([`is_supported`]) it is `false`.
    pub(crate) fn has(&self, address: InetAddr) -> io::Result<bool> {
        let (family, any) = match address {
            InetAddr::V4(_) => (AF_INET, SocketId::new_v4()),
            InetAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
        };
        let socket_id = SocketId {
            source_port: address.port(),
            source_address: address.ip(),
            destination_port: 0,
            destination_address: any.destination_address,
            interface_id: LOOPBACK_INDEX,
            cookie: NO_COOKIE,
        };
        self.ask(family, socket_id, 0)?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        self.0.recv(&mut answer, 0)?;
        match payload(&answer)? {
            NetlinkPayload::InnerMessage(_) => Ok(true),
            // A kernel without IPv6 knows no such family (EINVAL).
            NetlinkPayload::Error(error)
                if matches!(-error.raw_code(), libc::ENOENT | libc::EINVAL) =>
            {
                Ok(false)
            }
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn ask(&self, family: u8, socket_id: SocketId, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id,
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(drop)
    }
}

/// Whether this kernel tells about TCP sockets (`CONFIG_INET_TCP_DIAG`). Without it the answer to a
/// single question is that of a port on which nobody listens.
pub(crate) fn is_supported() -> bool {
    let begun = || -> io::Result<bool> {
        let listeners = Listeners::open()?;
        listeners.ask(AF_INET, SocketId::new_v4(), NLM_F_DUMP)?;
        let mut part = Vec::with_capacity(ANSWER_BYTES);
        listeners.0.recv(&mut part, 0)?;
        Ok(!matches!(payload(&part)?, NetlinkPayload::Error(_)))
    };
    begun().unwrap_or(false)
}

fn payload(bytes: &[u8]) -> io::Result<NetlinkPayload<SockDiagMessage>> {
    NetlinkMessage::<SockDiagMessage>::deserialize(bytes)
        .map(|message| message.payload)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
