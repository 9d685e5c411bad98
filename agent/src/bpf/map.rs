//! Opening maps, and what is said of one that fails.

use std::path::Path;

use aya::maps::{Map, MapData, MapError};

use super::BpfError;

/// The key that all maps of one entry have.
pub(super) const ONLY: u32 = 0;

/// The one that is pinned in a version's directory of maps.
pub(super) fn open<T>(maps: &Path, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    typed(MapData::from_pin(maps.join(name)), name)
}

/// What was opened, as the kind of map that it has to be.
pub(super) fn typed<T>(opened: Result<MapData, MapError>, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = opened.and_then(Map::from_map_data).and_then(T::try_from);
    map.map_err(|source| failed("open", name, source))
}

pub(super) fn read_failed(map: &'static str, source: MapError) -> BpfError {
    failed("read", map, source)
}

pub(super) fn write_failed(map: &'static str, source: MapError) -> BpfError {
    failed("write to", map, source)
}

fn failed(operation: &'static str, map: &'static str, source: MapError) -> BpfError {
    BpfError::Map { operation, map, source: Box::new(source) }
}
