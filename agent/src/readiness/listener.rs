//! Whether anyone listens on the ports to which the mesh redirects.
//!
//! A proxy opens its listeners one after the other. A replayed SYN that came between the readiness
//! endpoint's and the outbound listener's would be refused.
//!
//! Asked by sock_diag: the kernel walks the listening sockets only. /proc/net/tcp walks all of its
//! connection table: measured, its two files were 6 of the 9 ms from readiness to connect().

use std::{io, sync::Arc};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::netns::{Entrance, Netns};

/// Bytes that the kernel puts into one part of a dump at most (`NLMSG_GOODSIZE` is a page, and
/// netlink_dump takes up to 32 KiB where the reader offers it).
const PART_BYTES: usize = 32 * 1024;

/// Whether every port has a listener in `netns`.
///
/// # Errors
///
/// If the namespace cannot be entered, or the kernel does not list its sockets.
pub(super) async fn all_listen(
    entrance: &Entrance,
    netns: &Arc<Netns>,
    ports: &[u16],
) -> io::Result<bool> {
    let wanted = ports.to_vec();
    entrance
        .run(netns, move || {
            let mut listening = listeners(AF_INET, SocketId::new_v4())?;
            // A kernel without IPv6 lists none, or refuses to.
            listening.extend(listeners(AF_INET6, SocketId::new_v6()).unwrap_or_default());
            Ok(wanted.iter().all(|port| listening.contains(port)))
        })
        .await
}

fn listeners(family: u8, socket_id: SocketId) -> io::Result<Vec<u16>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
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
    socket.send(&bytes, 0)?;

    let mut ports = Vec::new();
    let mut part = Vec::with_capacity(PART_BYTES);
    loop {
        part.clear();
        socket.recv(&mut part, 0)?;
        let mut rest = &part[..];
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    ports.push(response.header.socket_id.source_port);
                }
                NetlinkPayload::Done(_) => return Ok(ports),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages are aligned to four bytes (NLMSG_ALIGN).
            let len = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(len.max(4)..).unwrap_or_default();
        }
    }
}
