//! What each program costs: how long it is, and how much work the kernel's verifier has with it.
//!
//! The verifier tells that in its log, which aya shows only of programs that are refused. So the
//! instructions that aya would load are made once more, with aya's own object parser.

use std::{
    collections::HashSet,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use aya::{
    EbpfError,
    maps::{Map, MapData},
};
use aya_obj::{
    Function, Object, Program, ProgramSection,
    generated::{bpf_attach_type, bpf_prog_type},
};

use super::{
    BpfError,
    loader::{self, LoadOptions},
    sys,
};

/// Room for the verifier's statistics, which are three lines.
const LOG_BYTES: usize = 4096;

/// What one program costs on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// The program's name in the object.
    pub name: String,
    /// Its instructions as the kernel runs them: helpers are inlined, dead code is gone.
    pub instructions: u32,
    /// Instructions that the verifier has followed, on all paths. It refuses programs beyond a million.
    pub verified: u32,
    /// States that the verifier has had to keep at a time: its memory.
    pub peak_states: u32,
    /// How long it took.
    pub duration: Duration,
}

/// Has the verifier read every program of the object, sorted by name. They are let go of at once.
///
/// # Errors
///
/// [`BpfError`] if the kernel refuses a map or a program, or tells no statistics.
pub fn costs(options: &LoadOptions) -> Result<Vec<ProgramCost>, BpfError> {
    // It has the maps, with the programs' constants in them.
    let ebpf = loader::object(options, None)?;
    let object = relocated(|name| ebpf.map(name).and_then(data))
        .map_err(|source| BpfError::Object(Box::new(source)))?;
    let mut costs = Vec::new();
    for (name, program) in &object.programs {
        let cost = object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| io::Error::other("it has no code"))
            .and_then(|function| cost(name, program, function));
        costs.push(cost.map_err(|source| BpfError::Verify { program: name.clone(), source })?);
    }
    costs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(costs)
}

/// The object, its instructions naming these maps.
fn relocated<'a>(map_of: impl Fn(&str) -> Option<&'a MapData>) -> Result<Object, EbpfError> {
    let mut object = Object::parse(loader::OBJECT)?;
    let maps = mem::take(&mut object.maps);
    let code: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let maps = maps.iter().filter_map(|(name, map)| {
        let fd = map_of(name)?.fd().as_fd().as_raw_fd();
        Some((name.as_str(), fd, map))
    });
    object.relocate_maps(maps, &code)?;
    object.relocate_calls(&code)?;
    Ok(object)
}

/// The kinds of maps that the object has.
const fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data) => Some(data),
        _ => None,
    }
}

fn cost(name: &str, program: &Program, function: &Function) -> io::Result<ProgramCost> {
    let (program_type, attach_type) = kind(&program.section)
        .ok_or_else(|| io::Error::other(format!("unknown kind {:?}", program.section)))?;
    let mut log = vec![0; LOG_BYTES];
    let loaded = sys::program_load(
        program_type,
        attach_type,
        &function.instructions,
        &program.license,
        &mut log,
    )?;
    let instructions = sys::instructions_of(loaded.as_fd())?;
    let log = String::from_utf8_lossy(&log);
    let number = |before| number_after(&log, before);
    let statistics = || {
        Some(ProgramCost {
            name: name.to_owned(),
            instructions,
            verified: number("processed ")?,
            peak_states: number("peak_states ")?,
            duration: Duration::from_micros(number("verification time ")?.into()),
        })
    };
    statistics().ok_or_else(|| io::Error::other("the verifier told no statistics"))
}

/// As aya loads it.
fn kind(section: &ProgramSection) -> Option<(bpf_prog_type, bpf_attach_type)> {
    Some(match section {
        ProgramSection::CgroupSkb { attach_type } => {
            (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SKB, (*attach_type)?.into())
        }
        ProgramSection::CgroupSock { attach_type } => {
            (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK, (*attach_type).into())
        }
        ProgramSection::CgroupSockAddr { attach_type } => {
            (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, (*attach_type).into())
        }
        ProgramSection::CgroupSockopt { attach_type } => {
            (bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCKOPT, (*attach_type).into())
        }
        ProgramSection::SockOps => {
            (bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS, bpf_attach_type::BPF_CGROUP_SOCK_OPS)
        }
        _ => return None,
    })
}

/// The number behind these words: the statistics of `print_verification_stats` in
/// kernel/bpf/verifier.c.
fn number_after(log: &str, words: &str) -> Option<u32> {
    let (_, rest) = log.split_once(words)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_statistics_are_read() {
        let log = "verification time 1234 usec\nstack depth 152+0\nprocessed 520 insns (limit \
                   1000000) max_states_per_insn 4 total_states 30 peak_states 29 mark_read 5\n";
        let numbers = ["processed ", "peak_states ", "verification time "];
        assert_eq!(
            numbers.map(|words| number_after(log, words)),
            [Some(520), Some(29), Some(1234)]
        );
        assert_eq!(number_after("", "processed "), None);
        assert_eq!(number_after("processed many", "processed "), None);
    }
}
