//! What stands in the kernel for the gates, for bug reports.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use agent_ebpf::{Gate, GateCounts};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Gates, gate::Attached, link::Link, program::Hook, standing};
use crate::core::CgroupId;

/// Names that are listed: the programs of some hundred pods.
const MAX_NAMES: usize = 2048;

/// What stands.
#[derive(Clone, Debug, Serialize)]
pub struct Inventory {
    /// What has a name in the BPF file system, links of all versions and maps among it;
    /// [`MAX_NAMES`] at most. Nothing: there is no such file system.
    pub pinned: Vec<String>,
    /// The gates, by cgroup.
    pub gates: Vec<GateInventory>,
}

/// What stands, without what takes long to find out. It holds descriptors of all links: one that is
/// taken off meanwhile stays until this is gone, and finds no gate.
#[derive(Debug)]
pub struct Stock {
    root: Option<PathBuf>,
    /// Each gate with the descriptors of its links, in the same order; nothing for one that could
    /// not be had.
    gates: Vec<(GateInventory, Vec<Option<OwnedFd>>)>,
}

/// One gate.
#[derive(Clone, Debug, Serialize)]
pub struct GateInventory {
    /// The id of the pod's cgroup.
    pub cgroup: u64,
    /// Another agent has left it, and no pod has been found for it yet.
    pub left: bool,
    /// Its programs write debug lines.
    pub kernel_log: bool,
    /// Its programs on the cgroup.
    pub links: Vec<LinkInventory>,
    /// What the programs read; null: it cannot be read.
    pub gate: Value,
    /// What they have counted; null: it cannot be read.
    pub counts: Value,
}

/// One program on a cgroup.
#[derive(Clone, Debug, Serialize)]
pub struct LinkInventory {
    /// The program's name; `None`: it is of another version's agent.
    pub program: Option<&'static str>,
    /// Its name in the BPF file system, if it has one.
    pub pin: Option<String>,
    /// What the kernel tells of it (`link_id`, `prog_id`, `prog_tag`, `attach_type`, `cgroup_id`).
    pub kernel: BTreeMap<String, String>,
}

// === impl Gates ===

impl Gates {
    /// All that stands: two system calls for each gate and one for each link.
    #[must_use]
    pub fn stock(&self) -> Stock {
        let own = self.attached().map(|(cgroup, attached)| (cgroup, attached, false));
        let left = self.left().map(|(cgroup, attached)| (cgroup, attached, true));
        let gates = own.chain(left).map(|(cgroup, attached, left)| {
            let gate = self.gate(cgroup, attached, left);
            (gate, links(attached).map(|(_, link)| link.descriptor().ok()).collect())
        });
        let root = self.claim().map(|claim| claim.root().to_owned());
        Stock { root, gates: gates.collect() }
    }

    fn gate(&self, cgroup: CgroupId, attached: &Attached, left: bool) -> GateInventory {
        let inventory = |(hook, link): (Option<Hook>, &Link)| LinkInventory {
            program: hook.map(Hook::name),
            pin: link.pin_path().map(|path| path.display().to_string()),
            kernel: BTreeMap::new(),
        };
        GateInventory {
            cgroup: cgroup.0,
            left,
            kernel_log: self.has_kernel_log(cgroup),
            links: links(attached).map(inventory).collect(),
            gate: self.state(cgroup).map_or(Value::Null, |gate| of_gate(&gate)),
            counts: self.counts(cgroup).map_or(Value::Null, |counts| of_counts(&counts)),
        }
    }
}

/// Its links, another version's among them.
fn links(attached: &Attached) -> impl Iterator<Item = (Option<Hook>, &Link)> {
    let own = attached.links.iter().map(|(hook, link)| (Some(*hook), link));
    own.chain(attached.foreign.iter().map(|link| (None, link)))
}

// === impl Stock ===

impl Stock {
    /// Reads the rest: a file for each link, and the agent's directories. For a thread that may
    /// block.
    #[must_use]
    pub fn read(self) -> Inventory {
        let mut gates: Vec<GateInventory> = Vec::new();
        for (mut gate, descriptors) in self.gates {
            for (link, descriptor) in gate.links.iter_mut().zip(descriptors) {
                link.kernel = descriptor.as_ref().map(told_of).unwrap_or_default();
            }
            gates.push(gate);
        }
        gates.sort_by_key(|gate| gate.cgroup);
        let mut pinned = Vec::new();
        if let Some(root) = &self.root {
            names_below(root, &mut pinned);
            pinned.sort();
        }
        Inventory { pinned, gates }
    }
}

fn names_below(directory: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if names.len() >= MAX_NAMES {
            return;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names_below(&path, names);
        } else {
            names.push(path.display().to_string());
        }
    }
}

fn told_of(link: &OwnedFd) -> BTreeMap<String, String> {
    let told = standing::fdinfo(link).unwrap_or_default();
    let kernel = told.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        let wanted = ["link_type", "link_id", "prog_tag", "prog_id", "cgroup_id", "attach_type"];
        wanted.contains(&key).then(|| (key.to_owned(), value.trim().to_owned()))
    });
    kernel.collect()
}

fn of_gate(gate: &Gate) -> Value {
    let Gate {
        deadline_ns,
        since_ns,
        reached_before,
        refuse_until_ns,
        guard_ns,
        state,
        mode,
        socket_quota,
        proxy_uid,
        errno,
        dns_port,
        closed_for,
        attached,
        ports,
    } = gate;
    json!({
        "deadline_ns": deadline_ns, "since_ns": since_ns, "reached_before": reached_before,
        "refuse_until_ns": refuse_until_ns, "guard_ns": guard_ns, "state": state, "mode": mode,
        "socket_quota": socket_quota, "proxy_uid": proxy_uid, "errno": errno, "dns_port": dns_port,
        "closed_for": closed_for, "attached": attached, "ports": ports,
    })
}

fn of_counts(counts: &GateCounts) -> Value {
    let GateCounts { records, datagrams, held, held_queries, dropped, refused, observed, around } =
        counts;
    json!({
        "records": records, "datagrams": datagrams, "held": held, "held_queries": held_queries,
        "dropped": dropped, "refused": refused, "observed": observed, "around": around,
    })
}
