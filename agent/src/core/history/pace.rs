//! How much of a flood the log tells: the first connect of each caller and destination, then one
//! in five seconds, and the sum at the end.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use crate::core::{HeldConnect, Monotonic, Outcome};

/// Between two lines of one kind, once each caller has been told.
const INTERVAL: Duration = Duration::from_secs(5);

/// Callers and destinations that are told apart, of one kind and one episode.
const MAX_CALLERS: usize = 16;

/// Whether a line is worth a place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saying {
    /// It is; so many like it have not been told since the last one.
    Say {
        /// How many.
        untold: u64,
    },
    /// It is one of many.
    Count,
}

/// The lines of one kind in one episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pace {
    callers: HashSet<u64>,
    last: Option<Monotonic>,
    untold: u64,
}

impl Default for Saying {
    fn default() -> Self {
        Self::Say { untold: 0 }
    }
}

// === impl Pace ===

impl Pace {
    /// Whether a line about this connect is to be told.
    pub(super) fn say(
        &mut self,
        connect: &HeldConnect,
        outcome: Option<Outcome>,
        now: Monotonic,
    ) -> Saying {
        let caller =
            (&connect.container, &connect.caller.comm, connect.caller.destination, outcome);
        let caller = BuildHasherDefault::<DefaultHasher>::default().hash_one(caller);
        let is_new = self.callers.len() < MAX_CALLERS && self.callers.insert(caller);
        let is_due = self.last.is_none_or(|last| now.since(last) >= INTERVAL);
        if !is_new && !is_due {
            self.untold += 1;
            return Saying::Count;
        }
        self.last = Some(now);
        Saying::Say { untold: std::mem::take(&mut self.untold) }
    }
}
