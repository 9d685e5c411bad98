//! The one clock that the kernel, the agent, the applications and the tests share.

use std::{thread, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`, of Python's
/// `time.monotonic_ns()` and of Node.js' `process.hrtime.bigint()`.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
    u64::try_from(now.tv_sec()).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec()).unwrap_or_default()
}

/// Sleeps until `ns` nanoseconds of `CLOCK_MONOTONIC`; not at all if that has passed.
pub fn sleep_until(ns: u64) {
    let left = ns.saturating_sub(monotonic_ns());
    if left > 0 {
        thread::sleep(Duration::from_nanos(left));
    }
}

/// Milliseconds from `from` to `to`, both in nanoseconds; negative when `to` came first.
pub fn ms_between(from: u64, to: u64) -> f64 {
    if to >= from { (to - from) as f64 / 1e6 } else { -((from - to) as f64) / 1e6 }
}
