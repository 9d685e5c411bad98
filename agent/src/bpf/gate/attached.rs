//! What is on one pod's cgroup.

use std::{fs, io, path::PathBuf};

use crate::{
    bpf::{link::Link, program::Hook},
    core::Monotonic,
};

/// What is on one pod's cgroup. Dropping it takes everything off again.
#[derive(Debug, Default)]
pub(in crate::bpf) struct Attached {
    /// Sorted by hook, which is the order in which they come off.
    pub(in crate::bpf) links: Vec<(Hook, Link)>,
    /// Those of another version's agent. They stay until this one's own are there.
    pub(in crate::bpf) foreign: Vec<Link>,
    /// When their gate opens by itself.
    pub(in crate::bpf) foreign_deadline: Option<Monotonic>,
    /// Where the links have their names.
    pub(in crate::bpf) directories: Vec<PathBuf>,
}

// === impl Attached ===

impl Attached {
    pub(super) fn has(&self, hook: Hook) -> bool {
        self.links.iter().any(|(attached, _)| *attached == hook)
    }

    /// Whether there were any.
    pub(super) fn drop_foreign(&mut self) -> bool {
        let some = !self.foreign.is_empty();
        if some {
            self.foreign.clear();
            self.foreign_deadline = None;
            // This version's own is not empty.
            self.directories.retain(|directory| fs::remove_dir(directory).is_err());
        }
        some
    }

    pub(in crate::bpf) fn leave(&mut self) {
        self.links.drain(..).for_each(|(_, link)| link.leave());
        self.foreign.drain(..).for_each(Link::leave);
        self.directories.clear();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.links.clear();
        self.foreign.clear();
        for directory in &self.directories {
            let _: io::Result<()> = fs::remove_dir(directory);
        }
    }
}
