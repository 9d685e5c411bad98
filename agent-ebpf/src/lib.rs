//! The ABI between holdfast's eBPF programs and its agent: what stands in the maps, what the
//! programs report through the ring buffer, and the one piece of arithmetic both sides must agree
//! on ([`pacing`]).
//!
//! Every type is `#[repr(C)]`, holds only integers, has no padding and an asserted size, so that
//! the bytes mean the same to both compilers. Addresses are in network byte order, ports and all
//! other integers in host byte order.

#![no_std]

pub mod awaited;
pub mod event;
pub mod gate;
pub mod note;
pub mod pacing;
pub mod sentry;
pub mod socket;

pub use self::{
    awaited::AwaitedPort,
    event::{Event, EventKind},
    gate::{ContainerVerdict, Gate, GateCounts, GateMode, GateState, Treatment},
    sentry::{Post, Sentry},
    socket::{Address, Datagram, QueryKey, SocketRecord, StoredSyn},
};

/// Bumped whenever a type in a map or in the ring changes its meaning or its layout, those that only
/// the programs know included: maps outlive the agent that made them, and the next agent's programs
/// go on with them.
pub const ABI_VERSION: u32 = 5;

/// Declares types that maps and the ring hold, with their sizes. Each derives `bytemuck::Pod`, which
/// lets no type with padding or with a value that is not any bits pass.
macro_rules! plain_bytes {
    ($($ty:ty = $size:literal),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$ty>() == $size);

        #[cfg(feature = "user")]
        const _: () = {
            const fn is_checked<T: bytemuck::Pod>() {}
            is_checked::<$ty>();
        };

        // SAFETY: aya asks for the same as bytemuck, whose derive has checked the type's fields and
        // that there is nothing between them; the line above does not compile without it.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $ty {}
    )+};
}
pub(crate) use plain_bytes;
