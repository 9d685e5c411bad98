//! The calls of bpf(2) that aya 0.14 does not offer: it attaches programs to cgroups, but can
//! neither put another program into such a link (`BPF_LINK_UPDATE`, Linux 5.7) nor pin the one of a
//! `cgroup/setsockopt` program. And it keeps to itself what the verifier says of a good program.

use std::{
    ffi::{CStr, CString},
    io, mem,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_info, bpf_prog_type,
};

/// `BPF_LOG_STATS` of include/linux/bpf_verifier.h: what the verifier had to do, and not how.
const LOG_STATISTICS: u32 = 4;

/// Puts a program onto a cgroup, beside those that are there (Linux 5.7: a cgroup link is always
/// one of many, `cgroup_bpf_link_attach` in kernel/bpf/cgroup.c).
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = no_attributes();
    // SAFETY: writing a field of a zeroed union of plain integers.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = number(program);
    create.__bindgen_anon_2.target_fd = number(cgroup);
    create.attach_type = attach_type as u32;
    new_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Replaces the program of a link in one step: no packet goes by without one.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = no_attributes();
    // SAFETY: as above.
    let update = unsafe { &mut attr.link_update };
    update.link_fd = number(link);
    update.__bindgen_anon_1.new_prog_fd = number(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Gives an object a name in a BPF file system; it lives for as long as that.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = no_attributes();
    // SAFETY: as above.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    pin.bpf_fd = number(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens an object by its name.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = no_attributes();
    // SAFETY: as above.
    let open = unsafe { &mut attr.__bindgen_anon_4 };
    open.pathname = path.as_ptr() as u64;
    new_descriptor(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// One value of a map whose keys are `u64`, as bytes; `value_size` is the map's own.
pub(super) fn map_lookup(map: BorrowedFd<'_>, key: u64, value_size: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; value_size];
    let mut attr = no_attributes();
    // SAFETY: as above.
    let lookup = unsafe { &mut attr.__bindgen_anon_2 };
    lookup.map_fd = number(map);
    lookup.key = (&raw const key) as u64;
    lookup.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// Loads a program that names its maps by descriptors; the verifier's statistics go to `log`.
pub(super) fn program_load(
    program_type: bpf_prog_type,
    attach_type: bpf_attach_type,
    instructions: &[bpf_insn],
    license: &CStr,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut attr = no_attributes();
    // SAFETY: as above.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = program_type as u32;
    load.expected_attach_type = attach_type as u32;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = license.as_ptr() as u64;
    load.log_level = LOG_STATISTICS;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    new_descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// How many instructions a program has, as the kernel runs it.
pub(super) fn instructions_of(program: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: plain integers; where the kernel sees zeros for pointers it writes only lengths.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    let mut attr = no_attributes();
    // SAFETY: as above.
    let get = unsafe { &mut attr.info };
    get.bpf_fd = number(program);
    get.info_len = size_of::<bpf_prog_info>() as u32;
    get.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.xlated_prog_len / size_of::<bpf_insn>() as u32)
}

fn no_attributes() -> bpf_attr {
    // SAFETY: a union of plain integers, of which all zeros is a value; the kernel takes what it
    // does not know only if it is zero.
    unsafe { mem::zeroed() }
}

/// The kernel takes descriptors as `u32`; those of an open file are never negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn new_descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, for these commands, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    let (attr, size) = (&raw mut *attr, size_of::<bpf_attr>());
    // SAFETY: the attributes are as long as said, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
