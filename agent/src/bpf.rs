//! The kernel side's handle: loading the programs, working the gates, reading what the kernel
//! tells. The only module that knows aya.

mod absence;
mod awaited;
mod away;
mod cost;
mod event;
mod gate;
mod inherit;
mod inventory;
mod kernel_log;
mod link;
mod loader;
mod map;
mod part;
mod pin;
mod place;
mod program;
mod ring;
mod sentry;
mod socket;
mod standing;
mod sys;
mod voice;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::event::decode;
pub use self::{
    absence::{Absence, Found, has_been_used, last_agent},
    awaited::Arrivals,
    cost::{ProgramCost, costs},
    event::EventReader,
    gate::{GateTotals, Gates},
    inventory::{GateInventory, Inventory, LinkInventory, Stock},
    kernel_log::LineSink,
    loader::{LoadOptions, Loaded, Meanwhile, load, prove},
    part::{KernelPart, missing_parts, warn_of_missing_parts},
    pin::{Claim, choose_bpffs, require_bpffs, usual_bpffs},
    place::{Place, holder},
    program::LoudPrograms,
    sentry::{Posting, Sentry, take_down_sentries},
    socket::SocketTable,
    standing::{Standing, standing},
};

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The object as a whole was refused.
    #[error("failed to load the eBPF object: {0}")]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks a part that the agent was built for.
    #[error("the eBPF object has no {kind} named {name}")]
    Missing {
        /// "program" or "map".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A program was refused.
    #[error("failed to {operation} program {program}: {}", chain(source))]
    Program {
        /// "load" or "attach".
        operation: &'static str,
        /// The program's name.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The verifier did not tell what a program costs.
    #[error("failed to verify program {program}: {source}")]
    Verify {
        /// The program's name.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Programs that write debug lines were asked for before [`LoudPrograms::load`].
    #[error("the eBPF programs that write debug lines are not loaded")]
    NotLoaded,
    /// A map could not be read or written.
    #[error("failed to {operation} map {map}: {}", chain(source))]
    Map {
        /// What was done.
        operation: &'static str,
        /// The map's name.
        map: &'static str,
        /// Why.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// The cgroup of a pod could not be opened.
    #[error("failed to open cgroup {path}: {source}")]
    Cgroup {
        /// Its directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be put onto a cgroup.
    #[error("failed to {operation} program {program}: {source}")]
    Link {
        /// What was done.
        operation: &'static str,
        /// The program's name.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The agent's directory in the BPF file system cannot be used.
    #[error("failed to use {path}: {source}; --bpffs names a mounted BPF file system")]
    Pin {
        /// The directory or file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ring buffer could not be waited for.
    #[error("failed to wait for the kernel's events: {0}")]
    Ring(#[source] std::io::Error),
    /// The programs' debug lines cannot be read.
    #[error("failed to read the kernel's debug lines: {0}")]
    Log(#[source] Box<aya_log::Error>),
}

impl BpfError {
    /// Whether the reason may be gone a moment later: the node, or this process, lacks something
    /// that it may have again. A kernel that cannot do a thing never will.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            let errno =
                error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            if errno.is_some_and(passes) {
                return true;
            }
            next = error.source();
        }
        false
    }
}

/// `E2BIG` is a map without room for another element (kernel/bpf/hashtab.c), or a cgroup with as many
/// programs as it may have (kernel/bpf/cgroup.c).
const fn passes(errno: i32) -> bool {
    use libc::{E2BIG, EAGAIN, EBUSY, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(errno, E2BIG | EAGAIN | EBUSY | EINTR | EMFILE | ENFILE | ENOBUFS | ENOMEM)
}

/// aya's errors name the call and keep the reason in their source; an operator needs both.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::{maps::MapError, sys::SyscallError};

    use super::BpfError;

    #[test]
    fn what_is_short_may_be_there_again_and_what_is_missing_may_not() {
        let of_map = |errno| BpfError::Map {
            operation: "write to",
            map: "GATES",
            source: Box::new(MapError::SyscallError(SyscallError {
                call: "bpf_map_update_elem",
                io_error: io::Error::from_raw_os_error(errno),
            })),
        };
        let of_link = |errno| BpfError::Link {
            operation: "attach",
            program: "gate",
            source: io::Error::from_raw_os_error(errno),
        };
        for errno in [libc::E2BIG, libc::ENOMEM, libc::EMFILE, libc::ENFILE] {
            assert!(of_map(errno).may_pass() && of_link(errno).may_pass(), "{errno}");
        }
        for errno in [libc::EPERM, libc::EINVAL, libc::ENOENT] {
            assert!(!of_map(errno).may_pass() && !of_link(errno).may_pass(), "{errno}");
        }
    }
}
