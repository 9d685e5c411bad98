//! The programs' debug lines, as records of the agent's own log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::BpfError;

/// Reads the programs' debug lines.
pub struct KernelLog(AsyncFd<EbpfLogger<&'static dyn log::Log>>);

impl std::fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KernelLog")
    }
}

impl KernelLog {
    /// Must be called within a tokio runtime.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let logger = EbpfLogger::init(ebpf).map_err(|source| BpfError::Log(Box::new(source)))?;
        // SAFETY: the logger owns its descriptor, and nothing here replaces or closes it.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|error| BpfError::Ring(error.into()))?;
        Ok(Self(logger))
    }

    /// Passes lines on as they come; ends only if they cannot be waited for.
    pub async fn pump(mut self) -> BpfError {
        loop {
            match self.0.readable_mut().await {
                Ok(mut guard) => {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
                Err(source) => return BpfError::Ring(source),
            }
        }
    }
}
