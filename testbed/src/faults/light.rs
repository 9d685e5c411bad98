//! A proxy that costs the machine little: where many pods start at once, an Envoy in each would be
//! what is measured.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::start::SOON;
use crate::{Command, PROXY, PROXY_ID, Pod, Process};

/// `holdfast testpod proxy` in the place of Istio's: it listens on the same ports, answers the same
/// readiness endpoint, and passes on what is redirected to it.
#[derive(Debug)]
pub(super) struct LightProxy {
    process: Process,
}

// === impl LightProxy ===

impl LightProxy {
    /// Starts the proxy's container; after `delay` it listens and is ready.
    pub(super) fn start(pod: &Pod, holdfast: &Path, delay: Duration) -> Result<Self> {
        let delay = format!("{}ms", delay.as_millis());
        let command = Command::new(holdfast)
            .args(["testpod", "proxy", "--delay", &delay])
            .user(PROXY_ID, PROXY_ID);
        Ok(Self { process: pod.start_container(PROXY, command)? })
    }

    /// The instant (`CLOCK_MONOTONIC` nanoseconds) from which on it says that it is ready.
    pub(super) fn wait_ready(&self) -> Result<u64> {
        let ready = self.process.wait_record(SOON, |line| line["event"] == "proxy_ready")?;
        ready["mono_ns"].as_u64().context("the proxy did not say when it became ready")
    }

    /// SIGKILL: the crash.
    pub(super) fn kill(&self) {
        self.process.kill();
    }
}
