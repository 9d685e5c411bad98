//! What minds the pods that start between this agent and the next.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    bpf::{BpfError, Posting, Sentry},
    core::Rules,
};

/// The agent's own handle to the sentry, for its end.
#[derive(Debug)]
pub(super) struct Handover {
    sentry: Sentry,
    cgroup_root: PathBuf,
    longest: Duration,
}

// === impl Handover ===

impl Handover {
    /// Prepares it: the rules say what it is to mind.
    pub(super) fn new(
        bpffs: &Path,
        cgroup_root: &Path,
        rules: &Rules,
        longest: Duration,
    ) -> Result<Option<Self>, BpfError> {
        let Some(mut sentry) = Sentry::open(bpffs)? else {
            return Ok(None);
        };
        let ports = rules.profiles.default_ports();
        let unnamed = sentry.brief(&ports, rules.defaults.timeout.value)?;
        if !unnamed.is_empty() {
            tracing::warn!(
                ports = ?unnamed,
                "profiles have more default ports than a sentry can mind: connects to these are not \
                 held while no agent lives"
            );
        }
        Ok(Some(Self { sentry, cgroup_root: cgroup_root.to_owned(), longest }))
    }

    /// Posts the sentry; again is harmless.
    pub(super) fn post(&mut self) {
        if self.longest.is_zero() {
            return;
        }
        match self.sentry.post_below(&self.cgroup_root, self.longest) {
            Ok(Posting::Posted { until: _ }) => {
                let longest = humantime::format_duration(self.longest);
                tracing::info!(%longest, "sentry posted until an agent works");
            }
            Ok(Posting::Stands) => {}
            // Only an agent that ends before it has listed the cgroups leaves its time as it was.
            Ok(Posting::Over) => tracing::warn!(
                "sentry not posted, its time is up since before this agent worked: pods that start \
                 until an agent works are not held"
            ),
            Err(error) => tracing::warn!(
                %error, "sentry cannot be posted: pods that start until an agent works are not held"
            ),
        }
    }
}
