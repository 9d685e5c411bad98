//! The agent's side of the table of held sockets.

use std::{os::fd::AsFd as _, sync::Arc};

use agent_ebpf::SocketRecord;
use aya::maps::{HashMap, Map, MapData, MapError};

use super::{BpfError, loader::convert};
use crate::core::{CgroupId, SocketCookie};

type Records = HashMap<MapData, u64, SocketRecord>;

/// The sockets that called connect() behind a closed gate, for reading. Clones read the same table.
#[derive(Clone)]
pub struct SocketTable {
    records: Arc<Records>,
}

/// The same table, for removing what no hook looks after any more.
pub(super) struct SocketRemover {
    records: Records,
}

impl std::fmt::Debug for SocketTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SocketTable")
    }
}

// === impl SocketTable ===

impl SocketTable {
    pub(super) const MAP: &'static str = "SOCKETS";

    /// Two handles to one map: reading needs no lock that way.
    pub(super) fn new(map: Map) -> Result<(Self, SocketRemover), BpfError> {
        let failed = |source| BpfError::Map {
            operation: "duplicate the handle of",
            map: Self::MAP,
            source: Box::new(source),
        };
        let Map::HashMap(data) = &map else {
            return Err(BpfError::Missing { kind: "hash map", name: Self::MAP });
        };
        let fd = data.fd().as_fd().try_clone_to_owned().map_err(|e| failed(MapError::from(e)))?;
        let twin = Map::HashMap(MapData::from_fd(fd).map_err(failed)?);
        let remover = SocketRemover { records: convert(twin, Self::MAP)? };
        Ok((Self { records: Arc::new(convert(map, Self::MAP)?) }, remover))
    }

    /// The record of one socket, if a SYN of it has been dropped.
    #[must_use]
    pub fn get(&self, cookie: SocketCookie) -> Option<SocketRecord> {
        self.records.get(&cookie.0, 0).ok().filter(|record| record.dropped_ns != 0)
    }

    /// The records of one pod whose SYN has been dropped; walks the whole table. A record that the
    /// kernel removes meanwhile may be missing, as it should: its socket waits no longer.
    #[must_use]
    pub fn held_by(&self, pod: CgroupId) -> Vec<(SocketCookie, SocketRecord)> {
        self.records
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, record)| record.pod == pod.0 && record.dropped_ns != 0)
            .map(|(cookie, record)| (SocketCookie(cookie), record))
            .collect()
    }
}

// === impl SocketRemover ===

impl SocketRemover {
    /// Removes every record of a pod; walks the whole table.
    pub(super) fn forget(&mut self, pod: CgroupId) {
        let cookies: Vec<u64> = self
            .records
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, record)| record.pod == pod.0)
            .map(|(cookie, _)| cookie)
            .collect();
        for cookie in cookies {
            let _: Result<(), MapError> = self.records.remove(&cookie);
        }
    }
}
