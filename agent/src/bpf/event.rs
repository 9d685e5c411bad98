//! The agent's side of the event ring.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_ebpf::{Address, Event, EventKind};
use aya::maps::{MapData, PerCpuArray, RingBuf};

use super::{BpfError, ring::Ring};
use crate::core::{
    Caller, CgroupId, KernelEvent, KernelEventKind, Monotonic, QueryId, SocketCookie,
};

/// Reads the kernel's events as they come.
pub struct EventReader {
    ring: Ring,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").field("lost", &self.lost_before).finish_non_exhaustive()
    }
}

// === impl EventReader ===

impl EventReader {
    pub(super) const MAP: &'static str = "EVENTS";
    pub(super) const LOST_MAP: &'static str = "EVENTS_LOST";

    /// Must be called within a tokio runtime.
    pub(super) fn new(
        ring: RingBuf<MapData>,
        lost: PerCpuArray<MapData, u64>,
    ) -> Result<Self, BpfError> {
        let mut reader = Self { ring: Ring::new(ring)?, lost, lost_before: 0 };
        // What an earlier agent lost it has told itself.
        reader.newly_lost();
        Ok(reader)
    }

    /// Waits for events and returns all there are, in the kernel's order.
    ///
    /// # Errors
    ///
    /// [`BpfError::Ring`] if the descriptor cannot be waited for.
    pub async fn next(&mut self) -> Result<Vec<KernelEvent>, BpfError> {
        self.ring.next(decode).await
    }

    /// Events that found the ring full since the last call.
    pub fn newly_lost(&mut self) -> u64 {
        let total = self.lost.get(&0, 0).map_or(0, |values| values.iter().sum());
        let new = total - self.lost_before.min(total);
        self.lost_before = total;
        new
    }
}

/// One ring record; anything of another size or kind is not of this ABI and is passed over.
pub(crate) fn decode(bytes: &[u8]) -> Option<KernelEvent> {
    let event: Event = bytemuck::try_pod_read_unaligned(bytes).ok()?;
    let kind = match EventKind::from_raw(event.kind)? {
        EventKind::Held => KernelEventKind::Held(caller(&event)),
        EventKind::Refused => KernelEventKind::Refused(caller(&event)),
        EventKind::Observed => KernelEventKind::Observed { caller: caller(&event), refused: false },
        EventKind::ObservedRefused => {
            KernelEventKind::Observed { caller: caller(&event), refused: true }
        }
        EventKind::InitPassed => KernelEventKind::InitPassed(caller(&event)),
        EventKind::Connected => KernelEventKind::Connected,
        EventKind::Closed => KernelEventKind::Closed,
        EventKind::Failed => KernelEventKind::Failed,
    };
    let (at, cookie) = (Monotonic(event.at_ns), SocketCookie(event.cookie));
    Some(KernelEvent { at, cookie, pod: CgroupId(event.pod), kind })
}

fn caller(event: &Event) -> Caller {
    let Event {
        at_ns: _,
        cookie: _,
        pod: _,
        container,
        connect_ns,
        kind: _,
        pid,
        uid,
        comm,
        asked,
        protocol,
        query,
    } = event;
    let is_query = *protocol == libc::IPPROTO_UDP.unsigned_abs();
    Caller {
        container: (*container != 0).then_some(CgroupId(*container)),
        pid: (*pid != 0).then_some(*pid),
        uid: *uid,
        comm: self::comm(comm),
        destination: socket_addr(asked),
        connect_at: Monotonic(*connect_ns),
        query: is_query.then_some(QueryId(u64::from(*query))),
    }
}

/// A command name is whatever a process calls itself: only printable text goes on.
pub(super) fn comm(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    let printable = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(&comm[..end]).chars().map(printable).collect()
}

pub(super) fn socket_addr(address: &Address) -> SocketAddr {
    let ip = if address.version == 6 {
        IpAddr::V6(Ipv6Addr::from(address.ip))
    } else {
        let [a, b, c, d, ..] = address.ip;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    SocketAddr::new(ip, address.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, protocol: libc::c_int) -> Event {
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"a\x1bp\xff1");
        let mut ip = [0; 16];
        ip[..4].copy_from_slice(&[203, 0, 113, 9]);
        Event {
            at_ns: 5,
            cookie: 6,
            pod: 7,
            container: 8,
            connect_ns: 4,
            kind: kind as u32,
            pid: 9,
            uid: 10,
            comm,
            asked: Address { ip, port: 443, version: 4 },
            protocol: protocol.unsigned_abs(),
            query: 11,
        }
    }

    fn caller(query: Option<QueryId>) -> Caller {
        Caller {
            container: Some(CgroupId(8)),
            pid: Some(9),
            uid: 10,
            comm: "a?p\u{fffd}1".to_owned(),
            destination: "203.0.113.9:443".parse().unwrap(),
            connect_at: Monotonic(4),
            query,
        }
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let decoded =
            decode(bytemuck::bytes_of(&event(EventKind::Held, libc::IPPROTO_TCP))).unwrap();
        assert_eq!((decoded.at, decoded.cookie), (Monotonic(5), SocketCookie(6)));
        assert_eq!(decoded.pod, CgroupId(7));
        assert_eq!(decoded.kind, KernelEventKind::Held(caller(None)));
    }

    #[test]
    fn every_kind_has_its_own_meaning() {
        let query = || caller(Some(QueryId(11)));
        for (kind, expected) in [
            (EventKind::Held, KernelEventKind::Held(query())),
            (EventKind::Refused, KernelEventKind::Refused(query())),
            (EventKind::Observed, KernelEventKind::Observed { caller: query(), refused: false }),
            (
                EventKind::ObservedRefused,
                KernelEventKind::Observed { caller: query(), refused: true },
            ),
            (EventKind::InitPassed, KernelEventKind::InitPassed(query())),
            (EventKind::Connected, KernelEventKind::Connected),
            (EventKind::Closed, KernelEventKind::Closed),
            (EventKind::Failed, KernelEventKind::Failed),
        ] {
            let event = event(kind, libc::IPPROTO_UDP);
            assert_eq!(decode(bytemuck::bytes_of(&event)).unwrap().kind, expected);
        }
    }

    #[test]
    fn foreign_bytes_are_passed_over() {
        assert!(decode(&[]).is_none());
        assert!(decode(&[0; size_of::<Event>() - 1]).is_none());
        assert!(decode(&[0xff; size_of::<Event>()]).is_none());
    }
}
