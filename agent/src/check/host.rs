//! The kernel, the agent's privileges, and what an agent has left here.

use caps::Capability;
use nix::unistd::{AccessFlags, access};

use super::report::Check;
use crate::{
    bpf::{self, KernelPart, LoadOptions, Standing},
    cli::CheckArgs,
    command::absent::{AbsentReport, Presence},
    node,
    preflight::{self, Kernel, NeededCapability},
};

pub(super) const KERNEL: &str = "kernel";
pub(super) const BTF: &str = "BTF";
pub(super) const CAPABILITIES: &str = "capabilities";
pub(super) const LOCKED_MEMORY: &str = "locked memory";
pub(super) const PROGRAMS: &str = "eBPF programs";
pub(super) const BPFFS: &str = "BPF file system";
pub(super) const AGENT: &str = "agent";
pub(super) const SENTRY: &str = "sentry";

/// What goes without saying for a process of root's on the node.
const GRANT: &str = "run as root, or add it to the container's securityContext.capabilities";

/// What is missing there is not wanted there.
const IN_SENTRY: &str =
    "in the container sentry that is as it should be: run this in the container agent. Else ";

pub(super) fn kernel(_: &CheckArgs) -> Vec<Check> {
    let kernel = Kernel::running();
    if let Err(error) = kernel.require() {
        return vec![Check::error(KERNEL, error, "boot a newer kernel (docs/requirements.md)")];
    }
    let parts = bpf::missing_parts().into_iter().map(KernelPart::effect);
    let limits: Vec<&str> = kernel.limits().into_iter().chain(parts).collect();
    let release = format!("Linux {}", kernel.release);
    vec![match limits[..] {
        [] => Check::ok(KERNEL, release),
        _ => Check::warning(
            KERNEL,
            format_args!("{release}: {}", limits.join("; ")),
            "a newer kernel, 6.1 or later, has no such limits (docs/requirements.md)",
        ),
    }]
}

pub(super) fn btf(args: &CheckArgs) -> Vec<Check> {
    let path = &args.node.btf;
    vec![match preflight::btf(path) {
        Ok(()) => Check::ok(BTF, path.display()),
        Err(error) => Check::failed(
            BTF,
            error.to_string().split(": the kernel must").next().unwrap_or_default(),
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as those of the large distributions are; \
             --btf names another file",
        ),
    }]
}

pub(super) fn capabilities(_: &CheckArgs) -> Vec<Check> {
    let needed = match preflight::needed_capabilities() {
        Ok(needed) => needed,
        Err(error) => return vec![Check::error(CAPABILITIES, error, "mount /proc")],
    };
    let lacks =
        |capability| needed.iter().any(|needed| needed.capability == capability && !needed.is_held);
    // The chart gives it these two less.
    let is_sentry = lacks(Capability::CAP_NET_RAW)
        && lacks(Capability::CAP_SYS_PTRACE)
        && preflight::sentry_capabilities().is_ok();
    let mend = if is_sentry { format!("{IN_SENTRY}{GRANT}") } else { GRANT.to_owned() };
    let check = |NeededCapability { capability, purpose, is_held }| {
        if is_held {
            Check::ok(capability, purpose)
        } else {
            Check::failed(capability, format_args!("missing, needed {purpose}"), &mend)
        }
    };
    needed.into_iter().map(check).collect()
}

pub(super) fn locked_memory(_: &CheckArgs) -> Vec<Check> {
    let kernel = Kernel::running();
    if !preflight::maps_are_locked_memory(&kernel) {
        return vec![Check::ok(
            LOCKED_MEMORY,
            "Linux 5.11 and later do not charge eBPF maps to it",
        )];
    }
    vec![match preflight::locked_memory() {
        None => Check::ok(LOCKED_MEMORY, "unlimited"),
        // Whether the agent may raise it is the capability's line.
        Some(bytes) => Check::ok(
            LOCKED_MEMORY,
            format_args!("{bytes} bytes, which an agent with CAP_SYS_RESOURCE raises"),
        ),
    }]
}

pub(super) fn programs(_: &CheckArgs) -> Vec<Check> {
    let options = LoadOptions::default();
    vec![match bpf::prove(&options) {
        Ok(()) => {
            let costs = bpf::costs(&options).unwrap_or_default();
            let verified: u32 = costs.iter().map(|cost| cost.verified).sum();
            let longest = costs.iter().map(|cost| cost.instructions).max().unwrap_or_default();
            Check::ok(
                PROGRAMS,
                format_args!(
                    "this kernel's verifier takes all of them: {} programs, the longest of \
                     {longest} instructions; {verified} verified",
                    costs.len()
                ),
            )
        }
        Err(error) => Check::error(
            PROGRAMS,
            error,
            "mend what fails above; if nothing does, report it with the kernel's release",
        ),
    }]
}

pub(super) fn bpffs(args: &CheckArgs) -> Vec<Check> {
    const MEND: &str = "mount -t bpf bpf /sys/fs/bpf on the node (systemd does); without one gates \
                        open when an agent ends, also in an upgrade";
    let bpffs = match bpf::choose_bpffs(args.node.bpffs.clone()) {
        Ok(Some(bpffs)) => bpffs,
        Ok(None) => {
            return vec![Check::warning(BPFFS, "none is mounted at /sys/fs/bpf", MEND)];
        }
        Err(error) => return vec![Check::error(BPFFS, error, MEND)],
    };
    let path = bpffs.display();
    if let Err(errno) = access(&bpffs, AccessFlags::W_OK) {
        let mend = "mount it into the agent's container without readOnly, and run as root";
        let found = format_args!("{path} cannot be written to: {}", errno.desc());
        return vec![Check::failed(BPFFS, found, mend)];
    }
    let Standing { pods, links, sentry } = bpf::standing(&bpffs);
    let sentry = if sentry > 0 { "; a sentry is posted" } else { "" };
    vec![if pods == 0 {
        Check::ok(BPFFS, format_args!("{path}; no gate is pinned there{sentry}"))
    } else {
        Check::ok(BPFFS, format_args!("{path}; pinned gates: {pods}, links: {links}{sentry}"))
    }]
}

/// Only for information: the next agent stands by for the one that works.
pub(super) fn agent(args: &CheckArgs) -> Vec<Check> {
    let node = &args.node;
    let bpffs = bpf::choose_bpffs(node.bpffs.clone()).ok().flatten();
    let cgroup_root = node::cgroup_root(node.cgroup_root.clone(), &node.proc_root);
    let Some(place) = bpffs.as_deref().or(cgroup_root.as_deref().ok()) else {
        let mend = "mend cgroup2 above";
        return vec![Check::skipped(AGENT, "there is no place where one could work", mend)];
    };
    vec![match bpf::holder(place, bpffs.is_some(), &node.proc_root) {
        Ok(Some(pid)) => Check::ok(AGENT, format_args!("process {pid} works on this node")),
        Ok(None) if bpffs.as_deref().is_some_and(bpf::has_been_used) => {
            let found = "none works on this node, though one has";
            Check::warning(AGENT, found, Presence::Absent.mend())
        }
        Ok(None) => Check::ok(AGENT, "none works on this node"),
        Err(error) => {
            let mend = "name the host's /proc with --proc-root";
            Check::skipped(AGENT, format_args!("the file locks cannot be read: {error}"), mend)
        }
    }]
}

/// Who minds the pods that start while no agent works; nothing where none ever has.
pub(super) fn sentry(args: &CheckArgs) -> Vec<Check> {
    let bpffs = bpf::choose_bpffs(args.node.bpffs.clone()).ok().flatten();
    let report = bpffs.and_then(|bpffs| AbsentReport::take(&bpffs, &args.node.proc_root));
    let Some(AbsentReport { at, state, sentry, .. }) = report else { return Vec::new() };
    let check = match sentry.in_words(state, at) {
        (found, true) => Check::ok(SENTRY, found),
        (found, false) => Check::warning(SENTRY, found, state.mend()),
    };
    vec![check]
}
