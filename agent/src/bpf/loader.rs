//! Loading the embedded object.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, Map, MapData},
};

use super::{BpfError, EventReader, Gates, KernelLog, Pins, SocketTable, gate::Programs};

/// The eBPF object, built by this crate's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/holdfast-ebpf"));

/// Levels of `aya_log_common::Level`: off is below the lowest, debug is the one the gate uses.
const KERNEL_LOG_OFF: u8 = 0;
const KERNEL_LOG_DEBUG: u8 = 4;

/// What the operator may choose about the programs.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Let the programs write debug lines. Off, their code is removed by the verifier.
    pub kernel_log: bool,
    /// How many held sockets can be replayed and named, over all pods of the node.
    pub max_sockets: u32,
    /// How many of these one pod may take.
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
    let mut ebpf = EbpfLoader::new()
        .override_global(aya_log::LEVEL, &level, true)
        .map_max_entries(SocketTable::MAP, options.max_sockets)
        .load(OBJECT)
        .map_err(|source| BpfError::Object(Box::new(source)))?;

    let pins = options.bpffs.as_deref().map(|bpffs| Pins::new(&ebpf, bpffs)).transpose()?;
    let kernel_log = options.kernel_log.then(|| KernelLog::new(&mut ebpf)).transpose()?;
    let (sockets, remover) = SocketTable::new(take(&mut ebpf, SocketTable::MAP)?)?;
    let events = EventReader::new(
        convert(take(&mut ebpf, EventReader::MAP)?, EventReader::MAP)?,
        convert(take(&mut ebpf, EventReader::LOST_MAP)?, EventReader::LOST_MAP)?,
    )?;
    let gates_map = hash(&mut ebpf, Gates::MAP)?;
    let counts = hash(&mut ebpf, Gates::COUNTS_MAP)?;
    let containers = hash(&mut ebpf, Gates::CONTAINERS_MAP)?;
    let programs = Programs::load(ebpf)?;
    let quota = options.max_sockets_per_pod;
    let gates = Gates::new(programs, gates_map, counts, containers, remover, quota);
    Ok(Loaded { gates, sockets, events, kernel_log, pins })
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
