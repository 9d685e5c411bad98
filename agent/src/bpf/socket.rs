//! The agent's side of the table of held sockets.

use std::sync::{Arc, Mutex, PoisonError};

use agent_ebpf::SocketRecord;
use aya::maps::{HashMap, Map, MapData, MapError};

use super::{BpfError, loader::convert};
use crate::core::{CgroupId, SocketCookie};

/// The sockets that called connect() behind a closed gate. Clones read the same table.
#[derive(Clone)]
pub struct SocketTable {
    // A lock because removing needs `&mut`; it guards nothing in the kernel, and is never held
    // across an await.
    map: Arc<Mutex<HashMap<MapData, u64, SocketRecord>>>,
}

impl std::fmt::Debug for SocketTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SocketTable")
    }
}

impl SocketTable {
    pub(super) const MAP: &'static str = "SOCKETS";

    pub(super) fn new(map: Map) -> Result<Self, BpfError> {
        Ok(Self { map: Arc::new(Mutex::new(convert(map, Self::MAP)?)) })
    }

    /// The records of one pod whose SYN has been dropped. A record that the kernel removes while
    /// the table is read may be missing, as it should: its socket waits no longer.
    #[must_use]
    pub fn held_by(&self, pod: CgroupId) -> Vec<(SocketCookie, SocketRecord)> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.iter()
            .filter_map(Result::ok)
            .filter(|(_, record)| record.pod == pod.0 && record.dropped_ns != 0)
            .map(|(cookie, record)| (SocketCookie(cookie), record))
            .collect()
    }

    /// Removes every record of a pod: no hook looks after them any more.
    pub(super) fn forget(&self, pod: CgroupId) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let cookies: Vec<u64> = map
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, record)| record.pod == pod.0)
            .map(|(cookie, _)| cookie)
            .collect();
        for cookie in cookies {
            let _: Result<(), MapError> = map.remove(&cookie);
        }
    }
}
