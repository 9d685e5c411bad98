//! The maps, and what the loader sets. Names are part of the ABI: the agent finds them by these.

use agent_ebpf::{
    Address, AwaitedPort, Datagram, Gate, GateCounts, Post, QueryKey, Sentry, SocketRecord,
    pacing::{self, Answer},
};
use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    helpers::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};

/// Pods of one node; kubelet's own limit is 110 by default, the largest nodes run 500.
const MAX_GATES: u32 = 4096;

/// Containers of pods whose gate is closed.
const MAX_CONTAINERS: u32 = 16_384;

/// Sockets with a record, over all pods. The agent may set another size at load.
const MAX_SOCKETS: u32 = 65_536;

/// Destinations remembered as redirected, over all pods: a service calls some tens of others.
/// Forgotten too early, one costs its next connect the chosen errno, not the refusal.
const MAX_REDIRECTED: u32 = 16_384;

/// Directories of kubelet's tree that hold pods: three for a kubelet, and those above and beside them.
const MAX_BRANCHES: u32 = 64;

/// Bytes of the event ring: 5,000 events, all that 2,500 sockets can cause in one burst.
const EVENT_RING_BYTES: u32 = 512 * 1024;

/// Ports of proxies that are waited for: two or three of a pod.
const MAX_AWAITED: u32 = 4 * MAX_GATES;

/// Bytes of the ring that tells of them: 1,300 ports, all at which 500 proxies begin to listen at once.
const ARRIVED_RING_BYTES: u32 = 32 * 1024;

/// Whether the connect hooks may call `bpf_set_retval` (Linux 5.18). Where not, the verifier
/// removes the calls as dead code, which is why this is no map.
#[unsafe(no_mangle)]
pub(crate) static HOLDFAST_SET_RETVAL: Global<u8> = Global::new(0);

/// Whether the setsockopt hook may call `bpf_get_current_ancestor_cgroup_id` (not yet in 5.10,
/// where only connect and packet hooks may).
#[unsafe(no_mangle)]
pub(crate) static HOLDFAST_SOCKOPT_ANCESTORS: Global<u8> = Global::new(0);

/// Whether sock_ops programs may call `bpf_get_netns_cookie` (Linux 5.15).
#[unsafe(no_mangle)]
pub(crate) static HOLDFAST_SOCK_OPS_NETNS: Global<u8> = Global::new(0);

// Elements are allocated when they are made, not beforehand: most nodes hold nothing most of the
// time, and without preallocation a removed element is never reused under a reader's eyes.
#[map(name = "GATES")]
pub(crate) static GATES: HashMap<u64, Gate> =
    HashMap::with_max_entries(MAX_GATES, BPF_F_NO_PREALLOC);

/// The level on which the first gate was found: most pods of a node share it. 0: none yet.
#[map(name = "USUAL_LEVEL")]
pub(crate) static USUAL_LEVEL: Array<u32> = Array::with_max_entries(1, 0);

#[map(name = "COUNTS")]
pub(crate) static COUNTS: HashMap<u64, GateCounts> =
    HashMap::with_max_entries(MAX_GATES, BPF_F_NO_PREALLOC);

#[map(name = "CONTAINERS")]
pub(crate) static CONTAINERS: HashMap<u64, u32> =
    HashMap::with_max_entries(MAX_CONTAINERS, BPF_F_NO_PREALLOC);

#[map(name = "SOCKETS")]
pub(crate) static SOCKETS: HashMap<u64, SocketRecord> =
    HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);

/// As many as sockets: the agent sets both sizes.
#[map(name = "DATAGRAMS")]
pub(crate) static DATAGRAMS: HashMap<QueryKey, Datagram> =
    HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);

/// What a new element of `SOCKETS` is made from: the stack of a program has 512 bytes. Never written,
/// so that no socket can come upon another one's bytes.
#[map(name = "NO_RECORD")]
pub(crate) static NO_RECORD: Array<SocketRecord> = Array::with_max_entries(1, 0);

/// The same for `DATAGRAMS`.
#[map(name = "NO_DATAGRAM")]
pub(crate) static NO_DATAGRAM: Array<Datagram> = Array::with_max_entries(1, 0);

#[map(name = "EVENTS")]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// Events that found the ring full.
#[map(name = "EVENTS_LOST")]
pub(crate) static EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Ports at which the agent wants to be told of the next listener. This one and the next are not
/// pinned: an agent asks for what it waits for.
#[map(name = "AWAITED")]
pub(crate) static AWAITED: HashMap<AwaitedPort, u8> =
    HashMap::with_max_entries(MAX_AWAITED, BPF_F_NO_PREALLOC);

/// Those of them that have one.
#[map(name = "ARRIVED")]
pub(crate) static ARRIVED: RingBuf = RingBuf::with_byte_size(ARRIVED_RING_BYTES, 0);

/// Debug lines that the loud programs began to write.
#[map(name = "LINES")]
pub(crate) static LINES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// A destination of a pod.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// The id of the pod's cgroup.
    pub(crate) pod: u64,
    /// As the application gives it to connect().
    pub(crate) address: Address,
    /// Keeps the size a multiple of eight.
    pub(crate) reserved: u32,
}

/// Destinations whose SYNs turned out to be redirected to the proxy while it was to refuse them.
/// A connect hook runs before NAT and cannot know; a socket has to find out for the others.
#[map(name = "REDIRECTED")]
pub(crate) static REDIRECTED: LruHashMap<Target, u8> =
    LruHashMap::with_max_entries(MAX_REDIRECTED, 0);

#[map(name = "SENTRY")]
pub(crate) static SENTRY: Array<Sentry> = Array::with_max_entries(1, 0);

#[map(name = "POST")]
pub(crate) static POST: Array<Post> = Array::with_max_entries(1, 0);

/// `CLOCK_MONOTONIC` nanoseconds since which no agent works; 0: one does. Written by whoever posts the
/// sentry, and by the agent that works: not in `POST`, which it must not touch before it relieves it.
#[map(name = "AWAY_SINCE")]
pub(crate) static AWAY_SINCE: Array<u64> = Array::with_max_entries(1, 0);

/// The ids of the cgroups below which pods' cgroups are, while a sentry is posted.
#[map(name = "BRANCHES")]
pub(crate) static BRANCHES: HashMap<u64, u8> =
    HashMap::with_max_entries(MAX_BRANCHES, BPF_F_NO_PREALLOC);

/// When the sentry has dropped the first SYN of a pod. Never cleared: a pod is taken up by an agent,
/// or gone, before a sentry is posted again. One that is forgotten too early has the bound of each
/// socket still.
#[map(name = "WAITING_SINCE")]
pub(crate) static WAITING_SINCE: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_GATES, 0);

/// The course of one hold, in the socket itself: it needs no table, so nothing can crowd it out,
/// and it goes with the socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Hold {
    /// The id of the pod's cgroup.
    pub(crate) pod: u64,
    /// When the first packet was dropped; what a budget is counted from.
    pub(crate) first_ns: u64,
    /// Packets dropped, for which the socket waits.
    pub(crate) drops: u32,
    /// Drops that were answered with a back-off.
    pub(crate) backoffs: u32,
    /// The socket's own TCP_SYNCNT while it has another one for the hold's sake; 0: it has its own.
    pub(crate) own_syncnt: u32,
    /// Whether the other one is already that for the time after the hold. Held once more before it
    /// has connected, the socket gets that of a hold again.
    pub(crate) released: u32,
    /// Whether a `SocketRecord` existed at the first drop.
    pub(crate) recorded: u32,
    /// Whether the socket's timer calls the sock_ops program.
    pub(crate) aided: u32,
    /// Whether the refusal, or the observation, of the socket has been reported.
    pub(crate) told: u32,
    /// A [`GiveUp`].
    pub(crate) give_up: u32,
    /// The socket's own TCP_USER_TIMEOUT while `give_up` is `Set`.
    pub(crate) own_user_timeout: u32,
    /// A [`HeldBy`].
    pub(crate) held_by: u32,
}

/// Who drops a socket's packets.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(crate) enum HeldBy {
    /// The gate of its pod, if anybody; the sentry may have before.
    Gate = 0,
    /// The sentry alone: no agent knows of the socket.
    Sentry = 1,
}

/// How a socket that is to fail although its SYN is dropped gets there.
#[repr(u32)]
#[derive(Clone, Copy)]
pub(crate) enum GiveUp {
    /// It is not to fail.
    No = 0,
    /// The gate, which may not touch the socket's options, has asked for it.
    Asked = 1,
    /// Its TCP_USER_TIMEOUT is such that the next expiry of its timer ends it.
    Set = 2,
}

impl Hold {
    /// That of a socket that begins to connect.
    pub(crate) const NEW: Self = Self {
        pod: 0,
        first_ns: 0,
        drops: 0,
        backoffs: 0,
        own_syncnt: 0,
        released: 0,
        recorded: 0,
        aided: 0,
        told: 0,
        give_up: GiveUp::No as u32,
        own_user_timeout: 0,
        held_by: HeldBy::Gate as u32,
    };

    /// Whether nobody but the sentry has held the socket.
    #[inline(always)]
    pub(crate) const fn is_sentrys(&self) -> bool {
        self.held_by == HeldBy::Sentry as u32
    }

    /// Forgets what nobody but the sentry has held: its pod's gate lets it go.
    #[inline(always)]
    pub(crate) const fn leave_sentry(&mut self) {
        if self.is_sentrys() {
            self.drops = 0;
            self.held_by = HeldBy::Gate as u32;
        }
    }

    /// The answer to a SYN that is dropped, and counted already, `remaining_ns` before the hold ends.
    #[inline(always)]
    pub(crate) const fn answer(&mut self, remaining_ns: u64) -> Answer {
        let answer = if self.aided == 0 {
            pacing::unaided_answer(self.drops, self.backoffs, remaining_ns)
        } else {
            pacing::answer(self.drops, self.backoffs, remaining_ns)
        };
        if matches!(answer, Answer::BackOff) {
            self.backoffs += 1;
        }
        answer
    }
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
