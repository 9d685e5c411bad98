//! What waits behind one gate: connecting sockets, and DNS queries, of which one socket has several.

use std::collections::BTreeMap;

use crate::core::{CgroupId, HeldConnect, Monotonic, QueryId, SocketCookie};

/// The connects and queries of one pod. A pod may have ten thousand: each report about one socket
/// must not look at all of them. They go
/// out in the order of their sockets, so that the same facts come to the same actions.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    connects: BTreeMap<SocketCookie, HeldConnect>,
    queries: BTreeMap<(SocketCookie, QueryId), HeldConnect>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.connects.is_empty() && self.queries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.connects.len() + self.queries.len()
    }

    pub(super) fn insert(&mut self, held: HeldConnect) {
        match held.caller.query {
            Some(query) => self.queries.insert((held.cookie, query), held),
            None => self.connects.insert(held.cookie, held),
        };
    }

    pub(super) fn contains(&self, cookie: SocketCookie, query: Option<QueryId>) -> bool {
        match query {
            Some(query) => self.queries.contains_key(&(cookie, query)),
            None => self.connects.contains_key(&cookie),
        }
    }

    /// Takes out what waits on this socket.
    pub(super) fn remove(&mut self, cookie: SocketCookie) -> Vec<HeldConnect> {
        match self.connects.remove(&cookie) {
            Some(connect) => vec![connect],
            None => self.remove_queries(|query| query.cookie == cookie),
        }
    }

    /// Takes out these queries.
    pub(super) fn remove_queries(
        &mut self,
        which: impl Fn(&HeldConnect) -> bool,
    ) -> Vec<HeldConnect> {
        self.queries.extract_if(.., |_, query| which(query)).map(|(_, query)| query).collect()
    }

    /// Takes out everything.
    pub(super) fn take(&mut self) -> impl Iterator<Item = HeldConnect> + use<> {
        let Self { connects, queries } = std::mem::take(self);
        connects.into_values().chain(queries.into_values())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &HeldConnect> {
        self.connects.values().chain(self.queries.values())
    }

    pub(super) fn of_container(&self, container: CgroupId) -> impl Iterator<Item = &HeldConnect> {
        self.iter().filter(move |held| held.caller.container == Some(container))
    }

    /// When the first of them was called.
    pub(super) fn first(&self) -> Option<Monotonic> {
        self.iter().map(|held| held.caller.connect_at).min()
    }

    /// When the first query was sent.
    pub(super) fn first_query(&self) -> Option<Monotonic> {
        self.queries.values().map(|query| query.caller.connect_at).min()
    }

    /// The sockets, each once.
    pub(super) fn sockets(&self) -> Vec<SocketCookie> {
        let mut sockets: Vec<_> = self.iter().map(|held| held.cookie).collect();
        sockets.sort_unstable();
        sockets.dedup();
        sockets
    }
}
