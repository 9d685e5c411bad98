//! The debug lines of the loud programs: what they say, and how a line is written.

/// What a line says.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// connect() was called, and the socket is a candidate for a hold.
    ConnectSeen = 1,
    /// connect() was called and is none of the gate's business.
    ConnectPassesOpen = 2,
    /// A guarded gate has found somebody who listens.
    ConnectPassesListens = 3,
    /// Its container, or its user, is never held.
    ConnectPassesExempt = 4,
    /// connect() has failed by the gate's word.
    ConnectRefused = 5,
    /// A UDP socket is about to ask a nameserver.
    AskerSeen = 6,
    /// The same, and its queries will not be held.
    AskerPasses = 7,
    /// A SYN was dropped, so its socket waits.
    SynDropped = 8,
    /// The gate was open, or its deadline was over.
    SynPassesOpen = 9,
    /// It leaves for elsewhere: nothing has redirected it.
    SynPassesAround = 10,
    /// It goes to loopback, but to no port of the proxy.
    SynPassesOtherPort = 11,
    /// Somebody listens, and the gate is guarded, or closed and no agent has worked for long.
    SynPassesListens = 12,
    /// Its container, or its user, is never held.
    SynPassesExempt = 13,
    /// Its socket has waited for as long as it may.
    SynPassesTimeOver = 14,
    /// It is not a TCP socket's: somebody has made it up.
    SynPassesForeign = 15,
    /// Mode refuse: connect() is to fail.
    SynRefused = 16,
    /// Mode observe: it would have been dropped.
    SynObserved = 17,
    /// A query was dropped, so its resolver waits.
    QueryDropped = 18,
    /// Its container, or its user, is never held.
    QueryPassesExempt = 19,
    /// No agent has worked for long, and somebody takes queries there.
    QueryPassesListens = 20,
    /// It has waited for as long as it may.
    QueryPassesTimeOver = 21,
    /// Mode observe: it would have been dropped.
    QueryObserved = 22,
    /// A socket that a connect hook has seen is connected.
    Connected = 23,
    /// It has given up, or was refused.
    NotConnected = 24,
    /// It was closed.
    Closed = 25,
}

impl Note {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::ConnectSeen,
        Self::ConnectPassesOpen,
        Self::ConnectPassesListens,
        Self::ConnectPassesExempt,
        Self::ConnectRefused,
        Self::AskerSeen,
        Self::AskerPasses,
        Self::SynDropped,
        Self::SynPassesOpen,
        Self::SynPassesAround,
        Self::SynPassesOtherPort,
        Self::SynPassesListens,
        Self::SynPassesExempt,
        Self::SynPassesTimeOver,
        Self::SynPassesForeign,
        Self::SynRefused,
        Self::SynObserved,
        Self::QueryDropped,
        Self::QueryPassesExempt,
        Self::QueryPassesListens,
        Self::QueryPassesTimeOver,
        Self::QueryObserved,
        Self::Connected,
        Self::NotConnected,
        Self::Closed,
    ];

    /// The note with this number.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|note| u64::from(*note as u32) == raw)
    }

    /// In words, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConnectSeen => "connect seen",
            Self::ConnectPassesOpen => "connect passes: the gate is open",
            Self::ConnectPassesListens => "connect passes: the proxy listens",
            Self::ConnectPassesExempt => "connect passes: its container or user is exempt",
            Self::ConnectRefused => "connect is refused",
            Self::AskerSeen => "DNS socket seen",
            Self::AskerPasses => "DNS socket passes",
            Self::SynDropped => "SYN dropped",
            Self::SynPassesOpen => "SYN passes: the gate is open",
            Self::SynPassesAround => "SYN passes: nothing has redirected it",
            Self::SynPassesOtherPort => "SYN passes: not to a port of the proxy",
            Self::SynPassesListens => "SYN passes: the proxy listens",
            Self::SynPassesExempt => "SYN passes: its container or user is exempt",
            Self::SynPassesTimeOver => "SYN passes: its time is over",
            Self::SynPassesForeign => "SYN passes: not of a TCP socket",
            Self::SynRefused => "SYN is refused",
            Self::SynObserved => "SYN observed",
            Self::QueryDropped => "DNS query dropped",
            Self::QueryPassesExempt => "DNS query passes: its container or user is exempt",
            Self::QueryPassesListens => "DNS query passes: somebody takes it",
            Self::QueryPassesTimeOver => "DNS query passes: its time is over",
            Self::QueryObserved => "DNS query observed",
            Self::Connected => "connected",
            Self::NotConnected => "not connected",
            Self::Closed => "socket closed",
        }
    }

    /// What its two numbers are; empty: nothing.
    #[must_use]
    pub const fn details(self) -> [Detail; 2] {
        use Detail::{DeadlineOver, Drops, Errno, Listens, None, Port, ProxyUid, Query, Recorded};
        match self {
            Self::ConnectSeen | Self::AskerSeen => [Port, Recorded],
            Self::ConnectPassesOpen | Self::SynPassesOpen => [Port, DeadlineOver],
            Self::ConnectPassesExempt | Self::SynPassesExempt => [Port, ProxyUid],
            Self::ConnectRefused => [Port, Errno],
            Self::SynDropped => [Port, Drops],
            Self::SynRefused | Self::SynObserved => [Port, Listens],
            Self::ConnectPassesListens
            | Self::AskerPasses
            | Self::SynPassesAround
            | Self::SynPassesOtherPort
            | Self::SynPassesListens
            | Self::SynPassesTimeOver
            | Self::SynPassesForeign => [Port, None],
            Self::QueryDropped
            | Self::QueryPassesExempt
            | Self::QueryPassesListens
            | Self::QueryPassesTimeOver
            | Self::QueryObserved => [Query, None],
            Self::Connected | Self::NotConnected | Self::Closed => [Drops, None],
        }
    }
}

/// What a number of a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing.
    None,
    /// The port that connect() was given, or that the packet goes to.
    Port,
    /// 1: a closed gate's deadline had passed.
    DeadlineOver,
    /// The user whose sockets are never held.
    ProxyUid,
    /// What connect() fails with.
    Errno,
    /// 1: the socket has a record, so it can be replayed and named.
    Recorded,
    /// 1: somebody listens on the port.
    Listens,
    /// How many packets of the socket were dropped.
    Drops,
    /// The id of the DNS query.
    Query,
}

/// One line. The programs write these numbers in this order, with a space between two; the agent
/// makes words and names of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteLine {
    /// A [`Note`].
    pub note: u64,
    /// The id of the pod's cgroup.
    pub pod: u64,
    /// The id of the container's cgroup; 0 when unknown.
    pub container: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// What [`Note::details`] says.
    pub values: [u64; 2],
}

impl NoteLine {
    /// Reads a line. `None`: the programs have not written it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let line = Self {
            note: next()?,
            pod: next()?,
            container: next()?,
            cookie: next()?,
            values: [next()?, next()?],
        };
        numbers.next().is_none().then_some(line)
    }

    /// One of its numbers.
    #[must_use]
    pub fn detail(&self, detail: Detail) -> Option<u64> {
        let names = Note::from_raw(self.note)?.details();
        let place = names.into_iter().position(|name| name == detail)?;
        Some(self.values[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_note_has_a_number_and_words_of_its_own() {
        for (place, note) in Note::ALL.into_iter().enumerate() {
            assert_eq!(note as usize, place + 1);
            assert_eq!(Note::from_raw(place as u64 + 1), Some(note));
            let same = Note::ALL.into_iter().filter(|other| other.as_str() == note.as_str());
            assert_eq!(same.count(), 1, "{note:?}");
        }
        assert_eq!(Note::from_raw(0), None);
        assert_eq!(Note::from_raw(Note::ALL.len() as u64 + 1), None);
    }

    #[test]
    fn a_line_is_six_numbers() {
        let line = NoteLine::parse("8 11 12 13 15001 3").unwrap();
        assert_eq!(
            line,
            NoteLine { note: 8, pod: 11, container: 12, cookie: 13, values: [15001, 3] }
        );
        assert_eq!(line.detail(Detail::Port), Some(15001));
        assert_eq!(line.detail(Detail::Drops), Some(3));
        assert_eq!(line.detail(Detail::Query), None);
        for foreign in
            ["", "8 11 12 13 15001", "8 11 12 13 15001 3 4", "8 11 12 x 1 2", "8  1 2 3 4 5"]
        {
            assert_eq!(NoteLine::parse(foreign), None, "{foreign}");
        }
    }
}
