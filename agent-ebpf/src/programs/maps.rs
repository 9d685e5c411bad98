//! The maps. Names are part of the ABI: the agent finds them by these.

use agent_ebpf::{Gate, GateCounts, SocketRecord};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    helpers::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{HashMap, PerCpuArray, RingBuf},
};

/// Pods of one node; kubelet's own limit is 110 by default, the largest nodes run 500.
const MAX_GATES: u32 = 4096;

/// Containers of pods whose gate is closed.
const MAX_CONTAINERS: u32 = 16_384;

/// Sockets with a record, over all pods. The agent may set another size at load.
const MAX_SOCKETS: u32 = 65_536;

/// Bytes of the event ring: 5,000 events, all that 2,500 sockets can cause in one burst.
const EVENT_RING_BYTES: u32 = 512 * 1024;

// Elements are allocated when they are made, not beforehand: most nodes hold nothing most of the
// time, and without preallocation a removed element is never reused under a reader's eyes.
#[map(name = "GATES")]
pub(crate) static GATES: HashMap<u64, Gate> =
    HashMap::with_max_entries(MAX_GATES, BPF_F_NO_PREALLOC);

#[map(name = "COUNTS")]
pub(crate) static COUNTS: HashMap<u64, GateCounts> =
    HashMap::with_max_entries(MAX_GATES, BPF_F_NO_PREALLOC);

#[map(name = "CONTAINERS")]
pub(crate) static CONTAINERS: HashMap<u64, u32> =
    HashMap::with_max_entries(MAX_CONTAINERS, BPF_F_NO_PREALLOC);

#[map(name = "SOCKETS")]
pub(crate) static SOCKETS: HashMap<u64, SocketRecord> =
    HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);

#[map(name = "EVENTS")]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// Events that found the ring full.
#[map(name = "EVENTS_LOST")]
pub(crate) static EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The course of one hold, in the socket itself: it needs no table, so nothing can crowd it out,
/// and it goes with the socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Hold {
    /// The id of the pod's cgroup.
    pub(crate) pod: u64,
    /// SYNs dropped.
    pub(crate) drops: u32,
    /// Drops that were answered with a back-off.
    pub(crate) backoffs: u32,
    /// The socket's own TCP_SYNCNT while it has another one for the hold's sake; 0: it has its own.
    pub(crate) own_syncnt: u32,
    /// Whether the other one is already that for the time after the hold.
    pub(crate) released: u32,
    /// Whether a `SocketRecord` existed at the first drop.
    pub(crate) recorded: u32,
    /// Keeps the size a multiple of eight.
    pub(crate) reserved: u32,
}

#[btf_map]
pub(crate) static HOLDS: SkStorage<Hold> = SkStorage::new();

/// The hold of the socket `sk`, made if `flags` is `BPF_SK_STORAGE_GET_F_CREATE`.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier knows as such, or null.
#[inline(always)]
pub(crate) unsafe fn hold_of<'a, T>(sk: *mut T, flags: u32) -> Option<&'a mut Hold> {
    if sk.is_null() {
        return None;
    }
    let map = core::ptr::addr_of!(HOLDS).cast_mut().cast();
    // SAFETY: `map` is the address the loader replaces by the map; `sk` by this function's contract.
    let hold = unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), flags.into()) };
    // SAFETY: the kernel returns null or a pointer to a live value for the program's run.
    unsafe { hold.cast::<Hold>().as_mut() }
}
