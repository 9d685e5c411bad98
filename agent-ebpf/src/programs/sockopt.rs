//! `cgroup/setsockopt`: keeps resolvers from hearing of dropped queries.
//!
//! A dropped datagram is silent only for a socket without `IP_RECVERR`; with it, which glibc's
//! resolver sets, sendto() fails with ENOBUFS (`udp_send_skb` in net/ipv4/udp.c). So while queries
//! are held the option is not set, though the call succeeds.

use agent_ebpf::Treatment;
use aya_ebpf::{
    bindings::bpf_sockopt,
    helpers::{bpf_get_current_cgroup_id, bpf_ktime_get_ns},
    programs::SockoptContext,
};

use super::{
    maps::HOLDFAST_SOCKOPT_ANCESTORS,
    pod::{self, Standing},
    sock::{IPPROTO_UDP, SOCK_DGRAM},
};

const IPPROTO_IP: i32 = 0;
const IPPROTO_IPV6: i32 = 41;
const IP_RECVERR: i32 = 11;
const IPV6_RECVERR: i32 = 25;

/// The kernel hands at most a page to programs, and fails a call with a longer value unless a
/// program declines it (`__cgroup_bpf_run_filter_setsockopt` in kernel/bpf/cgroup.c). With larger
/// pages more is declined than need be, to no effect.
const PAGE_SIZE: i32 = 4096;

/// "The caller's own value, unchanged."
const AS_GIVEN: i32 = 0;

/// "Done; the kernel need not look at it."
const SWALLOWED: i32 = -1;

#[inline(always)]
pub(crate) fn on_call(ctx: &SockoptContext) {
    let call = ctx.sockopt;
    // SAFETY: context fields, read at their own offsets.
    let (level, name, len) = unsafe { ((*call).level, (*call).optname, (*call).optlen) };
    if len > PAGE_SIZE {
        // SAFETY: a context field that a setsockopt program may write.
        unsafe { (*call).optlen = AS_GIVEN };
        return;
    }
    let is_recverr = (level == IPPROTO_IP && name == IP_RECVERR)
        || (level == IPPROTO_IPV6 && name == IPV6_RECVERR);
    if is_recverr && enables(call) && is_udp(call) && is_held() {
        // SAFETY: as above.
        unsafe { (*call).optlen = SWALLOWED };
    }
}

/// Whether the value is an integer, or a byte, other than zero. The program sees 16 bytes at least,
/// zeros behind a shorter value.
#[inline(always)]
fn enables(call: *const bpf_sockopt) -> bool {
    // SAFETY: context fields, read at their own offsets.
    let (value, end) = unsafe {
        ((*call).__bindgen_anon_2.optval as usize, (*call).__bindgen_anon_3.optval_end as usize)
    };
    // SAFETY: within the value as compared.
    value + size_of::<u32>() <= end && unsafe { *(value as *const u32) != 0 }
}

#[inline(always)]
fn is_udp(call: *const bpf_sockopt) -> bool {
    // SAFETY: a context field.
    let sk = unsafe { (*call).__bindgen_anon_1.sk };
    // SAFETY: the call's socket; full, since it has an owner.
    !sk.is_null() && unsafe { (*sk).type_ == SOCK_DGRAM && (*sk).protocol == IPPROTO_UDP }
}

/// Whether the caller's queries are held.
#[inline(always)]
fn is_held() -> bool {
    if HOLDFAST_SOCKOPT_ANCESTORS.load() != 0 {
        // SAFETY: the helper has no precondition.
        let now = unsafe { bpf_ktime_get_ns() };
        return pod::of_current().is_some_and(|found| {
            found.gate.dns_port != 0
                && found.gate.treatment(now) == Treatment::Hold
                && found.standing() == Standing::Held
        });
    }
    // The pod cannot be found, but the program is attached only while its gate holds queries, and
    // for the moments after its opening. A container that runs its processes in cgroups of its own
    // is taken for one that is held.
    // SAFETY: the helper has no precondition.
    pod::standing(unsafe { bpf_get_current_cgroup_id() }) == Standing::Held
}
