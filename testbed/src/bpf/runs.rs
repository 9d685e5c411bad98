//! How often the kernel has run programs, and how long they took.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{
    BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_QUERY, CGROUP_ATTACH_TYPES, InfoByFd, Query, bpf, count,
    number, owned,
};

const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_ENABLE_STATS: libc::c_int = 32;
const BPF_STATS_RUN_TIME: u32 = 0;

/// While it lives the kernel counts programs' runs. It ends with the process at the latest, however
/// that ends; `kernel.bpf_stats_enabled` would have to be set back by somebody.
#[derive(Debug)]
pub struct Counting {
    _fd: OwnedFd,
}

/// A program's runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// How long they took together, and with them the readings of the clock, in nanoseconds.
    pub nanos: u64,
}

/// The part of `union bpf_attr` that `BPF_ENABLE_STATS` uses.
#[repr(C)]
struct EnableStats {
    kind: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_GET_FD_BY_ID` uses.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The beginning of `struct bpf_prog_info`, up to the counts (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind_and_id: [u32; 2],
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    owner_and_maps: [u32; 2],
    map_ids: u64,
    name: [u8; 16],
    device_and_license: [u32; 2],
    netns: [u64; 2],
    function_counts: [u32; 2],
    functions: [u64; 2],
    btf: [u32; 2],
    function_info: u64,
    line_counts: [u32; 2],
    line_info: [u64; 2],
    jited_line_counts: [u32; 3],
    tag_count: u32,
    tags: u64,
    run_time_ns: u64,
    run_cnt: u64,
}

// === impl Counting ===

impl Counting {
    /// Begins to count, in all programs of the machine.
    pub fn start() -> Result<Self> {
        let mut what = EnableStats { kind: BPF_STATS_RUN_TIME };
        let fd =
            bpf(BPF_ENABLE_STATS, &mut what).context("have the kernel count programs' runs")?;
        Ok(Self { _fd: owned(fd)? })
    }
}

// === impl Runs ===

impl Runs {
    /// Those since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { count: self.count - before.count, nanos: self.nanos - before.nanos }
    }
}

/// The runs of the programs of this one cgroup, by their hooks, for all cgroups they are on. Of their
/// names the kernel keeps too little to tell them apart.
pub fn runs_on(cgroup: &Path) -> Result<BTreeMap<&'static str, Runs>> {
    let of = || format!("ask for the programs of {}", cgroup.display());
    let dir = File::open(cgroup).with_context(of)?;
    let mut all = BTreeMap::new();
    for (hook, attach_type) in CGROUP_ATTACH_TYPES {
        let mut ids = vec![0_u32; count(&dir, attach_type).with_context(of)? as usize];
        if ids.is_empty() {
            continue;
        }
        let mut query = Query {
            target_fd: u32::try_from(dir.as_raw_fd()).with_context(of)?,
            attach_type,
            prog_ids: ids.as_mut_ptr() as u64,
            prog_count: u32::try_from(ids.len()).with_context(of)?,
            ..Query::default()
        };
        bpf(BPF_PROG_QUERY, &mut query).with_context(of)?;
        for id in ids {
            let runs = runs_of(id).with_context(|| format!("ask for the program {id}"))?;
            let sum: &mut Runs = all.entry(hook).or_default();
            sum.count += runs.count;
            sum.nanos += runs.nanos;
        }
    }
    Ok(all)
}

fn runs_of(id: u32) -> Result<Runs> {
    let mut asked = ById { id, ..ById::default() };
    let fd = owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut asked)?)?;
    let mut program = ProgramInfo::default();
    let mut info = InfoByFd {
        fd: number(&fd),
        info_len: u32::try_from(size_of::<ProgramInfo>())?,
        info: (&raw mut program) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut info)?;
    let ProgramInfo { run_time_ns, run_cnt, .. } = program;
    Ok(Runs { count: run_cnt, nanos: run_time_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_are_where_the_kernel_has_them() {
        // As pahole prints `struct bpf_prog_info`.
        assert_eq!(std::mem::offset_of!(ProgramInfo, run_time_ns), 192);
        assert_eq!(std::mem::offset_of!(ProgramInfo, run_cnt), 200);
    }
}
