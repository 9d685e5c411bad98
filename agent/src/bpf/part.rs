//! What newer kernels have and holdfast uses where it is there. Asked of the kernel itself, since
//! distributions bring parts of newer kernels to older ones.

use std::sync::OnceLock;

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use crate::netns;

/// A part of the kernel that holdfast can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelPart {
    /// Lets a program choose how connect() fails.
    SetRetval,
    /// Tells the setsockopt hook from which pod the call comes.
    SockoptAncestors,
    /// Tells of which network namespace a socket is that begins to listen.
    SockOpsNetns,
    /// Tells network namespaces apart, also those whose processes have ended.
    NetnsCookie,
}

// === impl KernelPart ===

impl KernelPart {
    /// All, the oldest first.
    pub const ALL: [Self; 4] =
        [Self::NetnsCookie, Self::SockOpsNetns, Self::SetRetval, Self::SockoptAncestors];

    /// Its name in the kernel.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetRetval => "bpf_set_retval",
            Self::SockoptAncestors => "bpf_get_current_ancestor_cgroup_id in setsockopt",
            Self::SockOpsNetns => "bpf_get_netns_cookie in sock_ops",
            Self::NetnsCookie => "SO_NETNS_COOKIE",
        }
    }

    /// The first release of Linux that has it.
    #[must_use]
    pub const fn since(self) -> &'static str {
        match self {
            Self::SetRetval => "5.18",
            Self::SockoptAncestors => "6.1",
            Self::SockOpsNetns => "5.15",
            Self::NetnsCookie => "5.14",
        }
    }

    /// Which feature has less without it.
    #[must_use]
    pub const fn feature(self) -> &'static str {
        match self {
            Self::SetRetval => "refuse",
            Self::SockoptAncestors => "DNS",
            Self::SockOpsNetns => "listeners",
            Self::NetnsCookie => "replay",
        }
    }

    /// What is left of that feature, in short.
    #[must_use]
    pub const fn leaves(self) -> &'static str {
        match self {
            Self::SetRetval => "ECONNREFUSED only",
            Self::SockoptAncestors => "by container",
            Self::SockOpsNetns => "looked for",
            Self::NetnsCookie => "of living processes",
        }
    }

    /// The same in a sentence.
    #[must_use]
    pub const fn effect(self) -> &'static str {
        match self {
            Self::SetRetval => {
                "mode refuse always refuses with ECONNREFUSED, and from connect() itself never"
            }
            Self::SockoptAncestors => {
                "while DNS is held, a container with cgroups of its own counts as one that waits"
            }
            Self::SockOpsNetns => {
                "a proxy that begins to listen is found by looking, 5 to 50 ms later, not at once"
            }
            Self::NetnsCookie => "a held connect whose process has ended is not sent again",
        }
    }

    /// Whether it may be used. What cannot be found out is not relied on. Asked once in a process: what the
    /// programs were told is what the agent goes by.
    pub(super) fn is_there(self) -> bool {
        static THERE: [OnceLock<bool>; KernelPart::ALL.len()] =
            [const { OnceLock::new() }; KernelPart::ALL.len()];
        *THERE[self as usize].get_or_init(|| self.probe().unwrap_or(false))
    }

    /// Whether the kernel has it; `None` if it would not tell, such as for lack of a privilege.
    fn probe(self) -> Option<bool> {
        let helper = |program, helper| is_helper_supported(program, helper).ok();
        match self {
            Self::SetRetval => helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
            Self::SockoptAncestors => helper(
                ProgramType::CgroupSockopt,
                BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
            ),
            Self::SockOpsNetns => {
                helper(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie)
            }
            Self::NetnsCookie => netns::own_cookie().ok().map(|cookie| cookie.is_some()),
        }
    }
}

/// What this kernel certainly does not have.
#[must_use]
pub fn missing_parts() -> Vec<KernelPart> {
    KernelPart::ALL.into_iter().filter(|part| part.probe() == Some(false)).collect()
}

/// One warning for each part that is missing. For the agent's start: nothing else tells of them.
pub fn warn_of_missing_parts() {
    for part in missing_parts() {
        tracing::warn!(
            part = part.name(),
            since = part.since(),
            effect = part.effect(),
            "this kernel lacks what holdfast can do without"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_listed_by_age_each_once() {
        let version = |part: KernelPart| {
            let (major, minor) = part.since().split_once('.').unwrap();
            (major.parse::<u32>().unwrap(), minor.parse::<u32>().unwrap())
        };
        assert!(KernelPart::ALL.is_sorted_by(|older, newer| version(*older) < version(*newer)));
    }
}
