//! Loading the embedded object.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, Map, MapData},
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use super::{
    BpfError, EventReader, Gates, KernelLog, Pins, SocketTable, gate::GateMaps, program::Programs,
};

/// The eBPF object, built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/holdfast-ebpf"));

/// Levels of `aya_log_common::Level`: off is below the lowest, debug is the one the gate uses.
const KERNEL_LOG_OFF: u8 = 0;
const KERNEL_LOG_DEBUG: u8 = 4;

/// Constants of the programs: whether they may call a helper. Off, the verifier removes the call.
const SET_RETVAL: &str = "HOLDFAST_SET_RETVAL";
const SOCKOPT_ANCESTORS: &str = "HOLDFAST_SOCKOPT_ANCESTORS";

/// What the operator may choose about the programs.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Let the programs write debug lines. Off, their code is removed by the verifier.
    pub kernel_log: bool,
    /// How many held sockets can be replayed and named, over all pods of the node; and how many DNS
    /// queries.
    pub max_sockets: u32,
    /// How many of each one pod may take.
    pub max_sockets_per_pod: u32,
    /// A BPF file system to pin the maps on while the agent runs.
    pub bpffs: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { kernel_log: false, max_sockets: 65_536, max_sockets_per_pod: 16_384, bpffs: None }
    }
}

/// The parts of the loaded object, each with its owner-to-be.
#[derive(Debug)]
pub struct Loaded {
    /// Works the gates.
    pub gates: Gates,
    /// Reads the held sockets.
    pub sockets: SocketTable,
    /// Reads the kernel's events.
    pub events: EventReader,
    /// Reads the kernel's debug lines, if they were asked for.
    pub kernel_log: Option<KernelLog>,
    /// The pinned maps, if a BPF file system was named.
    pub pins: Option<Pins>,
}

/// Loads all programs and maps; nothing is attached yet.
///
/// # Errors
///
/// [`BpfError`] if the kernel refuses a map or a program: too old, or a missing capability.
pub fn load(options: &LoadOptions) -> Result<Loaded, BpfError> {
    let level = if options.kernel_log { KERNEL_LOG_DEBUG } else { KERNEL_LOG_OFF };
    // Linux 5.18.
    let set_retval =
        u8::from(has_helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval));
    if set_retval == 0 {
        tracing::warn!(
            "kernel before 5.18: mode refuse always refuses with ECONNREFUSED, and from connect() \
             itself never"
        );
    }
    // Not in 5.10; see the programs' own note.
    let sockopt_ancestors = u8::from(has_helper(
        ProgramType::CgroupSockopt,
        BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
    ));
    let mut ebpf = EbpfLoader::new()
        .override_global(aya_log::LEVEL, &level, true)
        .override_global(SET_RETVAL, &set_retval, true)
        .override_global(SOCKOPT_ANCESTORS, &sockopt_ancestors, true)
        .map_max_entries(SocketTable::MAP, options.max_sockets)
        .map_max_entries(SocketTable::DATAGRAMS_MAP, options.max_sockets)
        .load(OBJECT)
        .map_err(|source| BpfError::Object(Box::new(source)))?;

    let pins = options.bpffs.as_deref().map(|bpffs| Pins::new(&ebpf, bpffs)).transpose()?;
    let kernel_log = options.kernel_log.then(|| KernelLog::new(&mut ebpf)).transpose()?;
    let records = take(&mut ebpf, SocketTable::MAP)?;
    let datagrams = take(&mut ebpf, SocketTable::DATAGRAMS_MAP)?;
    let (table, sockets) = SocketTable::new(records, datagrams)?;
    let events = EventReader::new(
        convert(take(&mut ebpf, EventReader::MAP)?, EventReader::MAP)?,
        convert(take(&mut ebpf, EventReader::LOST_MAP)?, EventReader::LOST_MAP)?,
    )?;
    let maps = GateMaps {
        gates: hash(&mut ebpf, Gates::MAP)?,
        counts: hash(&mut ebpf, Gates::COUNTS_MAP)?,
        containers: hash(&mut ebpf, Gates::CONTAINERS_MAP)?,
        sockets,
    };
    let gates = Gates::new(Programs::load(ebpf)?, maps, options.max_sockets_per_pod);
    Ok(Loaded { gates, sockets: table, events, kernel_log, pins })
}

/// Whether programs of a type may call a helper. What cannot be found out is not relied on.
fn has_helper(program_type: ProgramType, helper: BpfHelper) -> bool {
    is_helper_supported(program_type, helper).unwrap_or(false)
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, BpfError> {
    ebpf.take_map(name).ok_or(BpfError::Missing { kind: "map", name })
}

fn hash<V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<HashMap<MapData, u64, V>, BpfError> {
    convert(take(ebpf, name)?, name)
}

/// Takes a map for what the agent was built to find there: its type and the sizes of its keys and
/// values are checked.
pub(super) fn convert<T>(map: Map, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    T::try_from(map).map_err(|source| BpfError::Map {
        operation: "open",
        map: name,
        source: Box::new(source),
    })
}
