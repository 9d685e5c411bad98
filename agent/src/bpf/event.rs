//! The agent's side of the event ring.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use agent_ebpf::{Address, Event, EventKind};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

use super::BpfError;
use crate::core::{CgroupId, KernelEvent, KernelEventKind, Monotonic, SocketCookie};

/// Events handed over at a time, a millisecond of work: other facts get their turn in between.
const MAX_BATCH: usize = 256;

/// Reads the kernel's events as they come.
pub struct EventReader {
    ring: AsyncFd<RingBuf<MapData>>,
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
        // SAFETY: the ring owns its descriptor, and nothing here replaces or closes it.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| BpfError::Ring(error.into()))?;
        Ok(Self { ring, lost, lost_before: 0 })
    }

    /// Waits for events and returns all there are, in the kernel's order.
    ///
    /// # Errors
    ///
    /// [`BpfError::Ring`] if the descriptor cannot be waited for.
    pub async fn next(&mut self) -> Result<Vec<KernelEvent>, BpfError> {
        loop {
            let mut guard = self.ring.readable_mut().await.map_err(BpfError::Ring)?;
            let mut events = Vec::new();
            // Readiness stays set for what a batch leaves in the ring.
            let ring = guard.get_inner_mut();
            let mut emptied = false;
            while events.len() < MAX_BATCH && !emptied {
                match ring.next() {
                    Some(item) => events.extend(decode(&item)),
                    None => emptied = true,
                }
            }
            if emptied {
                guard.clear_ready();
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
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
fn decode(bytes: &[u8]) -> Option<KernelEvent> {
    let event: Event = bytemuck::try_pod_read_unaligned(bytes).ok()?;
    let Event { at_ns, cookie, pod, container, connect_ns, kind, pid, uid, comm, asked } = event;
    let kind = match EventKind::from_raw(kind)? {
        EventKind::Held => KernelEventKind::Held {
            container: (container != 0).then_some(CgroupId(container)),
            pid: (pid != 0).then_some(pid),
            uid,
            comm: text(&comm),
            destination: socket_addr(&asked),
            connect_at: Monotonic(connect_ns),
        },
        EventKind::Connected => KernelEventKind::Connected,
        EventKind::Closed => KernelEventKind::Closed,
        EventKind::Failed => KernelEventKind::Failed,
    };
    let (at, cookie, pod) = (Monotonic(at_ns), SocketCookie(cookie), CgroupId(pod));
    Some(KernelEvent { at, cookie, pod, kind })
}

/// A command name is whatever a process calls itself: only printable text goes on.
fn text(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    let printable = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(&comm[..end]).chars().map(printable).collect()
}

fn socket_addr(address: &Address) -> SocketAddr {
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

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"a\x1bp\xff1");
        let mut ip = [0; 16];
        ip[..4].copy_from_slice(&[203, 0, 113, 9]);
        let event = Event {
            at_ns: 5,
            cookie: 6,
            pod: 7,
            container: 8,
            connect_ns: 4,
            kind: EventKind::Held as u32,
            pid: 9,
            uid: 10,
            comm,
            asked: Address { ip, port: 443, version: 4 },
        };
        let decoded = decode(bytemuck::bytes_of(&event)).unwrap();
        assert_eq!((decoded.at, decoded.cookie), (Monotonic(5), SocketCookie(6)));
        assert_eq!(
            decoded.kind,
            KernelEventKind::Held {
                container: Some(CgroupId(8)),
                pid: Some(9),
                uid: 10,
                comm: "a?p\u{fffd}1".to_owned(),
                destination: "203.0.113.9:443".parse().unwrap(),
                connect_at: Monotonic(4),
            }
        );
    }

    #[test]
    fn foreign_bytes_are_passed_over() {
        assert!(decode(&[]).is_none());
        assert!(decode(&[0; 87]).is_none());
        assert!(decode(&[0xff; 88]).is_none());
    }
}
