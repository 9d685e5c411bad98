//! Which BPF programs are attached to a cgroup, asked from the kernel itself.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, Result};

use crate::cgroup::Cgroup;

const BPF_PROG_QUERY: libc::c_int = 16;
/// Every attach type of a cgroup in the kernel's `enum bpf_attach_type`, with its value there.
const CGROUP_ATTACH_TYPES: [(&str, u32); 28] = [
    ("ingress", 0),
    ("egress", 1),
    ("sock_create", 2),
    ("sock_ops", 3),
    ("device", 6),
    ("bind4", 8),
    ("bind6", 9),
    ("connect4", 10),
    ("connect6", 11),
    ("post_bind4", 12),
    ("post_bind6", 13),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("sysctl", 18),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getsockopt", 21),
    ("setsockopt", 22),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("getsockname4", 31),
    ("getsockname6", 32),
    ("sock_release", 34),
    ("connect_unix", 49),
    ("sendmsg_unix", 50),
    ("recvmsg_unix", 51),
    ("getpeername_unix", 52),
    ("getsockname_unix", 53),
];

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    padding: u32,
}

/// The names of the hooks of this one cgroup that have a program attached, once for each program;
/// programs of the folders above are not counted.
pub fn programs_on(cgroup: &Path) -> Result<Vec<&'static str>> {
    let dir = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
    let mut found = Vec::new();
    for (name, attach_type) in CGROUP_ATTACH_TYPES {
        let count = count(&dir, attach_type)
            .with_context(|| format!("ask for {name} programs of {}", cgroup.display()))?;
        found.extend((0..count).map(|_| name));
    }
    Ok(found)
}

/// As [`programs_on`], of the cgroup and all below it.
pub fn programs_below(cgroup: &Cgroup) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for dir in cgroup.tree() {
        match programs_on(&dir) {
            Ok(programs) => found.extend(programs),
            // A container that ends meanwhile takes its folder and its programs with it.
            Err(_) if !dir.exists() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn count(cgroup: &File, attach_type: u32) -> io::Result<u32> {
    let mut query = Query {
        target_fd: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        attach_type,
        ..Query::default()
    };
    // SAFETY: the attribute is a live Query, its own size is passed, and with no prog_ids the
    // kernel writes nothing but its counts.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result == 0 {
        return Ok(query.prog_count);
    }
    match io::Error::last_os_error() {
        // An attach type that this kernel does not have has no programs.
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(0),
        error => Err(error),
    }
}
