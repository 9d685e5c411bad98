//! Ports at which the agent waits for somebody to listen: the programs tell it, so that it need not
//! look again and again.

use crate::plain_bytes;

/// A port of a network namespace.
#[repr(C)]
#[cfg_attr(feature = "bytes", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AwaitedPort {
    /// The namespace's cookie (`bpf_get_netns_cookie`, `SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// The port, in host byte order.
    pub port: u32,
    /// Always 0: bytes of a key count.
    reserved: u32,
}

plain_bytes!(AwaitedPort = 16);

impl AwaitedPort {
    /// This port of the namespace with this cookie.
    #[inline(always)]
    #[must_use]
    pub const fn new(netns_cookie: u64, port: u32) -> Self {
        Self { netns_cookie, port, reserved: 0 }
    }
}
