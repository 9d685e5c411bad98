//! The agent's own process, as Prometheus' client libraries name what is told of one.

use std::time::Duration;

use procfs::{CurrentSI as _, KernelStats, process::Process};

/// The agent's own process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessReading {
    /// Processor time, of all threads, in user space and in the kernel.
    pub cpu: Duration,
    /// When it was started, since 1970.
    pub started_at: Duration,
    /// Memory that is its own or shared, in bytes.
    pub resident: u64,
    /// Address space, in bytes.
    pub virtual_memory: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// File descriptors at most; `None`: there is no limit.
    pub max_fds: Option<u64>,
}

// === impl ProcessReading ===

impl ProcessReading {
    /// Of this process.
    ///
    /// # Errors
    ///
    /// If /proc cannot be read.
    pub fn take() -> Result<Self, procfs::ProcError> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        let seconds = |count: u64| Duration::from_secs_f64(count as f64 / ticks);
        let boot = Duration::from_secs(KernelStats::current()?.btime);
        let max_fds = match process.limits()?.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(limit) => Some(limit),
            procfs::process::LimitValue::Unlimited => None,
        };
        Ok(Self {
            cpu: seconds(stat.utime + stat.stime),
            started_at: boot + seconds(stat.starttime),
            resident: stat.rss * procfs::page_size(),
            virtual_memory: stat.vsize,
            threads: stat.num_threads.unsigned_abs(),
            open_fds: process.fd_count()? as u64,
            max_fds,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        time::{SystemTime, UNIX_EPOCH},
    };

    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let before = ProcessReading::take().unwrap();
        let files: Vec<File> = (0..10).map(|_| File::open("/proc/self/status").unwrap()).collect();
        let after = ProcessReading::take().unwrap();
        // Other tests of this process open and close files meanwhile.
        assert!(after.open_fds >= files.len() as u64 && after.threads >= 1);
        assert!(after.cpu >= before.cpu);
        assert_eq!(after.started_at, before.started_at);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(after.started_at <= now && now - after.started_at < Duration::from_secs(86_400));
        assert!(after.resident > 1 << 20 && after.virtual_memory > after.resident);
        assert!(after.max_fds.is_none_or(|max| max > after.open_fds));
    }
}
