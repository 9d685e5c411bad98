//! A ring buffer that is waited for.

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

use super::BpfError;

/// Records handed over at a time, a millisecond of work: other facts get their turn in between.
const MAX_BATCH: usize = 256;

pub(super) struct Ring(AsyncFd<RingBuf<MapData>>);

// === impl Ring ===

impl Ring {
    /// Must be called within a tokio runtime.
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, BpfError> {
        // SAFETY: the ring owns its descriptor, and nothing here replaces or closes it.
        unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map(Self)
            .map_err(|error| BpfError::Ring(error.into()))
    }

    /// Waits for records and returns what `decode` makes of all there are, in the kernel's order.
    pub(super) async fn next<T>(
        &mut self,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, BpfError> {
        loop {
            let mut guard = self.0.readable_mut().await.map_err(BpfError::Ring)?;
            let mut records = Vec::new();
            // Readiness stays set for what a batch leaves in the ring.
            let ring = guard.get_inner_mut();
            let mut emptied = false;
            while records.len() < MAX_BATCH && !emptied {
                match ring.next() {
                    Some(item) => records.extend(decode(&item)),
                    None => emptied = true,
                }
            }
            if emptied {
                guard.clear_ready();
            }
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }
}
