//! What is known of one connecting socket: who, where to, and the SYN to replay.

use crate::plain_bytes;

/// A TCP header with all its options is at most this long (RFC 9293, section 3.1: a data offset of
/// 15 words).
pub const MAX_TCP_HEADER: usize = 60;

/// A TCP header without options, in bytes.
pub const MIN_TCP_HEADER: usize = 20;

/// How many queries of one socket can wait for their replay: two (A and AAAA) for one name, and
/// resolvers that share a socket among several names.
pub const MAX_QUERIES: usize = 8;

/// The longest query that can be replayed, in bytes: a name of 255, its type and class, and the
/// EDNS record with its options (RFC 1035 section 4, RFC 6891) stay below.
pub const MAX_QUERY: usize = 512;

/// An IPv4 or IPv6 address with a port. IPv4 stands in the first four bytes.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Network byte order.
    pub ip: [u8; 16],
    /// Host byte order.
    pub port: u16,
    /// 4 or 6; 0 when unknown.
    pub version: u16,
}

/// A SYN as the socket sent it, before NAT, without any payload.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSyn {
    /// The address the socket sends from.
    pub source: Address,
    /// The address the socket connects to; what the application asked for unless another cgroup
    /// program (a socket load balancer) rewrote it.
    pub destination: Address,
    /// Length of the TCP header with its options; 0: nothing stored.
    pub header_len: u32,
    /// The TCP header. Its ports and checksum are those after NAT; the agent writes both anew.
    pub header: [u8; MAX_TCP_HEADER],
}

/// One socket that called connect() behind a closed gate. Key: the socket's cookie.
///
/// Made by the connect hooks (for UDP also by the sendmsg hooks), filled by the gate, removed when
/// the socket connects or closes. The
/// table only serves replay and explanation: whether a packet is held never depends on it.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRecord {
    /// The id of the pod's cgroup.
    pub pod: u64,
    /// The id of the container's cgroup; 0 when the process sat directly in the pod's.
    pub container: u64,
    /// The network namespace in which connect() was called (`bpf_get_netns_cookie`).
    pub netns_cookie: u64,
    /// When connect() was called, `CLOCK_MONOTONIC` nanoseconds.
    pub connect_ns: u64,
    /// When the stored SYN was dropped, `CLOCK_MONOTONIC` nanoseconds; 0: never held.
    pub dropped_ns: u64,
    /// Thread group id of the caller, in the initial pid namespace.
    pub pid: u32,
    /// Id of the calling thread: network namespaces belong to threads.
    pub tid: u32,
    /// Uid of the caller, in the initial user namespace.
    pub uid: u32,
    /// Command name of the calling thread, NUL padded.
    pub comm: [u8; 16],
    /// The address the application gave to connect().
    pub asked: Address,
    /// How many of its SYNs, or of its datagrams to the DNS port, were dropped.
    pub drops: u32,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u32,
    /// For TCP: the SYN that was dropped last.
    pub syn: StoredSyn,
    /// For UDP: the ids of the queries that have a [`Datagram`], a ring of the newest.
    pub queries: [u16; MAX_QUERIES],
    /// For UDP: how many were put into the ring, ever.
    pub query_count: u64,
}

/// One DNS query of one socket. See [`Datagram`].
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The query's id, from the first two bytes of the message.
    pub id: u64,
}

/// A query that was kept from the mesh's DNS port, as the socket sent it, before NAT. Key:
/// [`QueryKey`]: resolvers send several (A and AAAA) from one socket.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The id of the pod's cgroup.
    pub pod: u64,
    /// When its first datagram was dropped, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// When its last datagram was dropped, `CLOCK_MONOTONIC` nanoseconds.
    pub dropped_ns: u64,
    /// The address the packet came from.
    pub source: Address,
    /// The address the socket sent it to.
    pub destination: Address,
    /// Length of the message.
    pub len: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
    /// The message, without the UDP header.
    pub message: [u8; MAX_QUERY],
}

plain_bytes!(Address = 20, StoredSyn = 104, SocketRecord = 224, QueryKey = 16, Datagram = 584,);
