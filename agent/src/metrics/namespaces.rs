//! Which namespaces have series of their own. A cluster may have thousands, and what a counter has
//! counted stays for as long as the agent runs.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::labels::Text;
use crate::core::PodRef;

/// Namespaces that are told apart: more than a node has pods (110, kubelet's default), and 2,600
/// series at most.
pub(super) const MAX: usize = 200;

/// Of a pod that nobody has named yet.
const UNKNOWN: &str = "";

/// What the others have together; no namespace can be called so.
pub(super) const OTHER: &str = "_other";

/// Those that have series.
#[derive(Debug)]
pub(super) struct Namespaces {
    known: Mutex<HashSet<Arc<str>>>,
    other: Text,
    unknown: Text,
}

// === impl Namespaces ===

impl Default for Namespaces {
    fn default() -> Self {
        Self { known: Mutex::default(), other: OTHER.into(), unknown: UNKNOWN.into() }
    }
}

impl Namespaces {
    /// The label for a pod's series, and whether it is a new one.
    pub(super) fn of(&self, pod: &PodRef) -> (Text, bool) {
        let Some(name) = &pod.name else { return (self.unknown.clone(), false) };
        let mut known = self.lock();
        if known.contains(&name.namespace) {
            return (Text(Arc::clone(&name.namespace)), false);
        }
        if known.len() >= MAX {
            return (self.other.clone(), false);
        }
        known.insert(Arc::clone(&name.namespace));
        (Text(Arc::clone(&name.namespace)), true)
    }

    /// A namespace is gone; its label, if it had series.
    pub(super) fn forget(&self, namespace: &str) -> Option<Text> {
        self.lock().take(namespace).map(Text)
    }

    /// Those that have series.
    pub(super) fn all(&self) -> Vec<Arc<str>> {
        self.lock().iter().cloned().collect()
    }

    /// Nothing panics while it is locked; if something did, the set would be none the worse.
    fn lock(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
