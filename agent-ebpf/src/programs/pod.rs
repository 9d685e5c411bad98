//! From a cgroup to the pod and the container it belongs to.
//!
//! Gates are keyed by the id of the pod's cgroup; a process sits in a container's cgroup below it,
//! or deeper. The level of the pod's cgroup differs between cgroup drivers and in nested clusters,
//! so it is found by walking down from the root.

use agent_ebpf::{ContainerVerdict, Gate};
use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::programs::SkBuffContext;

use super::maps::{CONTAINERS, GATES, USUAL_LEVEL};

/// kubepods/qos/pod is level 3; kind and other nested set-ups add some. Level 0 is the root.
pub(super) const MAX_LEVEL: i32 = 16;

pub(crate) struct Found {
    /// The id of the pod's cgroup.
    pub(crate) pod: u64,
    /// The id of the container's cgroup; 0: directly in the pod's.
    pub(crate) container: u64,
    pub(crate) gate: &'static Gate,
}

/// A step of the walk.
enum Step {
    Found(Found),
    Down,
    /// Below the process's own cgroup.
    End,
}

/// What is done with a container.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To be held.
    Held,
    /// It passes, and nothing is to be said about it.
    Passes,
    /// It passes, and that is to be reported once.
    PassesUntold,
}

impl Found {
    #[inline(always)]
    pub(crate) fn standing(&self) -> Standing {
        standing(self.container)
    }

    /// Marks the container's passing as reported. Two connects at the same instant may both report
    /// it: an exchange that told them apart exists from Linux 5.12 (`BPF_CMPXCHG`).
    #[inline(always)]
    pub(crate) fn set_told(&self) {
        if let Some(verdict) = CONTAINERS.get_ptr_mut(self.container) {
            // SAFETY: a live map value.
            unsafe { verdict.write(ContainerVerdict::PassTold as u32) };
        }
    }
}

/// What is done with the container of this cgroup. Without a verdict it is held.
#[inline(always)]
pub(crate) fn standing(container: u64) -> Standing {
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    let Some(verdict) = (unsafe { CONTAINERS.get(container) }) else {
        return Standing::Held;
    };
    if *verdict == ContainerVerdict::PassAndTell as u32 {
        Standing::PassesUntold
    } else if *verdict == ContainerVerdict::Hold as u32 {
        Standing::Held
    } else {
        Standing::Passes
    }
}

#[inline(always)]
fn at(ancestor: &impl Fn(i32) -> u64, level: i32) -> Step {
    let pod = ancestor(level);
    if pod == 0 {
        return Step::End;
    }
    // SAFETY: the map is not preallocated, so a removed element stays valid for this run.
    match unsafe { GATES.get(pod) } {
        Some(gate) => Step::Found(Found { pod, container: ancestor(level + 1), gate }),
        None => Step::Down,
    }
}

#[inline(always)]
fn walk(ancestor: impl Fn(i32) -> u64) -> Option<Found> {
    let usual = USUAL_LEVEL.get_ptr_mut(0)?;
    // SAFETY: a live map value, one word that is read and written whole.
    let level = unsafe { usual.read_volatile() };
    if level != 0
        && let Step::Found(found) = at(&ancestor, level as i32)
    {
        return Some(found);
    }
    for level in 1..MAX_LEVEL {
        match at(&ancestor, level) {
            Step::Found(found) => {
                // SAFETY: as above. Not written again: with pods on two levels it would be, all
                // the time.
                unsafe {
                    if usual.read_volatile() == 0 {
                        usual.write_volatile(level as u32);
                    }
                }
                return Some(found);
            }
            Step::Down => {}
            Step::End => return None,
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
