//! Since when no agent works, as the gates that were left closed are told: see
//! [`agent_ebpf::sentry::AWAY_NS`].

use std::path::Path;

use aya::maps::{Array, MapData};

use super::{
    BpfError,
    map::{ONLY, open, read_failed, write_failed},
};
use crate::core::Monotonic;

/// Written by whoever posts the sentry, and by the agent that works.
pub(super) struct Away(Array<MapData, u64>);

// === impl Away ===

impl Away {
    pub(super) const MAP: &'static str = "AWAY_SINCE";

    pub(super) const fn new(map: Array<MapData, u64>) -> Self {
        Self(map)
    }

    /// That of the version which has its maps in this directory.
    pub(super) fn open_in(maps: &Path) -> Result<Self, BpfError> {
        open(maps, Self::MAP).map(Self)
    }

    /// `None`: one works.
    pub(super) fn since(&self) -> Result<Option<Monotonic>, BpfError> {
        let since = self.0.get(&ONLY, 0).map_err(|source| read_failed(Self::MAP, source))?;
        Ok((since != 0).then_some(Monotonic(since)))
    }

    pub(super) fn set(&mut self, since: Option<Monotonic>) -> Result<(), BpfError> {
        let since = since.map_or(0, |since| since.0);
        self.0.set(ONLY, since, 0).map_err(|source| write_failed(Self::MAP, source))
    }
}

/// An agent works, of whichever version. The programs of one without such a map do not ask.
pub(super) fn end_in(version: &Path) -> Result<(), BpfError> {
    let maps = version.join("maps");
    if !maps.join(Away::MAP).exists() {
        return Ok(());
    }
    Away::open_in(&maps)?.set(None)
}
