//! The agent's side of the gate: state into the maps, programs onto the pods' cgroups.

mod attached;
mod kernel_log;
mod reading;
mod state;

use std::{
    collections::HashMap as StdHashMap,
    fs::{self, File},
    io,
    path::Path,
};

use agent_ebpf::{Gate, GateCounts};
use aya::maps::{HashMap, MapData, MapError};

pub(super) use self::attached::Attached;
pub use self::reading::GateTotals;
use self::state::{dns_hooks, gate_of};
use super::{
    BpfError,
    away::{self, Away},
    inherit::Left,
    map::write_failed,
    pin::{self, Claim},
    program::Hook,
    socket::{SocketRemover, SocketTable},
    voice::Voices,
};
use crate::core::{CgroupId, InheritedGate, SetGate, Verdict};

/// Works the gates of the node's pods. Dropping it opens and detaches all of them; [`Gates::leave`]
/// leaves them to the next agent.
pub struct Gates {
    voices: Voices,
    maps: GateMaps,
    socket_quota: u32,
    attached: StdHashMap<CgroupId, Attached>,
    /// What another agent has left and no pod has been found for yet.
    left: StdHashMap<CgroupId, Left>,
    claim: Option<Claim>,
    /// A link could not be pinned, and this was said.
    pin_failed: bool,
    /// What the gates that are gone have dropped, less what others had dropped before an earlier
    /// agent left them to this one: with what those that are there have dropped it is what has been
    /// dropped since this one was started.
    dropped_before: i64,
}

/// The maps that the agent writes.
pub(super) struct GateMaps {
    pub(super) gates: HashMap<MapData, u64, Gate>,
    pub(super) counts: HashMap<MapData, u64, GateCounts>,
    pub(super) containers: HashMap<MapData, u64, u32>,
    pub(super) away: Away,
    pub(super) table: SocketTable,
    pub(super) sockets: SocketRemover,
}

impl std::fmt::Debug for Gates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gates").field("attached", &self.attached.keys()).finish_non_exhaustive()
    }
}

// === impl Gates ===

impl Gates {
    pub(super) const MAP: &'static str = "GATES";
    pub(super) const COUNTS_MAP: &'static str = "COUNTS";
    pub(super) const CONTAINERS_MAP: &'static str = "CONTAINERS";

    pub(super) fn new(
        voices: Voices,
        maps: GateMaps,
        socket_quota: u32,
        left: StdHashMap<CgroupId, Left>,
        claim: Option<Claim>,
    ) -> Self {
        let mut gates = Self {
            voices,
            maps,
            socket_quota,
            attached: StdHashMap::new(),
            left,
            claim,
            pin_failed: false,
            dropped_before: 0,
        };
        gates.forget_stray();
        gates
    }

    /// The gate that another agent has left on a pod's cgroup, which is this one's from now on: its
    /// programs are this agent's already, its state is as it was.
    pub fn inherit(&mut self, cgroup: CgroupId) -> Option<InheritedGate> {
        let Left { attached, gate, counts } = self.left.remove(&cgroup)?;
        self.dropped_before -= self.dropped_by(cgroup);
        self.attached.insert(cgroup, attached);
        Some(self.look_again(cgroup, gate, counts))
    }

    /// Whoever has come since this agent was started, or has gone, may have been reported when nobody
    /// knew whose that was.
    fn look_again(
        &self,
        cgroup: CgroupId,
        gate: InheritedGate,
        before: GateCounts,
    ) -> InheritedGate {
        // Before the table: who comes between the two is known, and not taken for another one.
        let Some(counts) = self.counts(cgroup) else { return gate };
        // Walking the table is for the few at which something has happened.
        let seen = |counts: GateCounts| (counts.reached(), counts.records, counts.datagrams);
        if seen(counts) == seen(before) {
            return gate;
        }
        let waiting = self.maps.table.waiting_at(cgroup);
        InheritedGate { waiting, reached: counts.reached(), ..gate }
    }

    /// Takes down what was left for pods that are not there any more, `containers` being all that
    /// are.
    pub fn forget_left(&mut self, containers: impl Fn(CgroupId) -> bool) {
        for cgroup in self.left.keys().copied().collect::<Vec<_>>() {
            self.left.remove(&cgroup);
            self.detach(cgroup, &[]);
        }
        let gone = |container: &u64| !containers(CgroupId(*container));
        for container in keys(&self.maps.containers).into_iter().filter(gone) {
            self.forget_verdict(CgroupId(container));
        }
        self.sweep();
    }

    /// Of another version's agent the directory goes with the last of its links.
    fn sweep(&self) {
        if let Some(claim) = &self.claim {
            claim.sweep();
        }
    }

    /// Has it told that an agent works, if that could not be told when this one began: until then a
    /// sentry may be posted beside it. `None`: it is known already.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if the lock cannot be used.
    pub fn begin_work_late(&mut self) -> Option<Result<bool, BpfError>> {
        let claim = self.claim.as_mut().filter(|claim| !claim.is_at_work())?;
        Some(claim.begin_work_late())
    }

    /// Tells the closed gates that an agent works, and opens them in time: none lets pass who finds a
    /// listener any more, of whichever version its programs are.
    ///
    /// # Errors
    ///
    /// [`BpfError`] with what could not be told.
    pub fn attend(&mut self) -> Result<(), BpfError> {
        self.maps.away.set(None)?;
        let Some(claim) = &self.claim else { return Ok(()) };
        let others = claim.others().map_err(|error| pin::failed(claim.root(), error))?;
        others.iter().map(|version| away::end_in(version)).fold(Ok(()), Result::and)
    }

    /// Whether gates can be left to the next agent: there is a BPF file system.
    #[must_use]
    pub const fn outlive_the_agent(&self) -> bool {
        self.claim.is_some()
    }

    /// Leaves all gates as they stand to the next agent; without a BPF file system they open.
    pub fn leave(mut self) {
        let left = self.left.drain().map(|(cgroup, left)| (cgroup, left.attached));
        for (cgroup, mut attached) in self.attached.drain().chain(left) {
            self.voices.hush(cgroup, &attached.links);
            attached.leave();
        }
    }

    /// Opens all gates and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`BpfError::Pin`] if something of the agent's directory cannot be removed.
    pub fn remove(self) -> Result<(), BpfError> {
        let Self { attached, left, claim, .. } = self;
        drop((attached, left));
        claim.map_or(Ok(()), Claim::remove)
    }

    /// Closes or guards a pod's gate: writes its state, then attaches the programs to the pod's
    /// cgroup at `path` as far as they are not there already.
    ///
    /// # Errors
    ///
    /// [`BpfError`]. A gate that was to be renewed stays as it was if the reason may pass
    /// ([`Self::has`]): it has its deadline. Any other is open then, and nothing of it is left attached.
    pub fn set(&mut self, set: &SetGate, path: &Path) -> Result<(), BpfError> {
        let mut attached = self.attached.remove(&set.cgroup).unwrap_or_default();
        let replaces_foreign = !attached.foreign.is_empty();
        let stood = set.renews && (replaces_foreign || !attached.links.is_empty());
        match self.try_set(set, path, &mut attached) {
            Ok(()) => {
                self.attached.insert(set.cgroup, attached);
                if replaces_foreign {
                    self.sweep();
                }
                Ok(())
            }
            Err(error) if stood && error.may_pass() => {
                self.attached.insert(set.cgroup, attached);
                Err(error)
            }
            Err(error) => {
                drop(attached);
                self.dropped_before += self.dropped_by(set.cgroup);
                self.detach(set.cgroup, &[]);
                Err(error)
            }
        }
    }

    fn try_set(
        &mut self,
        set: &SetGate,
        path: &Path,
        attached: &mut Attached,
    ) -> Result<(), BpfError> {
        let cgroup = set.cgroup;
        if attached.links.is_empty() {
            self.count_from_zero(cgroup)?;
        }
        let dns = dns_hooks(set);
        let gate = gate_of(set, self.open_gate());
        if !Hook::HOLD.into_iter().all(|hook| attached.has(hook)) {
            // Connects first, with nothing before them that can wait: for a program that is the node's
            // only one of its kind the kernel patches itself, on all processors (`static_key_slow_inc`).
            let sees_queries = dns.iter().all(|hook| attached.has(*hook));
            let dns_port = if sees_queries { gate.dns_port } else { 0 };
            self.write(cgroup, Gate { attached: 0, dns_port, ..gate })?;
            self.attach(&Hook::HOLD, cgroup, path, attached)?;
        }
        // Before the state has the port: no query must be dropped while its sender would be told.
        self.attach(dns, cgroup, path, attached)?;
        let outlives = self.pin(cgroup, attached);
        // Only now nothing gets by if a sentry that is posted turns away from the pod, even if this
        // agent is killed.
        self.write(cgroup, Gate { attached: outlives.into(), ..gate })?;
        attached.links.retain(|(hook, _)| !Hook::DNS.contains(hook) || dns.contains(hook));
        attached.drop_foreign();
        Ok(())
    }

    fn count_from_zero(&mut self, cgroup: CgroupId) -> Result<(), BpfError> {
        let zero = GateCounts::default();
        let written = self.maps.counts.insert(cgroup.0, zero, 0);
        written.map_err(|source| write_failed(Self::COUNTS_MAP, source))
    }

    /// Tries whether a gate could be set: all that it takes is done, in a state in which everything
    /// passes, and undone.
    ///
    /// # Errors
    ///
    /// [`BpfError`], as [`Self::set`] would return it.
    pub fn prove(&mut self, cgroup: CgroupId, path: &Path) -> Result<(), BpfError> {
        let mut attached = Attached::default();
        let proven = self
            .count_from_zero(cgroup)
            // Whether it comes to a gate is open: until then the pod is the sentry's, if one is posted.
            .and_then(|()| self.write(cgroup, Gate { attached: 0, ..self.open_gate() }))
            .and_then(|()| self.attach(&Hook::HOLD, cgroup, path, &mut attached));
        drop(attached);
        self.detach(cgroup, &[]);
        proven
    }

    /// Attaches what is not there yet. It goes with the agent until it has a name ([`Self::pin`]).
    fn attach(
        &self,
        hooks: &[Hook],
        cgroup: CgroupId,
        path: &Path,
        attached: &mut Attached,
    ) -> Result<(), BpfError> {
        let missing: Vec<Hook> =
            hooks.iter().copied().filter(|hook| !attached.has(*hook)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let file = File::open(path)
            .map_err(|source| BpfError::Cgroup { path: path.to_owned(), source })?;
        for hook in missing {
            attached.links.push((hook, self.voices.attach(hook, cgroup, &file)?));
            attached.links.sort_by_key(|(hook, _)| *hook);
        }
        Ok(())
    }

    /// Gives what is attached names that outlive the agent, the gate last and only if all others have
    /// one: an agent that is killed leaves none that drops what no hook looks after. What has no name goes
    /// with the agent, as everything does where there is no BPF file system, nor a sentry to tell of it.
    fn pin(&mut self, cgroup: CgroupId, attached: &mut Attached) -> bool {
        let Some(claim) = &self.claim else { return true };
        let directory = claim.links_of(cgroup);
        for (hook, link) in attached.links.iter_mut().rev() {
            if link.pin_path().is_some() {
                continue;
            }
            if !attached.directories.contains(&directory) {
                // If it cannot be made nothing can be pinned in it, which says so.
                let _: io::Result<()> = fs::create_dir(&directory);
                attached.directories.push(directory.clone());
            }
            if let Err(error) = link.pin(directory.join(hook.name())) {
                if !std::mem::replace(&mut self.pin_failed, true) {
                    tracing::warn!(
                        directory = %directory.display(), %error,
                        "links cannot be pinned: gates open when this agent ends"
                    );
                }
                return false;
            }
        }
        true
    }

    const fn open_gate(&self) -> Gate {
        Gate { socket_quota: self.socket_quota, ..Gate::OPEN }
    }

    /// Opens a pod's gate. From the return of this call on no SYN of the pod is dropped, except by
    /// a program run that had begun before it.
    ///
    /// # Errors
    ///
    /// [`BpfError`]; the caller should then detach, which opens as well.
    pub fn open(&mut self, cgroup: CgroupId) -> Result<(), BpfError> {
        // Another version's programs do not read this one's maps.
        if self.attached.get_mut(&cgroup).is_some_and(Attached::drop_foreign) {
            self.sweep();
        }
        self.write(cgroup, self.open_gate())
    }

    fn write(&mut self, cgroup: CgroupId, gate: Gate) -> Result<(), BpfError> {
        self.maps.gates.insert(cgroup.0, gate, 0).map_err(|source| write_failed(Self::MAP, source))
    }

    /// Takes the programs off a pod's cgroup and removes all that the maps hold of it. There is
    /// nothing that could fail and leave the gate closed: what cannot be taken off finds no gate.
    pub fn detach(&mut self, cgroup: CgroupId, containers: &[CgroupId]) {
        let attached = self.attached.remove(&cgroup);
        let was_attached = attached.is_some();
        if let Some(attached) = attached.filter(|attached| !attached.foreign.is_empty()) {
            drop(attached);
            self.sweep();
        }
        for container in containers {
            self.forget_verdict(*container);
        }
        // Walking a table is for the few that go with something still in it.
        let counts = self.counts(cgroup).unwrap_or_default();
        if was_attached {
            self.dropped_before += counts.dropped as i64;
        }
        let _: Result<(), MapError> = self.maps.gates.remove(&cgroup.0);
        let _: Result<(), MapError> = self.maps.counts.remove(&cgroup.0);
        if counts.records > 0 {
            self.maps.sockets.forget_records(cgroup);
        }
        if counts.datagrams > 0 {
            self.maps.sockets.forget_datagrams(cgroup);
        }
    }

    /// Removes the gates on which no program is left: their agent was killed between two steps, or
    /// their pod has gone meanwhile.
    fn forget_stray(&mut self) {
        let mut stray = keys(&self.maps.gates);
        stray.extend(keys(&self.maps.counts));
        for cgroup in stray.into_iter().map(CgroupId) {
            if !self.left.contains_key(&cgroup) {
                self.detach(cgroup, &[]);
            }
        }
    }

    /// Tells the kernel whether a container is held while its pod's gate is closed.
    ///
    /// # Errors
    ///
    /// [`BpfError`]; the container is then held, until the deadline at the latest.
    pub fn set_verdict(&mut self, container: CgroupId, verdict: Verdict) -> Result<(), BpfError> {
        let verdict = match verdict {
            Verdict::Hold => agent_ebpf::ContainerVerdict::Hold,
            Verdict::Pass => agent_ebpf::ContainerVerdict::Pass,
            Verdict::PassAndTell => agent_ebpf::ContainerVerdict::PassAndTell,
        };
        self.maps
            .containers
            .insert(container.0, verdict as u32, 0)
            .map_err(|source| write_failed(Self::CONTAINERS_MAP, source))
    }

    /// Removes what was set for a container. Most have no entry: they are held.
    pub fn forget_verdict(&mut self, container: CgroupId) {
        let _: Result<(), MapError> = self.maps.containers.remove(&container.0);
    }
}

fn keys<V: aya::Pod>(map: &HashMap<MapData, u64, V>) -> Vec<u64> {
    map.keys().filter_map(Result::ok).collect()
}
