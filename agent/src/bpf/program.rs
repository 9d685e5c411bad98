//! The programs: loading them, and putting them on pods' cgroups.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Ebpf,
    programs::{
        CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, Program, ProgramError, SockOps,
    },
};
use aya_obj::generated::bpf_attach_type;

use super::{BpfError, link::Link};

/// What a program is hooked on. In the order in which they come off a cgroup: the gate first, so
/// that it drops nothing the others do not see any more; and no query is dropped once the hooks
/// that make that bearable go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Gate,
    Connect4,
    Connect6,
    Retransmit,
    Release,
    Setsockopt,
    Sendmsg4,
    Sendmsg6,
}

/// The loaded programs. They stay in the object, which owns them.
pub(super) struct Programs(Ebpf);

// === impl Hook ===

impl Hook {
    pub(super) const ALL: [Self; 8] = [
        Self::Gate,
        Self::Connect4,
        Self::Connect6,
        Self::Retransmit,
        Self::Release,
        Self::Setsockopt,
        Self::Sendmsg4,
        Self::Sendmsg6,
    ];

    /// What every gate needs, in the order in which it is attached: a SYN that the gate drops finds
    /// the hooks that look after it in place.
    pub(super) const HOLD: [Self; 5] =
        [Self::Release, Self::Retransmit, Self::Connect4, Self::Connect6, Self::Gate];

    /// What sees a resolver's datagrams leave unconnected sockets.
    pub(super) const SEND: [Self; 2] = [Self::Sendmsg4, Self::Sendmsg6];

    /// These, and what keeps resolvers from hearing of dropped queries.
    pub(super) const DNS: [Self; 3] = [Self::Sendmsg4, Self::Sendmsg6, Self::Setsockopt];

    /// Its program, and its link's name in a BPF file system.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gate => "holdfast_gate",
            Self::Connect4 => "holdfast_connect4",
            Self::Connect6 => "holdfast_connect6",
            Self::Retransmit => "holdfast_retransmit",
            Self::Release => "holdfast_release",
            Self::Setsockopt => "holdfast_setsockopt",
            Self::Sendmsg4 => "holdfast_sendmsg4",
            Self::Sendmsg6 => "holdfast_sendmsg6",
        }
    }

    const fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::Gate => bpf_attach_type::BPF_CGROUP_INET_EGRESS,
            Self::Connect4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
            Self::Retransmit => bpf_attach_type::BPF_CGROUP_SOCK_OPS,
            Self::Release => bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE,
            Self::Setsockopt => bpf_attach_type::BPF_CGROUP_SETSOCKOPT,
            Self::Sendmsg4 => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
            Self::Sendmsg6 => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
        }
    }
}

// === impl Programs ===

impl Programs {
    pub(super) fn load(mut ebpf: Ebpf) -> Result<Self, BpfError> {
        for hook in Hook::ALL {
            let name = hook.name();
            let missing = BpfError::Missing { kind: "program", name };
            let program = ebpf.program_mut(name).ok_or(missing)?;
            load(hook, program).map_err(|source| BpfError::Program {
                operation: "load",
                program: name,
                source: Box::new(source),
            })?;
        }
        Ok(Self(ebpf))
    }

    /// Puts the program onto a cgroup.
    pub(super) fn attach(&self, hook: Hook, cgroup: &File) -> Result<Link, BpfError> {
        let attached = self
            .descriptor(hook)
            .and_then(|program| Link::attach(program, cgroup.as_fd(), hook.attach_type()));
        attached.map_err(|source| BpfError::Link {
            operation: "attach",
            program: hook.name(),
            source,
        })
    }

    /// Puts the program into the place of the one that an agent has left on a cgroup.
    pub(super) fn replace(&self, hook: Hook, link: &Link) -> std::io::Result<()> {
        link.update(self.descriptor(hook)?)
    }

    fn descriptor(&self, hook: Hook) -> std::io::Result<BorrowedFd<'_>> {
        let program = self.0.program(hook.name()).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(program.fd().map_err(std::io::Error::other)?.as_fd())
    }
}

fn load(hook: Hook, program: &mut Program) -> Result<(), ProgramError> {
    match hook {
        Hook::Gate => <&mut CgroupSkb>::try_from(program)?.load(),
        Hook::Connect4 | Hook::Connect6 | Hook::Sendmsg4 | Hook::Sendmsg6 => {
            <&mut CgroupSockAddr>::try_from(program)?.load()
        }
        Hook::Retransmit => <&mut SockOps>::try_from(program)?.load(),
        Hook::Release => <&mut CgroupSock>::try_from(program)?.load(),
        Hook::Setsockopt => <&mut CgroupSockopt>::try_from(program)?.load(),
    }
}
