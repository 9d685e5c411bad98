//! Loading the embedded object.

use std::{
    collections::HashMap as StdHashMap, fs, os::fd::AsFd as _, path::PathBuf, time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError, MapInfo},
};

use super::{
    Arrivals, BpfError, EventReader, Gates, LineSink, SocketTable,
    awaited::Asked,
    away::Away,
    gate::GateMaps,
    inherit,
    kernel_log::KernelLog,
    map,
    part::KernelPart,
    pin::{self, Claim},
    program::Programs,
    sentry::{self, Posting, Sentry},
    voice::Voices,
};
use crate::{awaited::AwaitedPorts, core::PodUid};

/// The eBPF object, built by this crate's build script.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/holdfast-ebpf"));

/// Constants of the programs: whether they may call a helper. Off, the verifier removes the call.
const SET_RETVAL: &str = "HOLDFAST_SET_RETVAL";
const SOCKOPT_ANCESTORS: &str = "HOLDFAST_SOCKOPT_ANCESTORS";
const SOCK_OPS_NETNS: &str = "HOLDFAST_SOCK_OPS_NETNS";

/// The maps that outlive an agent: all in which something stands that the next one's programs go on
/// with.
const PINNED: [&str; 14] = [
    Gates::MAP,
    Gates::COUNTS_MAP,
    Gates::CONTAINERS_MAP,
    SocketTable::MAP,
    SocketTable::DATAGRAMS_MAP,
    EventReader::MAP,
    EventReader::LOST_MAP,
    Sentry::MAP,
    Sentry::POST_MAP,
    Away::MAP,
    Sentry::BRANCHES_MAP,
    "REDIRECTED",
    "WAITING_SINCE",
    "HOLDS",
];

/// The pinned maps whose size the operator chooses.
const SIZED: [&str; 2] = [SocketTable::MAP, SocketTable::DATAGRAMS_MAP];

/// What the operator may choose about the programs.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Let the programs write debug lines, for all pods. Off, [`Gates::set_kernel_log`] does it for
    /// single ones.
    pub kernel_log: bool,
    /// How many held sockets can be replayed and named, over all pods of the node; and how many DNS
    /// queries.
    pub max_sockets: u32,
    /// How many of each one pod may take.
    pub max_sockets_per_pod: u32,
    /// The agent's own pod, if it is in one.
    pub pod: Option<PodUid>,
    /// Who minds the pods that start until the agent works, if nobody does yet; `None`: nobody.
    pub meanwhile: Option<Meanwhile>,
}

/// The sentry of an agent that has begun and does not work yet.
#[derive(Clone, Debug)]
pub struct Meanwhile {
    /// Where kubelet's trees are.
    pub cgroup_root: PathBuf,
    /// How long it stands at most.
    pub longest: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            kernel_log: false,
            max_sockets: 65_536,
            max_sockets_per_pod: 16_384,
            pod: None,
            meanwhile: None,
        }
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
    /// Tells who begins to listen, if the kernel does.
    pub awaited: Option<(AwaitedPorts, Arrivals)>,
}

/// Shows that this kernel takes all programs, and lets go of them again.
///
/// # Errors
///
/// As [`load`].
pub fn prove(options: &LoadOptions) -> Result<(), BpfError> {
    let programs = Programs::load(object(options, None)?)?;
    if options.kernel_log { programs.loud().load() } else { Ok(()) }
}

/// Loads all programs and maps. With a place in a BPF file system, what an earlier agent has left
/// there goes on without a gap, with these programs; nothing else is attached yet. The programs'
/// debug lines, if they are to write any, go to `lines`.
///
/// # Errors
///
/// [`BpfError`] if the kernel refuses a map or a program: too old, or a missing capability. What
/// stands stays as it is then.
pub fn load(
    options: &LoadOptions,
    mut claim: Option<Claim>,
    lines: LineSink,
) -> Result<Loaded, BpfError> {
    if let Some(claim) = &mut claim {
        if let Err(error) = claim.begin_work_as(options.pod.clone()) {
            tracing::warn!(%error, "it cannot be told that an agent works; a sentry may be posted");
        }
        prepare(claim, options)?;
        if let Some(meanwhile) = &options.meanwhile {
            bridge(claim, meanwhile);
        }
    }
    let mut ebpf = object(options, claim.as_ref())?;
    let begun = open(&ebpf, KernelLog::MAP)?;
    let kernel_log = KernelLog::new(&mut ebpf, begun, lines)?;
    let records = || open(&ebpf, SocketTable::MAP);
    let datagrams = || open(&ebpf, SocketTable::DATAGRAMS_MAP);
    let (table, sockets) = SocketTable::new(
        [records()?, records()?],
        [datagrams()?, datagrams()?],
        open(&ebpf, Gates::COUNTS_MAP)?,
    );
    let events =
        EventReader::new(open(&ebpf, EventReader::MAP)?, open(&ebpf, EventReader::LOST_MAP)?)?;
    let awaited = if KernelPart::SockOpsNetns.is_there() {
        let asked = Asked::new(open(&ebpf, Asked::MAP)?);
        let ports = AwaitedPorts::new(Box::new(asked));
        let arrivals = Arrivals::new(open(&ebpf, Arrivals::MAP)?, ports.clone())?;
        Some((ports, arrivals))
    } else {
        None
    };
    let maps = GateMaps {
        gates: open(&ebpf, Gates::MAP)?,
        counts: open(&ebpf, Gates::COUNTS_MAP)?,
        containers: open(&ebpf, Gates::CONTAINERS_MAP)?,
        away: Away::new(open(&ebpf, Away::MAP)?),
        table: table.clone(),
        sockets,
    };
    let programs = Programs::load(ebpf)?;
    if let Some(directory) = claim.as_ref().map(Claim::programs)
        && let Err(error) = programs.pin_sentry(&directory)
    {
        tracing::warn!(
            directory = %directory.display(), %error,
            "programs cannot be pinned: pods that start while no agent lives are not held"
        );
    }
    let voices = Voices::new(programs, kernel_log, options.kernel_log)?;
    let left = match &claim {
        Some(claim) => inherit::take_over(claim, &voices, &maps)?,
        None => StdHashMap::new(),
    };
    let gates = Gates::new(voices, maps, options.max_sockets_per_pod, left, claim);
    Ok(Loaded { gates, sockets: table, events, awaited })
}

/// From here on no other process posts a sentry, and it takes the verifier seconds until this agent
/// can hold anybody: what an agent before it has loaded is there already.
fn bridge(claim: &Claim, meanwhile: &Meanwhile) {
    if meanwhile.longest.is_zero() || !claim.programs().is_dir() {
        return;
    }
    let posting = Sentry::open_in(claim.version()).and_then(|sentry| {
        let Some(mut sentry) = sentry else { return Ok(None) };
        sentry.post_below(&meanwhile.cgroup_root, meanwhile.longest).map(Some)
    });
    match posting {
        Ok(Some(Posting::Posted { until: _ })) => {
            let longest = humantime::format_duration(meanwhile.longest);
            tracing::info!(%longest, "sentry posted until this agent works");
        }
        // Of one whose time is up only an agent that has worked begins a new one.
        Ok(Some(Posting::Stands | Posting::Over) | None) => {}
        Err(error) => tracing::warn!(
            %error, "sentry cannot be posted: pods that start until an agent works are not held"
        ),
    }
}

/// The object with its maps, new or those that are pinned.
pub(super) fn object(options: &LoadOptions, claim: Option<&Claim>) -> Result<Ebpf, BpfError> {
    // Not in 5.10; see the programs' own notes.
    let set_retval = u8::from(KernelPart::SetRetval.is_there());
    let sockopt_ancestors = u8::from(KernelPart::SockoptAncestors.is_there());
    let sock_ops_netns = u8::from(KernelPart::SockOpsNetns.is_there());
    let mut loader = EbpfLoader::new();
    loader
        .override_global(SET_RETVAL, &set_retval, true)
        .override_global(SOCKOPT_ANCESTORS, &sockopt_ancestors, true)
        .override_global(SOCK_OPS_NETNS, &sock_ops_netns, true);
    for name in SIZED {
        loader.map_max_entries(name, options.max_sockets);
    }
    if let Some(maps) = claim.map(Claim::maps) {
        for name in PINNED {
            loader.map_pin_path(name, maps.join(name));
        }
    }
    loader.load(OBJECT).map_err(|source| BpfError::Object(Box::new(source)))
}

/// How pinned maps fit what this agent was built and told to use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Good,
    /// They serve, with another size than the operator has chosen.
    OtherSize,
    /// They are missing, or of another layout under the same version.
    Bad,
}

/// Makes the directories, and moves what this agent cannot use out of the way: it is treated as
/// another version's. aya does not compare a pinned map with the one it is to be.
fn prepare(claim: &Claim, options: &LoadOptions) -> Result<(), BpfError> {
    let (version, maps, links) = (claim.version(), claim.maps(), claim.links());
    let pods = pin::directories(&links).map_err(|error| pin::failed(&links, error))?;
    let stands = !pods.is_empty();
    match fit(claim, options)? {
        Fit::Good => {}
        Fit::OtherSize if stands => tracing::info!(
            max_sockets = options.max_sockets,
            "another --max-sockets takes effect once no gate stands when the agent starts"
        ),
        Fit::Bad if stands => claim.put_aside()?,
        // Nothing stands in these, while the others have to tell which pods were taken up.
        Fit::OtherSize => remove(SIZED.map(|name| maps.join(name)))?,
        Fit::Bad => {
            // A sentry that is posted would go on with maps that nobody reaches any more.
            pin::remove_tree(&sentry::links_in(&version));
            // So would one that is posted with programs that were loaded with them.
            pin::remove_tree(&sentry::programs_in(&version));
            remove(pin::files(&maps))?;
        }
    }
    for directory in [version, maps, links] {
        if !directory.is_dir() {
            fs::create_dir(&directory).map_err(|error| pin::failed(&directory, error))?;
        }
    }
    Ok(())
}

fn remove(maps: impl IntoIterator<Item = PathBuf>) -> Result<(), BpfError> {
    for map in maps {
        fs::remove_file(&map).map_err(|error| pin::failed(&map, error))?;
    }
    Ok(())
}

fn fit(claim: &Claim, options: &LoadOptions) -> Result<Fit, BpfError> {
    let mut found = Vec::new();
    for name in PINNED {
        let path = claim.maps().join(name);
        match MapInfo::from_pin(&path) {
            Ok(info) => found.push(info),
            // The first agent of a node has nothing to compare; or it is no map.
            Err(source) => {
                let source = Box::new(source);
                let error = BpfError::Map { operation: "look at", map: name, source };
                return if error.may_pass() { Err(error) } else { Ok(Fit::Bad) };
            }
        }
    }
    let object = aya_obj::Object::parse(OBJECT)
        .map_err(|source| BpfError::Object(Box::new(source.into())))?;
    let mut fit = Fit::Good;
    for (name, found) in PINNED.into_iter().zip(found) {
        let wanted = object.maps.get(name).ok_or(BpfError::Missing { kind: "map", name })?;
        let layout = (wanted.key_size(), wanted.value_size());
        let kind = found.map_type().map(|kind| kind as u32);
        if layout != (found.key_size(), found.value_size()) || kind.ok() != Some(wanted.map_type())
        {
            return Ok(Fit::Bad);
        }
        if SIZED.contains(&name) {
            if found.max_entries() != options.max_sockets {
                fit = Fit::OtherSize;
            }
        } else if found.max_entries() != wanted.max_entries() && wanted.max_entries() != 0 {
            return Ok(Fit::Bad);
        }
    }
    Ok(fit)
}

/// Opens a map for what the agent was built to find there: its type and the sizes of its keys and
/// values are checked. A handle of its own, since the object keeps the one that it has.
fn open<T>(ebpf: &Ebpf, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let (Map::HashMap(data) | Map::Array(data) | Map::PerCpuArray(data) | Map::RingBuf(data)) =
        ebpf.map(name).ok_or(BpfError::Missing { kind: "map", name })?
    else {
        return Err(BpfError::Missing { kind: "hash, array or ring", name });
    };
    let opened = data.fd().as_fd().try_clone_to_owned().map_err(MapError::from);
    map::typed(opened.and_then(MapData::from_fd), name)
}
