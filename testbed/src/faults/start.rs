//! A pod that starts as they all do: its application dials at once, its proxy comes later.

use anyhow::Result;

use super::{Due, NAMESPACE, SOON, Tally};
use crate::{Node, Pod, PodSpec, Process, Proxy, apps, backend_v4};

/// A pod on its way.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) pod: Pod,
    pub(super) app: Process,
    proxy: Option<Proxy>,
}

// === impl Start ===

impl Start {
    /// Makes a pod and starts its application, which dials at once.
    pub(super) fn begin(node: &Node, name: impl Into<String>) -> Result<Self> {
        Self::of(node.create_pod(PodSpec::new(NAMESPACE, name))?)
    }

    /// Starts the application of a pod that is there.
    pub(super) fn of(pod: Pod) -> Result<Self> {
        let app = pod.start_container("app", apps::connect(backend_v4())?.get("/bytes/1000"))?;
        Ok(Self { pod, app, proxy: None })
    }

    /// Starts the proxy.
    pub(super) fn start_proxy(&mut self) -> Result<()> {
        self.proxy = Some(self.pod.start_proxy()?);
        Ok(())
    }

    /// When the proxy, which has been started, became ready.
    pub(super) fn wait_ready(&self) -> Result<u64> {
        self.proxy
            .as_ref()
            .map_or_else(|| anyhow::bail!("no proxy"), |proxy| proxy.wait_ready(SOON))
    }

    /// Waits for the end of the connect, as long as one that is not stuck can take, and counts it.
    pub(super) fn judge(&self, tally: &mut Tally, due: Due) {
        self.judge_since(tally, due, due.ready_ns);
    }

    /// As [`Self::judge`], of a connect whose proxy was ready at `ready_ns` already, with no agent
    /// there to see it.
    pub(super) fn judge_since(&self, tally: &mut Tally, due: Due, ready_ns: Option<u64>) {
        let attempt = self.app.wait_attempt(due.timeout + SOON).ok();
        tally.count_since(self.pod.name(), attempt.as_ref(), due, ready_ns);
    }
}
