//! The agent's side of the gate: state into the maps, programs onto the pods' cgroups.
//!
//! A link lives as long as its file descriptor. If the agent dies its descriptors close, the
//! kernel detaches the programs, and every gate is open.

use std::{collections::HashMap as StdHashMap, fs::File, path::Path};

use agent_ebpf::{Gate, GateCounts, GateState, gate::MAX_PORTS};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, ProgramError,
        SockOps, cgroup_skb::CgroupSkbLink, cgroup_sock::CgroupSockLink,
        cgroup_sock_addr::CgroupSockAddrLink, sock_ops::SockOpsLink,
    },
};

use super::{BpfError, socket::SocketRemover};
use crate::core::{CgroupId, CloseGate, Verdict};

/// Since Linux 5.7 a cgroup link is always one of many and `bpf_link_create` accepts no flags
/// (`cgroup_bpf_link_attach` in kernel/bpf/cgroup.c). aya 0.14 passes the mode as flags: of its
/// modes only `Single`, which is 0, is accepted, and other programs on the cgroup stay.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

const CONNECT4: &str = "holdfast_connect4";
const CONNECT6: &str = "holdfast_connect6";
const GATE: &str = "holdfast_gate";
const RETRANSMIT: &str = "holdfast_retransmit";
const RELEASE: &str = "holdfast_release";

/// The loaded programs. They stay in the object, which owns them.
pub(super) struct Programs(Ebpf);

/// The programs on one pod's cgroup. Dropping a link detaches it; fields drop in this order: the
/// gate first, so that it drops nothing the other hooks do not see any more.
#[derive(Debug)]
struct Links {
    _gate: CgroupSkbLink,
    _connect: [CgroupSockAddrLink; 2],
    _retransmit: SockOpsLink,
    _release: CgroupSockLink,
}

/// Works the gates of the node's pods.
pub struct Gates {
    programs: Programs,
    gates: HashMap<MapData, u64, Gate>,
    counts: HashMap<MapData, u64, GateCounts>,
    containers: HashMap<MapData, u64, u32>,
    sockets: SocketRemover,
    socket_quota: u32,
    attached: StdHashMap<CgroupId, Links>,
}

impl std::fmt::Debug for Gates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gates").field("attached", &self.attached.keys()).finish_non_exhaustive()
    }
}

// === impl Programs ===

impl Programs {
    pub(super) fn load(ebpf: Ebpf) -> Result<Self, BpfError> {
        let mut programs = Self(ebpf);
        let failed = |program| {
            move |source| BpfError::Program { operation: "load", program, source: Box::new(source) }
        };
        for name in [CONNECT4, CONNECT6] {
            programs.get::<CgroupSockAddr>(name)?.load().map_err(failed(name))?;
        }
        programs.get::<CgroupSkb>(GATE)?.load().map_err(failed(GATE))?;
        programs.get::<SockOps>(RETRANSMIT)?.load().map_err(failed(RETRANSMIT))?;
        programs.get::<CgroupSock>(RELEASE)?.load().map_err(failed(RELEASE))?;
        Ok(programs)
    }

    fn get<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, BpfError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let missing = BpfError::Missing { kind: "program", name };
        self.0.program_mut(name).ok_or(missing)?.try_into().map_err(|source| BpfError::Program {
            operation: "find",
            program: name,
            source: Box::new(source),
        })
    }

    /// Attaches all programs to one cgroup; the gate comes last, so that a SYN it drops finds the
    /// hooks that look after it in place. On an error what was attached so far detaches again.
    fn attach(&mut self, cgroup: &File) -> Result<Links, BpfError> {
        let release = self.get::<CgroupSock>(RELEASE)?;
        let release = release
            .attach(cgroup, MODE)
            .and_then(|id| release.take_link(id))
            .map_err(attach_failed(RELEASE))?;
        let retransmit = self.get::<SockOps>(RETRANSMIT)?;
        let retransmit = retransmit
            .attach(cgroup, MODE)
            .and_then(|id| retransmit.take_link(id))
            .map_err(attach_failed(RETRANSMIT))?;
        let connect4 = self.attach_connect(CONNECT4, cgroup)?;
        let connect6 = self.attach_connect(CONNECT6, cgroup)?;
        let gate = self.get::<CgroupSkb>(GATE)?;
        let gate = gate
            .attach(cgroup, CgroupSkbAttachType::Egress, MODE)
            .and_then(|id| gate.take_link(id))
            .map_err(attach_failed(GATE))?;
        Ok(Links {
            _gate: gate,
            _connect: [connect4, connect6],
            _retransmit: retransmit,
            _release: release,
        })
    }

    fn attach_connect(
        &mut self,
        name: &'static str,
        cgroup: &File,
    ) -> Result<CgroupSockAddrLink, BpfError> {
        let program = self.get::<CgroupSockAddr>(name)?;
        program
            .attach(cgroup, MODE)
            .and_then(|id| program.take_link(id))
            .map_err(attach_failed(name))
    }
}

fn attach_failed(program: &'static str) -> impl FnOnce(ProgramError) -> BpfError {
    move |source| BpfError::Program { operation: "attach", program, source: Box::new(source) }
}

// === impl Gates ===

impl Gates {
    pub(super) const MAP: &'static str = "GATES";
    pub(super) const COUNTS_MAP: &'static str = "COUNTS";
    pub(super) const CONTAINERS_MAP: &'static str = "CONTAINERS";

    pub(super) fn new(
        programs: Programs,
        gates: HashMap<MapData, u64, Gate>,
        counts: HashMap<MapData, u64, GateCounts>,
        containers: HashMap<MapData, u64, u32>,
        sockets: SocketRemover,
        socket_quota: u32,
    ) -> Self {
        let attached = StdHashMap::new();
        Self { programs, gates, counts, containers, sockets, socket_quota, attached }
    }

    /// Closes a pod's gate: writes its state with its deadline, then attaches the programs to the
    /// pod's cgroup at `path` unless they are there already.
    ///
    /// # Errors
    ///
    /// [`BpfError`]; the gate is then open and nothing of it is left attached.
    pub fn close(&mut self, close: &CloseGate, path: &Path) -> Result<(), BpfError> {
        let result = self.try_close(close, path);
        if result.is_err() {
            self.detach(close.cgroup, &[]);
        }
        result
    }

    fn try_close(&mut self, close: &CloseGate, path: &Path) -> Result<(), BpfError> {
        let CloseGate { uid: _, cgroup, deadline, ports } = close;
        let mut named = [0; MAX_PORTS];
        for (slot, port) in named.iter_mut().zip(ports) {
            *slot = *port;
        }
        let gate = Gate {
            deadline_ns: deadline.0,
            state: GateState::Closed as u32,
            socket_quota: self.socket_quota,
            ports: named,
        };
        let already = self.attached.contains_key(cgroup);
        if !already {
            let zero = GateCounts::default();
            self.counts
                .insert(cgroup.0, zero, 0)
                .map_err(|source| write_failed(Self::COUNTS_MAP, source))?;
        }
        self.gates.insert(cgroup.0, gate, 0).map_err(|source| write_failed(Self::MAP, source))?;
        if !already {
            let file = File::open(path)
                .map_err(|source| BpfError::Cgroup { path: path.to_owned(), source })?;
            let links = self.programs.attach(&file)?;
            self.attached.insert(*cgroup, links);
        }
        Ok(())
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
            state: GateState::Open as u32,
            socket_quota: self.socket_quota,
            ports: [0; MAX_PORTS],
        };
        self.gates.insert(cgroup.0, gate, 0).map_err(|source| write_failed(Self::MAP, source))
    }

    /// Takes the programs off a pod's cgroup and removes all that the maps hold of it. There is
    /// nothing that could fail and leave the gate closed: dropping a link is closing a descriptor.
    pub fn detach(&mut self, cgroup: CgroupId, containers: &[CgroupId]) {
        drop(self.attached.remove(&cgroup));
        for container in containers {
            self.forget_verdict(*container);
        }
        // Walking the table is for the few that go with candidates still in it.
        let records = self.counts(cgroup).map_or(0, |counts| counts.records);
        let _: Result<(), MapError> = self.gates.remove(&cgroup.0);
        let _: Result<(), MapError> = self.counts.remove(&cgroup.0);
        if records > 0 {
            self.sockets.forget(cgroup);
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
        };
        self.containers
            .insert(container.0, verdict as u32, 0)
            .map_err(|source| write_failed(Self::CONTAINERS_MAP, source))
    }

    /// Removes what was set for a container. Most have no entry: they are held.
    pub fn forget_verdict(&mut self, container: CgroupId) {
        let _: Result<(), MapError> = self.containers.remove(&container.0);
    }

    /// What the kernel counted for a gate that is attached.
    #[must_use]
    pub fn counts(&self, cgroup: CgroupId) -> Option<GateCounts> {
        self.counts.get(&cgroup.0, 0).ok()
    }
}

fn write_failed(map: &'static str, source: MapError) -> BpfError {
    BpfError::Map { operation: "write to", map, source: Box::new(source) }
}
