//! The kernel's clock, and what it shows on the wall's.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::core::{Epoch, Monotonic};

/// Where the monotonic clock began on the wall clock.
#[must_use]
pub fn epoch() -> Epoch {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Epoch::new(now(), since_1970)
}

/// Now, on the clock that the eBPF programs read (`bpf_ktime_get_ns`: `CLOCK_MONOTONIC`).
#[must_use]
pub fn now() -> Monotonic {
    // The clock always exists and the pointer is nix's own: there is nothing that can fail.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    });
    Monotonic(now)
}
