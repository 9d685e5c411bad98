//! The agent's side of the gate: state into the maps, programs onto the pods' cgroups.

use std::{
    collections::HashMap as StdHashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use agent_ebpf::{
    Gate, GateCounts, GateMode, GateState,
    gate::{MAX_PORTS, NO_UID, SOMEBODY_WAITS},
};
use aya::maps::{HashMap, MapData, MapError};

use super::{
    BpfError,
    inherit::{Left, reason_code},
    link::Link,
    pin::Claim,
    program::{Hook, LoudPrograms, Voice},
    socket::{SocketRemover, SocketTable},
    voice::Voices,
};
use crate::core::{
    CgroupId, GateSetting, InheritedGate, Mode, Monotonic, RefuseErrno, SetGate, Verdict,
};

/// What is on one pod's cgroup. Dropping it takes everything off again.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// Sorted by hook, which is the order in which they come off.
    pub(super) links: Vec<(Hook, Link)>,
    /// Those of another version's agent. They stay until this one's own are there.
    pub(super) foreign: Vec<Link>,
    /// When their gate opens by itself.
    pub(super) foreign_deadline: Option<Monotonic>,
    /// Where the links have their names.
    pub(super) directories: Vec<PathBuf>,
}

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

/// The maps that the agent writes.
pub(super) struct GateMaps {
    pub(super) gates: HashMap<MapData, u64, Gate>,
    pub(super) counts: HashMap<MapData, u64, GateCounts>,
    pub(super) containers: HashMap<MapData, u64, u32>,
    pub(super) table: SocketTable,
    pub(super) sockets: SocketRemover,
}

impl std::fmt::Debug for Gates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gates").field("attached", &self.attached.keys()).finish_non_exhaustive()
    }
}

// === impl Attached ===

impl Attached {
    fn has(&self, hook: Hook) -> bool {
        self.links.iter().any(|(attached, _)| *attached == hook)
    }

    /// Whether there were any.
    fn drop_foreign(&mut self) -> bool {
        let some = !self.foreign.is_empty();
        if some {
            self.foreign.clear();
            self.foreign_deadline = None;
            // This version's own is not empty.
            self.directories.retain(|directory| fs::remove_dir(directory).is_err());
        }
        some
    }

    pub(super) fn leave(&mut self) {
        self.links.drain(..).for_each(|(_, link)| link.leave());
        self.foreign.drain(..).for_each(Link::leave);
        self.directories.clear();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.links.clear();
        self.foreign.clear();
        for directory in &self.directories {
            let _: io::Result<()> = fs::remove_dir(directory);
        }
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

    /// Whether the programs are on a pod's cgroup.
    #[must_use]
    pub fn has(&self, cgroup: CgroupId) -> bool {
        self.attached.contains_key(&cgroup)
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
        // Before the state is written: no query must be dropped while its sender would be told.
        self.attach(dns, cgroup, path, attached)?;
        let gate = self.gate_of(set);
        let was_whole = Hook::HOLD.into_iter().all(|hook| attached.has(hook));
        self.write(cgroup, Gate { attached: was_whole.into(), ..gate })?;
        attached.links.retain(|(hook, _)| !Hook::DNS.contains(hook) || dns.contains(hook));
        self.attach(&Hook::HOLD, cgroup, path, attached)?;
        if !was_whole {
            // Only now nothing gets by if a sentry that is posted turns away from the pod.
            self.write(cgroup, gate)?;
        }
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

    /// Attaches what is not there yet, and gives it a name that outlives the agent.
    fn attach(
        &mut self,
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
            let mut link = self.voices.attach(hook, cgroup, &file)?;
            self.pin(&mut link, hook, cgroup, attached);
            attached.links.push((hook, link));
            attached.links.sort_by_key(|(hook, _)| *hook);
        }
        Ok(())
    }

    /// Without a name it goes with the agent, as everything does where there is no BPF file system.
    fn pin(&mut self, link: &mut Link, hook: Hook, cgroup: CgroupId, attached: &mut Attached) {
        let Some(claim) = &self.claim else { return };
        let directory = claim.links_of(cgroup);
        if !attached.directories.contains(&directory) {
            // If it cannot be made nothing can be pinned in it, which says so.
            let _: io::Result<()> = fs::create_dir(&directory);
            attached.directories.push(directory.clone());
        }
        if let Err(error) = link.pin(directory.join(hook.name()))
            && !self.pin_failed
        {
            self.pin_failed = true;
            tracing::warn!(
                directory = %directory.display(), %error,
                "links cannot be pinned: gates open when this agent ends"
            );
        }
    }

    fn gate_of(&self, set: &SetGate) -> Gate {
        let SetGate {
            uid: _,
            cgroup: _,
            state,
            renews: _,
            mode,
            errno,
            proxy_uid,
            ports,
            dns_port,
        } = set;
        let mut named = [0; MAX_PORTS];
        for (slot, port) in named.iter_mut().zip(ports) {
            *slot = *port;
        }
        let mode = match mode {
            // Who sends the SYN again makes no difference to its being dropped.
            Mode::Hold | Mode::Retry => GateMode::Hold,
            Mode::Refuse => GateMode::Refuse,
            Mode::Observe => GateMode::Observe,
        };
        let errno = match errno {
            RefuseErrno::ConnRefused => libc::ECONNREFUSED,
            RefuseErrno::Again => libc::EAGAIN,
            RefuseErrno::TimedOut => libc::ETIMEDOUT,
        };
        let gate = Gate {
            mode: mode as u32,
            proxy_uid: proxy_uid.unwrap_or(NO_UID),
            errno: errno.unsigned_abs(),
            dns_port: dns_port.unwrap_or(0),
            ports: named,
            ..self.open_gate()
        };
        match state {
            GateSetting::Closed { reason, since, reached_before, deadline, refuse_until } => Gate {
                state: GateState::Closed as u32,
                deadline_ns: deadline.0,
                since_ns: since.0,
                reached_before: reached_before.unwrap_or(SOMEBODY_WAITS),
                refuse_until_ns: refuse_until.map_or(0, |until| until.0),
                closed_for: reason_code(*reason),
                ..gate
            },
            GateSetting::Guarded { budget } => Gate {
                state: GateState::Guarded as u32,
                guard_ns: u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX),
                ..gate
            },
        }
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

    /// Has a pod's programs write debug lines, or no more: from now on, and whenever its gate is
    /// attached again. Its gate does what it did, at every instant.
    ///
    /// # Errors
    ///
    /// [`BpfError::NotLoaded`] before [`Self::loud_programs`] are loaded, or [`BpfError`] if the
    /// kernel refuses the exchange; everything is then as it was.
    pub fn set_kernel_log(&mut self, pod: CgroupId, on: bool) -> Result<(), BpfError> {
        let voice = if on { Voice::Loud } else { Voice::Silent };
        let attached = self.attached.get(&pod).or_else(|| Some(&self.left.get(&pod)?.attached));
        let links = attached.map_or(&[][..], |attached| &attached.links);
        self.voices.set(pod, voice, links)
    }

    /// What has to be loaded before a pod's programs can write debug lines. It is for others to do:
    /// who works the gates has no time for it.
    #[must_use]
    pub fn loud_programs(&self) -> LoudPrograms {
        self.voices.loud_programs().clone()
    }

    /// Treats a pod as one for which nothing was asked: of one that is gone the agent has to say so,
    /// because the number of its cgroup may become another one's.
    ///
    /// # Errors
    ///
    /// As [`Self::set_kernel_log`].
    pub fn reset_kernel_log(&mut self, pod: CgroupId) -> Result<(), BpfError> {
        let is_loud = self.voices.usual() == Voice::Loud;
        self.set_kernel_log(pod, is_loud)
    }

    /// Whether a pod's programs write debug lines.
    #[must_use]
    pub fn has_kernel_log(&self, pod: CgroupId) -> bool {
        self.voices.of(pod) == Voice::Loud
    }

    /// What is on which cgroup.
    pub(super) fn attached(&self) -> impl Iterator<Item = (CgroupId, &Attached)> {
        self.attached.iter().map(|(cgroup, attached)| (*cgroup, attached))
    }

    /// The same of what another agent has left.
    pub(super) fn left(&self) -> impl Iterator<Item = (CgroupId, &Attached)> {
        self.left.iter().map(|(cgroup, left)| (*cgroup, &left.attached))
    }

    /// Where things are pinned, if they are.
    pub(super) const fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// What the programs read of a gate.
    pub(super) fn state(&self, cgroup: CgroupId) -> Option<Gate> {
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

    fn dropped_by(&self, cgroup: CgroupId) -> i64 {
        self.counts(cgroup).map_or(0, |counts| counts.dropped as i64)
    }
}

/// The hooks that a gate needs for DNS queries.
fn dns_hooks(set: &SetGate) -> &'static [Hook] {
    if set.dns_port.is_none() || !matches!(set.state, GateSetting::Closed { .. }) {
        return &[];
    }
    match set.mode {
        Mode::Hold | Mode::Retry => &Hook::DNS,
        // To know who asks, and whom; none is dropped.
        Mode::Observe => &Hook::SEND,
        // Queries pass.
        Mode::Refuse => &[],
    }
}

fn keys<V: aya::Pod>(map: &HashMap<MapData, u64, V>) -> Vec<u64> {
    map.keys().filter_map(Result::ok).collect()
}

fn write_failed(map: &'static str, source: MapError) -> BpfError {
    BpfError::Map { operation: "write to", map, source: Box::new(source) }
}
