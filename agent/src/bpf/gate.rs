//! The agent's side of the gate: state into the maps, programs onto the pods' cgroups.

use std::{collections::HashMap as StdHashMap, fs::File, path::Path};

use agent_ebpf::{
    Gate, GateCounts, GateMode, GateState,
    gate::{MAX_PORTS, NO_UID},
};
use aya::maps::{HashMap, MapData, MapError};

use super::{
    BpfError,
    program::{Links, Programs, SendLinks, SilenceLink},
    socket::SocketRemover,
};
use crate::core::{CgroupId, GateSetting, Mode, RefuseErrno, SetGate, Verdict};

/// What is on one pod's cgroup. Dropped in this order: nothing drops a query any more when the
/// hooks that make that bearable go.
#[derive(Debug)]
struct Attached {
    _links: Links,
    dns: DnsLinks,
}

/// What the holding of DNS queries takes.
#[derive(Debug, Default)]
struct DnsLinks {
    silence: Option<SilenceLink>,
    send: Option<SendLinks>,
}

/// Works the gates of the node's pods.
pub struct Gates {
    programs: Programs,
    maps: GateMaps,
    socket_quota: u32,
    attached: StdHashMap<CgroupId, Attached>,
}

/// The maps that the agent writes.
pub(super) struct GateMaps {
    pub(super) gates: HashMap<MapData, u64, Gate>,
    pub(super) counts: HashMap<MapData, u64, GateCounts>,
    pub(super) containers: HashMap<MapData, u64, u32>,
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

    pub(super) fn new(programs: Programs, maps: GateMaps, socket_quota: u32) -> Self {
        Self { programs, maps, socket_quota, attached: StdHashMap::new() }
    }

    /// Closes or guards a pod's gate: writes its state, then attaches the programs to the pod's
    /// cgroup at `path` as far as they are not there already.
    ///
    /// # Errors
    ///
    /// [`BpfError`]; the gate is then open and nothing of it is left attached.
    pub fn set(&mut self, set: &SetGate, path: &Path) -> Result<(), BpfError> {
        let result = self.try_set(set, path);
        if result.is_err() {
            self.detach(set.cgroup, &[]);
        }
        result
    }

    fn try_set(&mut self, set: &SetGate, path: &Path) -> Result<(), BpfError> {
        let cgroup = set.cgroup;
        let file = || {
            File::open(path).map_err(|source| BpfError::Cgroup { path: path.to_owned(), source })
        };
        let is_new = !self.attached.contains_key(&cgroup);
        if is_new {
            let zero = GateCounts::default();
            self.maps
                .counts
                .insert(cgroup.0, zero, 0)
                .map_err(|source| write_failed(Self::COUNTS_MAP, source))?;
        }

        let wants = DnsNeeds::of(set);
        let mut dns = match self.attached.get_mut(&cgroup) {
            Some(attached) => std::mem::take(&mut attached.dns),
            None => DnsLinks::default(),
        };
        // Before the state is written: no query must be dropped while its sender would be told.
        if wants.send && dns.send.is_none() {
            dns.send = Some(self.programs.attach_send(&file()?)?);
        }
        if wants.silence && dns.silence.is_none() {
            dns.silence = Some(self.programs.attach_silence(&file()?)?);
        }
        self.write(cgroup, self.gate_of(set))?;
        if !wants.send {
            dns.send = None;
        }
        if !wants.silence {
            dns.silence = None;
        }
        match self.attached.get_mut(&cgroup) {
            Some(attached) => attached.dns = dns,
            None => {
                let links = self.programs.attach(&file()?)?;
                self.attached.insert(cgroup, Attached { _links: links, dns });
            }
        }
        Ok(())
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
        let (state, deadline_ns, refuse_until_ns, guard_ns) = match state {
            GateSetting::Closed { deadline, refuse_until } => {
                (GateState::Closed, deadline.0, refuse_until.map_or(0, |until| until.0), 0)
            }
            GateSetting::Guarded { budget } => {
                let budget = u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX);
                (GateState::Guarded, 0, 0, budget)
            }
        };
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
        Gate {
            deadline_ns,
            refuse_until_ns,
            guard_ns,
            state: state as u32,
            mode: mode as u32,
            socket_quota: self.socket_quota,
            proxy_uid: proxy_uid.unwrap_or(NO_UID),
            errno: errno.unsigned_abs(),
            dns_port: dns_port.unwrap_or(0),
            reserved: 0,
            ports: named,
        }
    }

    /// Opens a pod's gate. From the return of this call on no SYN of the pod is dropped, except by
    /// a program run that had begun before it.
    ///
    /// # Errors
    ///
    /// [`BpfError`]; the caller should then detach, which opens as well.
    pub fn open(&mut self, cgroup: CgroupId) -> Result<(), BpfError> {
        let gate = Gate {
            deadline_ns: 0,
            refuse_until_ns: 0,
            guard_ns: 0,
            state: GateState::Open as u32,
            mode: GateMode::Hold as u32,
            socket_quota: self.socket_quota,
            proxy_uid: NO_UID,
            errno: 0,
            dns_port: 0,
            reserved: 0,
            ports: [0; MAX_PORTS],
        };
        self.write(cgroup, gate)
    }

    fn write(&mut self, cgroup: CgroupId, gate: Gate) -> Result<(), BpfError> {
        self.maps.gates.insert(cgroup.0, gate, 0).map_err(|source| write_failed(Self::MAP, source))
    }

    /// Takes the programs off a pod's cgroup and removes all that the maps hold of it. There is
    /// nothing that could fail and leave the gate closed: dropping a link is closing a descriptor.
    pub fn detach(&mut self, cgroup: CgroupId, containers: &[CgroupId]) {
        drop(self.attached.remove(&cgroup));
        for container in containers {
            self.forget_verdict(*container);
        }
        // Walking a table is for the few that go with something still in it.
        let counts = self.counts(cgroup).unwrap_or_default();
        let _: Result<(), MapError> = self.maps.gates.remove(&cgroup.0);
        let _: Result<(), MapError> = self.maps.counts.remove(&cgroup.0);
        if counts.records > 0 {
            self.maps.sockets.forget_records(cgroup);
        }
        if counts.datagrams > 0 {
            self.maps.sockets.forget_datagrams(cgroup);
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

    /// What the kernel counted for a gate that is attached.
    #[must_use]
    pub fn counts(&self, cgroup: CgroupId) -> Option<GateCounts> {
        self.maps.counts.get(&cgroup.0, 0).ok()
    }
}

/// Which of the DNS hooks a gate needs.
struct DnsNeeds {
    /// To know who asks, and whom.
    send: bool,
    /// To drop queries unheard.
    silence: bool,
}

impl DnsNeeds {
    fn of(set: &SetGate) -> Self {
        let closed = set.dns_port.is_some() && matches!(set.state, GateSetting::Closed { .. });
        match set.mode {
            Mode::Hold | Mode::Retry => Self { send: closed, silence: closed },
            Mode::Observe => Self { send: closed, silence: false },
            // Queries pass.
            Mode::Refuse => Self { send: false, silence: false },
        }
    }
}

fn write_failed(map: &'static str, source: MapError) -> BpfError {
    BpfError::Map { operation: "write to", map, source: Box::new(source) }
}
