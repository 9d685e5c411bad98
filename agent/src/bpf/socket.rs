//! The agent's side of the tables of held sockets and of their queries.

use std::{collections::HashMap as StdHashMap, sync::Arc};

use agent_ebpf::{Datagram, GateCounts, QueryKey, SocketRecord, socket::MAX_QUERIES};
use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};

use super::event::{comm, socket_addr};
use crate::core::{Caller, CgroupId, Monotonic, QueryId, SocketCookie};

pub(super) type Table<K, V> = HashMap<MapData, K, V>;

/// The sockets that called connect() behind a closed gate, for reading. Clones read the same table.
#[derive(Clone)]
pub struct SocketTable {
    records: Arc<Table<u64, SocketRecord>>,
    datagrams: Arc<Table<QueryKey, Datagram>>,
    /// By pod.
    counts: Arc<Table<u64, GateCounts>>,
}

/// The same tables, for removing what no hook looks after any more.
pub(super) struct SocketRemover {
    records: Table<u64, SocketRecord>,
    datagrams: Table<QueryKey, Datagram>,
}

impl std::fmt::Debug for SocketTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SocketTable")
    }
}

// === impl SocketTable ===

impl SocketTable {
    pub(super) const MAP: &'static str = "SOCKETS";
    pub(super) const DATAGRAMS_MAP: &'static str = "DATAGRAMS";

    /// Two handles to each map: reading needs no lock that way.
    pub(super) fn new(
        [records, records_twin]: [Table<u64, SocketRecord>; 2],
        [datagrams, datagrams_twin]: [Table<QueryKey, Datagram>; 2],
        counts: Table<u64, GateCounts>,
    ) -> (Self, SocketRemover) {
        let remover = SocketRemover { records: records_twin, datagrams: datagrams_twin };
        let (records, datagrams) = (Arc::new(records), Arc::new(datagrams));
        (Self { records, datagrams, counts: Arc::new(counts) }, remover)
    }

    /// The record of one socket, if a packet of it has been dropped.
    #[must_use]
    pub fn get(&self, cookie: SocketCookie) -> Option<SocketRecord> {
        self.records.get(&cookie.0, 0).ok().filter(|record| record.dropped_ns != 0)
    }

    /// Whether a pod may have a record: of what cannot be counted nobody knows.
    #[must_use]
    pub fn may_have(&self, pod: CgroupId) -> bool {
        self.counts.get(&pod.0, 0).map_or(true, |counts| counts.records > 0)
    }

    /// The records of one pod of which a packet has been dropped; walks the whole table. A record
    /// that the kernel removes meanwhile may be missing, as it should: its socket waits no longer.
    #[must_use]
    pub fn held_by(&self, pod: CgroupId) -> Vec<(SocketCookie, SocketRecord)> {
        self.records
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, record)| record.pod == pod.0 && record.dropped_ns != 0)
            .map(|(cookie, record)| (SocketCookie(cookie), record))
            .collect()
    }

    /// Who waits, by pod: each socket, and each query of a socket that has several. Walks the whole
    /// table.
    pub(super) fn waiting(&self) -> StdHashMap<CgroupId, Vec<(SocketCookie, Caller)>> {
        let mut waiting: StdHashMap<_, Vec<_>> = StdHashMap::new();
        let records = self.records.iter().filter_map(Result::ok);
        for (cookie, record) in records.filter(|(_, record)| record.dropped_ns != 0) {
            let pod = waiting.entry(CgroupId(record.pod)).or_default();
            pod.extend(self.callers(SocketCookie(cookie), &record));
        }
        waiting
    }

    /// The same of one pod.
    pub(super) fn waiting_at(&self, pod: CgroupId) -> Vec<(SocketCookie, Caller)> {
        let records = self.held_by(pod).into_iter();
        records.flat_map(|(cookie, record)| self.callers(cookie, &record)).collect()
    }

    /// What one socket waits for.
    fn callers(&self, cookie: SocketCookie, record: &SocketRecord) -> Vec<(SocketCookie, Caller)> {
        if record.protocol != libc::IPPROTO_UDP.unsigned_abs() {
            return vec![(cookie, caller(record))];
        }
        let queries = self.queries(cookie, record).into_iter();
        let callers = queries.map(|(query, datagram)| {
            let connect_at = Monotonic(datagram.first_ns);
            (cookie, Caller { connect_at, query: Some(query), ..caller(record) })
        });
        callers.collect()
    }

    /// The queries of one UDP socket that are in store, oldest first.
    #[must_use]
    pub fn queries(&self, cookie: SocketCookie, record: &SocketRecord) -> Vec<(QueryId, Datagram)> {
        let newest = MAX_QUERIES as u64;
        (record.query_count.saturating_sub(newest)..record.query_count)
            .filter_map(|nth| {
                let id = u64::from(record.queries[(nth % newest) as usize]);
                let datagram = self.datagrams.get(&QueryKey { cookie: cookie.0, id }, 0).ok()?;
                Some((QueryId(id), datagram))
            })
            .collect()
    }
}

fn caller(record: &SocketRecord) -> Caller {
    Caller {
        container: (record.container != 0).then_some(CgroupId(record.container)),
        pid: (record.pid != 0).then_some(record.pid),
        uid: record.uid,
        comm: comm(&record.comm),
        destination: socket_addr(&record.asked),
        connect_at: Monotonic(record.connect_ns),
        query: None,
    }
}

// === impl SocketRemover ===

impl SocketRemover {
    /// Removes every record of a pod; walks the whole table.
    pub(super) fn forget_records(&mut self, pod: CgroupId) {
        remove_where(&mut self.records, |record| record.pod == pod.0);
    }

    /// Removes every query of a pod; walks the whole table.
    pub(super) fn forget_datagrams(&mut self, pod: CgroupId) {
        remove_where(&mut self.datagrams, |datagram| datagram.pod == pod.0);
    }
}

fn remove_where<K: Pod, V: Pod>(map: &mut Table<K, V>, is_gone: impl Fn(&V) -> bool) {
    let keys: Vec<K> = map
        .iter()
        .filter_map(Result::ok)
        .filter(|(_, value)| is_gone(value))
        .map(|(key, _)| key)
        .collect();
    for key in keys {
        let _: Result<(), MapError> = map.remove(&key);
    }
}
