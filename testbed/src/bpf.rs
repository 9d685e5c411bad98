//! Which BPF programs are attached to a cgroup, and what is in a map, asked from the kernel itself.

mod runs;

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};

pub use self::runs::{Counting, Runs, runs_on};
use crate::cgroup::Cgroup;

const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const EGRESS: u32 = 1;
/// Every attach type of a cgroup in the kernel's `enum bpf_attach_type`, with its value there.
const CGROUP_ATTACH_TYPES: [(&str, u32); 28] = [
    ("ingress", 0),
    ("egress", EGRESS),
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

/// Whether this one cgroup has a program at `egress`: holdfast's gate, the last that it attaches there.
/// Where it is asked again and again this is the question: each takes the kernel's one lock for cgroups, as
/// attaching and the making of cgroups do, and [`programs_on`] asks for every hook.
pub fn is_gated(cgroup: &Path) -> Result<bool> {
    let of = || format!("ask for the gate of {}", cgroup.display());
    let dir = File::open(cgroup).with_context(of)?;
    Ok(count(&dir, EGRESS).with_context(of)? > 0)
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

/// A map that has a name in a BPF file system.
#[derive(Debug)]
pub struct PinnedMap {
    fd: OwnedFd,
    kind: u32,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET` uses.
#[repr(C)]
#[derive(Default)]
struct Object {
    pathname: u64,
    fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` uses.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The part of `union bpf_attr` that the calls on elements use.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

impl PinnedMap {
    /// Opens it by its name.
    pub fn open(path: &Path) -> Result<Self> {
        let of = || format!("open the map {}", path.display());
        let name = CString::new(path.as_os_str().as_bytes()).with_context(of)?;
        let mut object = Object { pathname: name.as_ptr() as u64, ..Object::default() };
        let fd = owned(bpf(BPF_OBJ_GET, &mut object).with_context(of)?).with_context(of)?;
        let mut map = MapInfo::default();
        let mut info = InfoByFd {
            fd: number(&fd),
            info_len: u32::try_from(size_of::<MapInfo>()).with_context(of)?,
            info: (&raw mut map) as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut info).with_context(of)?;
        Ok(Self {
            fd,
            kind: map.kind,
            key_size: map.key_size as usize,
            value_size: map.value_size as usize,
            max_entries: map.max_entries,
        })
    }

    /// How many elements it can have.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// Whether it is a hash table from which nothing goes but by removal.
    pub fn is_hash(&self) -> bool {
        self.kind == BPF_MAP_TYPE_HASH
    }

    /// How many elements it has.
    pub fn count(&self) -> Result<usize> {
        let mut count = 0;
        self.walk(|_| count += 1)?;
        Ok(count)
    }

    /// Its keys, of eight bytes.
    pub fn keys(&self) -> Result<Vec<u64>> {
        self.has_long_keys()?;
        let mut keys = Vec::new();
        self.walk(|key| keys.extend(key.try_into().map(u64::from_ne_bytes)))?;
        Ok(keys)
    }

    fn walk(&self, mut seen: impl FnMut(&[u8])) -> Result<()> {
        let mut key = vec![0_u8; self.key_size];
        let mut next = key.clone();
        // The first one follows no key.
        let mut before = 0;
        loop {
            let mut element = self.element(before, next.as_mut_ptr() as u64);
            match bpf(BPF_MAP_GET_NEXT_KEY, &mut element) {
                Ok(_) => seen(&next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                Err(error) => return Err(error).context("walk a map"),
            }
            std::mem::swap(&mut key, &mut next);
            before = key.as_ptr() as u64;
        }
    }

    /// Writes an element of zeros, by a key of eight bytes.
    pub fn put_zero(&self, key: u64) -> io::Result<()> {
        self.has_long_keys()?;
        let value = vec![0_u8; self.value_size];
        let mut element = self.element((&raw const key) as u64, value.as_ptr() as u64);
        bpf(BPF_MAP_UPDATE_ELEM, &mut element).map(drop)
    }

    /// Removes an element, by a key of eight bytes.
    pub fn remove(&self, key: u64) -> io::Result<()> {
        self.has_long_keys()?;
        bpf(BPF_MAP_DELETE_ELEM, &mut self.element((&raw const key) as u64, 0)).map(drop)
    }

    /// The kernel reads as many bytes as the map's keys have.
    fn has_long_keys(&self) -> io::Result<()> {
        if self.key_size == size_of::<u64>() {
            return Ok(());
        }
        Err(io::Error::other(format!("a map with keys of {} bytes", self.key_size)))
    }

    fn element(&self, key: u64, value: u64) -> Element {
        Element { map_fd: number(&self.fd), padding: 0, key, value, flags: 0 }
    }
}

/// The kernel takes descriptors as `u32`; those of an open file are never negative.
fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// A descriptor that [`bpf`] has answered with.
fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = i32::try_from(fd)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `T` is the part of `union bpf_attr` that `command` uses.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are live and as long as said; what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn count(cgroup: &File, attach_type: u32) -> io::Result<u32> {
    let mut query = Query {
        target_fd: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        attach_type,
        ..Query::default()
    };
    match bpf(BPF_PROG_QUERY, &mut query) {
        Ok(_) => Ok(query.prog_count),
        // An attach type that this kernel does not have has no programs.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(0),
        Err(error) => Err(error),
    }
}
