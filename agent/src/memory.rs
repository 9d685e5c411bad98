//! Memory that the agent has no use for any more goes back to its node.
//!
//! A start takes for a moment several times what the agent needs afterwards: aya reads the kernel's
//! BTF, and pods come from the API server, and are asked for their proxies, all at once. glibc keeps
//! what is freed, and more so after large blocks: it raises the sizes from which it asks the kernel for a
//! block of its own, and from which it gives the top of its heap back (mallopt(3), `M_MMAP_THRESHOLD`).

use std::{io, num::NonZero, thread, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, sleep},
};

use crate::health::Readiness;

/// Threads that work on tasks. The one that works the gates comes in addition, and what waits, waits
/// for the network or the kernel; tokio's default, one for each core of the node, takes stacks and
/// heaps for all of them.
const WORKERS: usize = 4;

/// Heaps that glibc makes at most; without a limit each thread may have one, up to eight for each
/// core, with free memory of its own. Threads rarely allocate at the same time, and small blocks
/// come from caches without a lock.
const HEAPS: libc::c_int = 2;

/// In bytes, from where a block is the kernel's own pages, which go back when it is freed: glibc's first
/// value. One that is set stays.
const OWN_PAGES_FROM: libc::c_int = 128 * 1024;

/// After the agent is armed its first probes are still out, and the first connects are told of.
const FIRST_AFTER: Duration = Duration::from_secs(5);

/// Then again: a report on all pods is megabytes of text on a full node, and storms of pods come. Not
/// often: after a start with 250 pods it takes 4 ms, in which whoever needs memory may have to wait.
const EVERY: Duration = Duration::from_secs(600);

/// The runtime that the agent's tasks run in; before it, glibc is told to keep little.
///
/// # Errors
///
/// If its threads or its descriptors cannot be had.
pub fn runtime() -> io::Result<Runtime> {
    keep_little();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread().worker_threads(cores.min(WORKERS)).enable_all().build()
}

/// Gives back what is free, once the agent is armed and from time to time after that.
pub async fn give_back(readiness: Readiness) {
    readiness.armed().await;
    let mut pause = FIRST_AFTER;
    loop {
        sleep(pause).await;
        let begun = Instant::now();
        let gave = trim();
        tracing::debug!(gave, took = ?begun.elapsed(), "free memory given back");
        pause = EVERY;
    }
}

/// A setting that glibc does not take stays as it is: the agent takes more memory then, no more.
#[cfg(target_env = "gnu")]
fn keep_little() {
    let settings = [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, OWN_PAGES_FROM)];
    for (setting, value) in settings {
        // SAFETY: mallopt takes two numbers, and touches nothing but the allocator's own settings.
        if unsafe { libc::mallopt(setting, value) } != 1 {
            tracing::debug!(setting, value, "the C library does not take this setting");
        }
    }
}

#[cfg(not(target_env = "gnu"))]
const fn keep_little() {}

/// Whether there was anything to give back.
#[cfg(target_env = "gnu")]
fn trim() -> bool {
    // SAFETY: malloc_trim takes the allocator's own locks, and gives back only pages that hold nothing.
    unsafe { libc::malloc_trim(0) == 1 }
}

#[cfg(not(target_env = "gnu"))]
const fn trim() -> bool {
    false
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// What the process has in memory that is in no file, in KiB.
    fn own_kib() -> u64 {
        let status = procfs::process::Process::myself().and_then(|own| own.status());
        status.expect("a process may read its own status").rssanon.expect("since Linux 4.5")
    }

    #[test]
    fn freed_memory_goes_back_although_a_block_behind_it_is_still_used() {
        const BLOCKS: u64 = 64 * 1024;
        let mut blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1; 1024]).collect();
        let last = blocks.pop();
        drop(blocks);
        let before = own_kib();
        trim();
        let after = own_kib();
        // The other tests of this process allocate in the meantime, but nothing like that.
        assert!(after + BLOCKS / 2 < before, "{before} KiB became {after} KiB");
        drop(last);
    }
}
