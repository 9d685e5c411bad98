//! How the gates stand, as the kernel has it.

use agent_ebpf::{Gate, GateCounts, GateState};

use super::{Attached, Gates};
use crate::{
    bpf::pin::Claim,
    core::{CgroupId, Monotonic},
};

/// What the kernel keeps for all gates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateTotals {
    /// Packets that closed gates have dropped since the agent was started.
    pub dropped: u64,
    /// Held sockets that have a record now.
    pub records: u64,
    /// Queries that have one.
    pub datagrams: u64,
}

impl Gates {
    /// Whether the programs are on a pod's cgroup.
    #[must_use]
    pub fn has(&self, cgroup: CgroupId) -> bool {
        self.attached.contains_key(&cgroup)
    }

    /// What is on which cgroup.
    pub(in crate::bpf) fn attached(&self) -> impl Iterator<Item = (CgroupId, &Attached)> {
        self.attached.iter().map(|(cgroup, attached)| (*cgroup, attached))
    }

    /// The same of what another agent has left.
    pub(in crate::bpf) fn left(&self) -> impl Iterator<Item = (CgroupId, &Attached)> {
        self.left.iter().map(|(cgroup, left)| (*cgroup, &left.attached))
    }

    /// Where things are pinned, if they are.
    pub(in crate::bpf) const fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// What the programs read of a gate.
    pub(in crate::bpf) fn state(&self, cgroup: CgroupId) -> Option<Gate> {
        self.maps.gates.get(&cgroup.0, 0).ok()
    }

    /// When the kernel opens a pod's gate; `None`: it is not a closed one.
    #[must_use]
    pub fn deadline(&self, cgroup: CgroupId) -> Option<Monotonic> {
        let closed = |gate: &Gate| gate.state == GateState::Closed as u32;
        let own = self.state(cgroup).filter(closed).map(|gate| Monotonic(gate.deadline_ns));
        // Until this version's own is written another's is all there is.
        own.or_else(|| self.attached.get(&cgroup)?.foreign_deadline)
    }

    /// What the kernel counted for a gate that is attached.
    #[must_use]
    pub fn counts(&self, cgroup: CgroupId) -> Option<GateCounts> {
        self.maps.counts.get(&cgroup.0, 0).ok()
    }

    /// What the kernel has counted for all gates: one system call for each that is attached.
    #[must_use]
    pub fn totals(&self) -> GateTotals {
        let mut totals = GateTotals::default();
        let mut dropped = self.dropped_before;
        for counts in self.attached.keys().filter_map(|cgroup| self.counts(*cgroup)) {
            dropped += counts.dropped as i64;
            totals.records += counts.records;
            totals.datagrams += counts.datagrams;
        }
        totals.dropped = dropped.try_into().unwrap_or_default();
        totals
    }

    pub(super) fn dropped_by(&self, cgroup: CgroupId) -> i64 {
        self.counts(cgroup).map_or(0, |counts| counts.dropped as i64)
    }
}
