//! The programs: loading them, and putting them on pods' cgroups.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use aya::{
    Ebpf,
    programs::{
        CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, Program, ProgramError, SockOps,
    },
};
use aya_obj::generated::bpf_attach_type;

use super::{BpfError, link::Link, sys};

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
    SentryGate,
    SentryConnect4,
    SentryConnect6,
}

/// Whether a program writes debug lines. Each is in the object twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    Silent,
    Loud,
}

/// The programs.
pub(super) struct Programs {
    silent: Loaded,
    loud: LoudPrograms,
}

/// The programs that write debug lines. The verifier takes a while to read them, so this is for a
/// thread that may block; once loaded they stay, some hundred kilobytes of kernel memory. Clones
/// are the same programs.
#[derive(Clone)]
pub struct LoudPrograms(Arc<Loud>);

struct Loud {
    /// It owns all maps: a program that is loaded later names its maps by the numbers of the
    /// descriptors that are open now.
    object: Mutex<Ebpf>,
    loaded: OnceLock<Loaded>,
}

/// Each with a descriptor that does not need the object any more.
type Loaded = Vec<(Hook, OwnedFd)>;

// === impl Hook ===

impl Hook {
    /// Those of pods' gates.
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

    /// What the sentry needs, in the order in which it is attached.
    pub(super) const SENTRY: [Self; 4] =
        [Self::Retransmit, Self::SentryConnect4, Self::SentryConnect6, Self::SentryGate];

    /// Those of them that hold. The other one looks after what was held.
    pub(super) const SENTRY_HOLD: [Self; 3] =
        [Self::SentryConnect4, Self::SentryConnect6, Self::SentryGate];

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
            Self::SentryGate => "holdfast_sentry_gate",
            Self::SentryConnect4 => "holdfast_sentry_connect4",
            Self::SentryConnect6 => "holdfast_sentry_connect6",
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
            Self::Setsockopt | Self::SentryGate | Self::SentryConnect4 | Self::SentryConnect6 => {
                None
            }
            Self::Sendmsg4 => Some("loud_sendmsg4"),
            Self::Sendmsg6 => Some("loud_sendmsg6"),
        }
    }

    pub(super) const fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::Gate | Self::SentryGate => bpf_attach_type::BPF_CGROUP_INET_EGRESS,
            Self::Connect4 | Self::SentryConnect4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 | Self::SentryConnect6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
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
    /// Loads those that write no lines.
    pub(super) fn load(mut object: Ebpf) -> Result<Self, BpfError> {
        let sentrys = Hook::SENTRY.into_iter().filter(|hook| !Hook::ALL.contains(hook));
        let silent = Hook::ALL.into_iter().chain(sentrys).map(|hook| (hook, hook.name()));
        let silent = load(&mut object, silent)?;
        let loud = Loud { object: Mutex::new(object), loaded: OnceLock::new() };
        Ok(Self { silent, loud: LoudPrograms(Arc::new(loud)) })
    }

    /// Those that do.
    pub(super) const fn loud(&self) -> &LoudPrograms {
        &self.loud
    }

    /// Gives those of the sentry names below `directory`, in the place of an earlier agent's. At no
    /// instant is one missing.
    pub(super) fn pin_sentry(&self, directory: &Path) -> io::Result<()> {
        if !directory.is_dir() {
            fs::create_dir(directory)?;
        }
        for hook in Hook::SENTRY {
            let fresh = directory.join(format!("{}_new", hook.name()));
            // An agent was killed between the two steps.
            let _: io::Result<()> = fs::remove_file(&fresh);
            sys::pin(self.descriptor(hook, Voice::Silent)?, &fresh)?;
            fs::rename(&fresh, directory.join(hook.name()))?;
        }
        Ok(())
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
    pub(super) fn replace(&self, hook: Hook, voice: Voice, link: &Link) -> io::Result<()> {
        link.update(self.descriptor(hook, voice)?)
    }

    fn descriptor(&self, hook: Hook, voice: Voice) -> io::Result<BorrowedFd<'_>> {
        let programs = match voice {
            Voice::Loud if hook.loud_name().is_some() => self.loud.0.loaded.get(),
            Voice::Silent | Voice::Loud => Some(&self.silent),
        };
        let program = programs.into_iter().flatten().find(|(of, _)| *of == hook);
        program.map(|(_, program)| program.as_fd()).ok_or(io::ErrorKind::NotFound.into())
    }
}

// === impl LoudPrograms ===

impl LoudPrograms {
    /// Loads them, if they are not loaded yet.
    ///
    /// # Errors
    ///
    /// [`BpfError`] if the kernel refuses one; none of them is loaded then.
    pub fn load(&self) -> Result<(), BpfError> {
        // Whoever comes second waits here, and finds them loaded.
        let mut object = self.0.object.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.are_loaded() {
            let loud = Hook::ALL.into_iter().filter_map(|hook| Some((hook, hook.loud_name()?)));
            let loaded = load(&mut object, loud)?;
            // It was empty, and nobody else has the lock.
            let _: Result<(), Loaded> = self.0.loaded.set(loaded);
        }
        Ok(())
    }

    /// Whether [`Self::load`] has nothing to do.
    #[must_use]
    pub fn are_loaded(&self) -> bool {
        self.0.loaded.get().is_some()
    }
}

impl std::fmt::Debug for LoudPrograms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoudPrograms").field("are_loaded", &self.are_loaded()).finish()
    }
}

fn load(
    object: &mut Ebpf,
    programs: impl IntoIterator<Item = (Hook, &'static str)>,
) -> Result<Loaded, BpfError> {
    let programs = programs.into_iter().map(|(hook, name)| {
        let missing = BpfError::Missing { kind: "program", name };
        let program = object.program_mut(name).ok_or(missing)?;
        let loaded = try_load(hook, program).and_then(|()| descriptor(program));
        // It fails if it is not loaded.
        let _: Result<(), ProgramError> = unload(hook, program);
        let failed = |source| {
            let source = Box::new(source);
            BpfError::Program { operation: "load", program: name, source }
        };
        Ok((hook, loaded.map_err(failed)?))
    });
    programs.collect()
}

fn descriptor(program: &Program) -> Result<OwnedFd, ProgramError> {
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn try_load(hook: Hook, program: &mut Program) -> Result<(), ProgramError> {
    match hook {
        Hook::Gate | Hook::SentryGate => <&mut CgroupSkb>::try_from(program)?.load(),
        Hook::Connect4
        | Hook::Connect6
        | Hook::Sendmsg4
        | Hook::Sendmsg6
        | Hook::SentryConnect4
        | Hook::SentryConnect6 => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Hook::Retransmit => <&mut SockOps>::try_from(program)?.load(),
        Hook::Release => <&mut CgroupSock>::try_from(program)?.load(),
        Hook::Setsockopt => <&mut CgroupSockopt>::try_from(program)?.load(),
    }
}

fn unload(hook: Hook, program: &mut Program) -> Result<(), ProgramError> {
    match hook {
        Hook::Gate | Hook::SentryGate => <&mut CgroupSkb>::try_from(program)?.unload(),
        Hook::Connect4
        | Hook::Connect6
        | Hook::Sendmsg4
        | Hook::Sendmsg6
        | Hook::SentryConnect4
        | Hook::SentryConnect6 => <&mut CgroupSockAddr>::try_from(program)?.unload(),
        Hook::Retransmit => <&mut SockOps>::try_from(program)?.unload(),
        Hook::Release => <&mut CgroupSock>::try_from(program)?.unload(),
        Hook::Setsockopt => <&mut CgroupSockopt>::try_from(program)?.unload(),
    }
}
