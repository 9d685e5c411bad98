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

/// Whether a program writes debug lines. Each is in the object twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    Silent,
    Loud,
}

/// The programs. They stay in the object, which owns them, and with them all maps: a program that is
/// loaded later names its maps by the numbers of the descriptors that are open now.
pub(super) struct Programs {
    ebpf: Ebpf,
    has_loud: bool,
}

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

    /// Its program that writes debug lines, if it has anything to say.
    const fn loud_name(self) -> Option<&'static str> {
        match self {
            Self::Gate => Some("loud_gate"),
            Self::Connect4 => Some("loud_connect4"),
            Self::Connect6 => Some("loud_connect6"),
            Self::Retransmit => Some("loud_retransmit"),
            Self::Release => Some("loud_release"),
            Self::Setsockopt => None,
            Self::Sendmsg4 => Some("loud_sendmsg4"),
            Self::Sendmsg6 => Some("loud_sendmsg6"),
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
            load(&mut ebpf, hook, hook.name())?;
        }
        Ok(Self { ebpf, has_loud: false })
    }

    /// Loads the programs that write debug lines, beside the others. On an error none of them is
    /// loaded.
    pub(super) fn load_loud(&mut self) -> Result<(), BpfError> {
        if self.has_loud {
            return Ok(());
        }
        for (hook, name) in loud() {
            if let Err(error) = load(&mut self.ebpf, hook, name) {
                self.unload_loud();
                return Err(error);
            }
        }
        self.has_loud = true;
        Ok(())
    }

    /// Lets go of them. Where one is still on a cgroup it stays.
    pub(super) fn unload_loud(&mut self) {
        self.has_loud = false;
        for (hook, name) in loud() {
            if let Some(program) = self.ebpf.program_mut(name) {
                // It fails if it is not loaded.
                let _: Result<(), ProgramError> = unload(hook, program);
            }
        }
    }

    /// Puts the program onto a cgroup.
    pub(super) fn attach(&self, hook: Hook, voice: Voice, cgroup: &File) -> Result<Link, BpfError> {
        let attached = self
            .descriptor(hook, voice)
            .and_then(|program| Link::attach(program, cgroup.as_fd(), hook.attach_type()));
        attached.map_err(|source| BpfError::Link {
            operation: "attach",
            program: hook.name(),
            source,
        })
    }

    /// Puts the program into the place of the one in a link.
    pub(super) fn replace(&self, hook: Hook, voice: Voice, link: &Link) -> std::io::Result<()> {
        link.update(self.descriptor(hook, voice)?)
    }

    fn descriptor(&self, hook: Hook, voice: Voice) -> std::io::Result<BorrowedFd<'_>> {
        let name = match voice {
            Voice::Silent => hook.name(),
            Voice::Loud => hook.loud_name().unwrap_or(hook.name()),
        };
        let program = self.ebpf.program(name).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(program.fd().map_err(std::io::Error::other)?.as_fd())
    }
}

fn loud() -> impl Iterator<Item = (Hook, &'static str)> {
    Hook::ALL.into_iter().filter_map(|hook| Some((hook, hook.loud_name()?)))
}

fn load(ebpf: &mut Ebpf, hook: Hook, name: &'static str) -> Result<(), BpfError> {
    let missing = BpfError::Missing { kind: "program", name };
    let program = ebpf.program_mut(name).ok_or(missing)?;
    let loaded = try_load(hook, program);
    loaded.map_err(|source| BpfError::Program {
        operation: "load",
        program: name,
        source: Box::new(source),
    })
}

fn try_load(hook: Hook, program: &mut Program) -> Result<(), ProgramError> {
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

fn unload(hook: Hook, program: &mut Program) -> Result<(), ProgramError> {
    match hook {
        Hook::Gate => <&mut CgroupSkb>::try_from(program)?.unload(),
        Hook::Connect4 | Hook::Connect6 | Hook::Sendmsg4 | Hook::Sendmsg6 => {
            <&mut CgroupSockAddr>::try_from(program)?.unload()
        }
        Hook::Retransmit => <&mut SockOps>::try_from(program)?.unload(),
        Hook::Release => <&mut CgroupSock>::try_from(program)?.unload(),
        Hook::Setsockopt => <&mut CgroupSockopt>::try_from(program)?.unload(),
    }
}
