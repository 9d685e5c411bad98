//! What a real Kubernetes 1.33 API server sent while six kinds of pods lived and died.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A recorded stream of pod watch events. All were recorded on a node called `node1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Init containers `istio-init` and `migrate`; the app before the proxy, crashing until the
    /// proxy is there; deleted while running.
    Classic,
    /// The proxy first, with a postStart hook: `waiting` in the API for the whole hook.
    PostStart,
    /// The proxy as a native sidecar.
    Native,
    /// The proxy dies six seconds after it became ready, again and again.
    ProxyCrash,
    /// `restartPolicy: Never`: the app loses the race and the Job fails.
    Job,
    /// No mesh.
    Plain,
}

impl Recording {
    /// Every recording.
    pub const ALL: [Self; 6] =
        [Self::Classic, Self::PostStart, Self::Native, Self::ProxyCrash, Self::Job, Self::Plain];

    /// Its events, in order, as [`crate::Api::replay`] takes them.
    pub fn events(self) -> Result<Vec<Value>> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("parse {self:?}")))
            .collect()
    }

    fn text(self) -> &'static str {
        match self {
            Self::Classic => include_str!("../fixtures/pod-watch/classic.jsonl"),
            Self::PostStart => include_str!("../fixtures/pod-watch/poststart.jsonl"),
            Self::Native => include_str!("../fixtures/pod-watch/native.jsonl"),
            Self::ProxyCrash => include_str!("../fixtures/pod-watch/proxy-crash.jsonl"),
            Self::Job => include_str!("../fixtures/pod-watch/job.jsonl"),
            Self::Plain => include_str!("../fixtures/pod-watch/plain.jsonl"),
        }
    }
}
