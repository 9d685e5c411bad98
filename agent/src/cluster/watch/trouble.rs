//! What the log says of a watch that fails: an API server that is away for an hour is one fact.

use std::time::Duration;

use kube::runtime::watcher::Error;
use tokio::time::Instant;

/// Between two warnings about the same watch.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// What to do about rights that are missing.
const MEND: &str = "grant list and watch on pods and namespaces (deploy/holdfast.yaml)";

/// What has been told of one watch.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    warned_at: Option<Instant>,
    /// Errors since then.
    untold: u64,
}

// === impl Trouble ===

impl Trouble {
    /// Tells of an error: the first of a minute, with the number of those before it that were not told.
    pub(super) fn tell(&mut self, resource: &str, error: &Error) {
        let Some(more) = self.count(Instant::now()) else {
            tracing::debug!(resource, %error, "watch interrupted; trying again");
            return;
        };
        let mend = is_forbidden(error).then_some(MEND);
        tracing::warn!(resource, %error, more, mend, "watch interrupted; trying again");
    }

    /// How many errors have not been told, if this one is to be.
    fn count(&mut self, now: Instant) -> Option<u64> {
        if self.warned_at.is_some_and(|at| now.duration_since(at) < WARN_INTERVAL) {
            self.untold += 1;
            return None;
        }
        self.warned_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

fn is_forbidden(error: &Error) -> bool {
    let (Error::InitialListFailed(kube::Error::Api(status))
    | Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    status.is_forbidden()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_once_a_minute_and_the_others_are_counted() {
        let mut trouble = Trouble::default();
        let start = Instant::now();
        assert_eq!(trouble.count(start), Some(0));
        assert_eq!(trouble.count(start + Duration::from_secs(1)), None);
        assert_eq!(trouble.count(start + Duration::from_secs(59)), None);
        assert_eq!(trouble.count(start + Duration::from_secs(60)), Some(2));
        assert_eq!(trouble.count(start + Duration::from_secs(61)), None);
    }
}
