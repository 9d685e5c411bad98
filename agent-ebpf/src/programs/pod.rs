//! From a cgroup to the pod and the container it belongs to.
//!
//! Gates are keyed by the id of the pod's cgroup; a process sits in a container's cgroup below it,
//! or deeper. The level of the pod's cgroup differs between cgroup drivers and in nested clusters,
//! so it is found by walking down from the root.

use agent_ebpf::Gate;
use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::programs::SkBuffContext;

use super::maps::GATES;

/// kubepods/qos/pod is level 3; kind and other nested set-ups add some. Level 0 is the root.
const MAX_LEVEL: i32 = 16;

pub(crate) struct Found {
    /// The id of the pod's cgroup.
    pub(crate) pod: u64,
    /// The id of the container's cgroup; 0: directly in the pod's.
    pub(crate) container: u64,
    pub(crate) gate: &'static Gate,
}

#[inline(always)]
fn walk(ancestor: impl Fn(i32) -> u64) -> Option<Found> {
    for level in 1..MAX_LEVEL {
        let pod = ancestor(level);
        if pod == 0 {
            return None;
        }
        // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
        if let Some(gate) = unsafe { GATES.get(pod) } {
            let container = ancestor(level + 1);
            return Some(Found { pod, container, gate });
        }
    }
    None
}

/// The pod of the socket that sends this packet. Hooks and this walk both follow the cgroup in
/// which the socket was made, not the one its process is in now.
#[inline(always)]
pub(crate) fn of_packet(ctx: &SkBuffContext) -> Option<Found> {
    // SAFETY: the context is the one the program was given.
    walk(|level| unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level) })
}

/// The pod of the calling process.
#[inline(always)]
pub(crate) fn of_current() -> Option<Found> {
    // SAFETY: the helper takes any level and answers 0 for one that does not exist.
    walk(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}
