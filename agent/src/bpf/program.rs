//! The programs: loading them, and putting them on pods' cgroups.
//!
//! A link lives as long as its file descriptor. If the agent dies its descriptors close, the
//! kernel detaches the programs, and every gate is open.

use std::fs::File;

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr,
        CgroupSockopt, ProgramError, SockOps, cgroup_skb::CgroupSkbLink,
        cgroup_sock::CgroupSockLink, cgroup_sock_addr::CgroupSockAddrLink,
        cgroup_sockopt::CgroupSockoptLink, sock_ops::SockOpsLink,
    },
};

use super::BpfError;

/// Since Linux 5.7 a cgroup link is always one of many and `bpf_link_create` accepts no flags
/// (`cgroup_bpf_link_attach` in kernel/bpf/cgroup.c). aya 0.14 passes the mode as flags: of its
/// modes only `Single`, which is 0, is accepted, and other programs on the cgroup stay.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

const CONNECT4: &str = "holdfast_connect4";
const CONNECT6: &str = "holdfast_connect6";
const SENDMSG4: &str = "holdfast_sendmsg4";
const SENDMSG6: &str = "holdfast_sendmsg6";
const SETSOCKOPT: &str = "holdfast_setsockopt";
const GATE: &str = "holdfast_gate";
const RETRANSMIT: &str = "holdfast_retransmit";
const RELEASE: &str = "holdfast_release";

/// The loaded programs. They stay in the object, which owns them.
pub(super) struct Programs(Ebpf);

/// The programs on one pod's cgroup. Dropping a link detaches it; fields drop in this order: the
/// gate first, so that it drops nothing the other hooks do not see any more.
#[derive(Debug)]
pub(super) struct Links {
    _gate: CgroupSkbLink,
    _connect: [CgroupSockAddrLink; 2],
    _retransmit: SockOpsLink,
    _release: CgroupSockLink,
}

/// The hooks that see a resolver's datagrams leave unconnected sockets.
#[derive(Debug)]
pub(super) struct SendLinks {
    _sendmsg: [CgroupSockAddrLink; 2],
}

/// The hook that keeps resolvers from hearing of dropped queries.
#[derive(Debug)]
pub(super) struct SilenceLink {
    _setsockopt: CgroupSockoptLink,
}

// === impl Programs ===

impl Programs {
    pub(super) fn load(ebpf: Ebpf) -> Result<Self, BpfError> {
        let mut programs = Self(ebpf);
        for name in [CONNECT4, CONNECT6, SENDMSG4, SENDMSG6] {
            programs.get::<CgroupSockAddr>(name)?.load().map_err(failed("load", name))?;
        }
        let setsockopt = programs.get::<CgroupSockopt>(SETSOCKOPT)?;
        setsockopt.load().map_err(failed("load", SETSOCKOPT))?;
        programs.get::<CgroupSkb>(GATE)?.load().map_err(failed("load", GATE))?;
        programs.get::<SockOps>(RETRANSMIT)?.load().map_err(failed("load", RETRANSMIT))?;
        programs.get::<CgroupSock>(RELEASE)?.load().map_err(failed("load", RELEASE))?;
        Ok(programs)
    }

    fn get<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, BpfError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let missing = BpfError::Missing { kind: "program", name };
        self.0.program_mut(name).ok_or(missing)?.try_into().map_err(failed("find", name))
    }

    /// Attaches the gate and what it needs to one cgroup; the gate comes last, so that a SYN it
    /// drops finds the hooks that look after it in place. On an error what was attached so far
    /// detaches again.
    pub(super) fn attach(&mut self, cgroup: &File) -> Result<Links, BpfError> {
        let release = self.get::<CgroupSock>(RELEASE)?;
        let release = release
            .attach(cgroup, MODE)
            .and_then(|id| release.take_link(id))
            .map_err(failed("attach", RELEASE))?;
        let retransmit = self.get::<SockOps>(RETRANSMIT)?;
        let retransmit = retransmit
            .attach(cgroup, MODE)
            .and_then(|id| retransmit.take_link(id))
            .map_err(failed("attach", RETRANSMIT))?;
        let connect = [self.attach_call(CONNECT4, cgroup)?, self.attach_call(CONNECT6, cgroup)?];
        let gate = self.get::<CgroupSkb>(GATE)?;
        let gate = gate
            .attach(cgroup, CgroupSkbAttachType::Egress, MODE)
            .and_then(|id| gate.take_link(id))
            .map_err(failed("attach", GATE))?;
        Ok(Links { _gate: gate, _connect: connect, _retransmit: retransmit, _release: release })
    }

    pub(super) fn attach_send(&mut self, cgroup: &File) -> Result<SendLinks, BpfError> {
        let sendmsg = [self.attach_call(SENDMSG4, cgroup)?, self.attach_call(SENDMSG6, cgroup)?];
        Ok(SendLinks { _sendmsg: sendmsg })
    }

    pub(super) fn attach_silence(&mut self, cgroup: &File) -> Result<SilenceLink, BpfError> {
        let setsockopt = self.get::<CgroupSockopt>(SETSOCKOPT)?;
        let setsockopt = setsockopt
            .attach(cgroup, MODE)
            .and_then(|id| setsockopt.take_link(id))
            .map_err(failed("attach", SETSOCKOPT))?;
        Ok(SilenceLink { _setsockopt: setsockopt })
    }

    fn attach_call(
        &mut self,
        name: &'static str,
        cgroup: &File,
    ) -> Result<CgroupSockAddrLink, BpfError> {
        let program = self.get::<CgroupSockAddr>(name)?;
        program
            .attach(cgroup, MODE)
            .and_then(|id| program.take_link(id))
            .map_err(failed("attach", name))
    }
}

fn failed(operation: &'static str, program: &'static str) -> impl FnOnce(ProgramError) -> BpfError {
    move |source| BpfError::Program { operation, program, source: Box::new(source) }
}
