//! How much of a pod's words is kept.
//!
//! Anybody who may make pods decides how long they are: up to 1.5 MiB an object (etcd's
//! `--max-request-bytes`), of which the rules look at a few hundred bytes. 110 of them, kubelet's
//! default for a node, must not take the agent beyond its memory limit.

use std::{cell::Cell, collections::BTreeMap};

/// The longest value that is kept whole, in bytes: longer than any that the rules look into
/// (`MAX_LEN` in core/profile/document.rs), so that what is too long for them stays too long.
const LONGEST: usize = 33 * 1024;

/// For the arguments and the environment of all containers of a pod, in bytes. Those of a mesh's proxy
/// take a few KiB.
const OF_CONTAINERS: usize = 128 * 1024;

/// What is left for a pod's containers.
#[derive(Debug)]
pub(super) struct Room(Cell<usize>);

// === impl Room ===

impl Default for Room {
    fn default() -> Self {
        Self(Cell::new(OF_CONTAINERS))
    }
}

impl Room {
    /// A text, as far as it is kept; `None` when there is no room left, from then on for all.
    pub(super) fn keep(&self, text: &str) -> Option<String> {
        let text = cut(text);
        let left = self.0.get().checked_sub(text.len());
        self.0.set(left.unwrap_or(0));
        left.map(|_| text.to_owned())
    }
}

/// Annotations, of which a real API server takes 256 KiB (`TotalAnnotationSizeLimitB`).
pub(super) fn annotations(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    all.iter().map(|(key, value)| (key.clone(), cut(value).to_owned())).collect()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_a_usual_size_is_kept_whole() {
        let room = Room::default();
        assert_eq!(
            room.keep("--proxyLogLevel=warning").as_deref(),
            Some("--proxyLogLevel=warning")
        );
        let document = "x".repeat(32 * 1024);
        assert_eq!(room.keep(&document), Some(document));
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let long = "ä".repeat(LONGEST);
        let kept = Room::default().keep(&long).unwrap();
        assert!(kept.len() <= LONGEST && kept.len() > 32 * 1024);
        let all = annotations(&BTreeMap::from([("key".to_owned(), long)]));
        assert_eq!(all["key"], kept);
    }

    #[test]
    fn of_many_values_the_first_are_kept() {
        let room = Room::default();
        let value = "x".repeat(1024);
        let kept = (0..1_000).filter(|_| room.keep(&value).is_some()).count();
        assert_eq!(kept, OF_CONTAINERS / 1024);
        assert_eq!(room.keep("a"), None);
    }
}
