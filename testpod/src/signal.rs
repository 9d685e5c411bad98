//! The end that kubelet asks for.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::TestpodError;

/// SIGTERM and SIGINT: the first process of a container ends by neither unless it asks for it.
pub(crate) struct Ended([(Signal, u8); 2]);

// === impl Ended ===

impl Ended {
    pub(crate) fn watch() -> Result<Self, TestpodError> {
        let of = |kind: SignalKind| {
            // Both numbers are below 32.
            let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
            signal(kind).map(|signal| (signal, number)).map_err(TestpodError::Start)
        };
        Ok(Self([of(SignalKind::terminate())?, of(SignalKind::interrupt())?]))
    }

    /// The exit code of a process that a signal has ended, once one comes.
    pub(crate) async fn wait(&mut self) -> u8 {
        /// As shells and container runtimes count.
        const BY_SIGNAL: u8 = 128;
        let [(terminate, terminated), (interrupt, interrupted)] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => BY_SIGNAL + *terminated,
            _ = interrupt.recv() => BY_SIGNAL + *interrupted,
        }
    }
}
