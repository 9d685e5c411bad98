//! What of a pod's texts is kept: what somebody could ask for. An object may have 256 KiB of
//! annotations and more than a MiB of variables, in entries of a few bytes each; a node's pods with
//! such objects would take more memory than the agent may.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::core::{PREFIX, Profiles};

/// holdfast's own keys of one object. There are ten; the others are mistakes, of which some are told.
const MAX_OWN: usize = 64;

/// The longest text, in bytes: a KiB more than the longest document that is looked into, so that one
/// that is too long stays too long.
const MAX_TEXT: usize = 33 * 1024;

/// For the ports, the environment, the arguments and the probes of all containers of a pod, in bytes.
/// Those of a mesh's proxy take a few KiB.
pub(super) const OF_CONTAINERS: usize = 128 * 1024;

/// What a text takes besides its bytes: its place, in a collection that may be half empty, and what an
/// allocator rounds up and notes.
const OF_TEXT: usize = 2 * size_of::<String>() + 16;

/// Knows what profiles look up. Clones know the same.
#[derive(Clone, Debug)]
pub struct Kept(Arc<BTreeSet<String>>);

impl Kept {
    /// What these profiles, and holdfast's own settings, are read from.
    #[must_use]
    pub fn of(profiles: &Profiles) -> Self {
        Self(Arc::new(profiles.words()))
    }

    /// Of labels, annotations or variables.
    pub(super) fn texts<'a>(
        &self,
        all: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> BTreeMap<String, String> {
        let mut own = 0;
        let mut is_asked_for = |key: &str| {
            self.0.contains(key) || {
                own += usize::from(key.starts_with(PREFIX));
                key.starts_with(PREFIX) && own <= MAX_OWN
            }
        };
        all.into_iter()
            .filter(|(key, _)| is_asked_for(key))
            .map(|(key, text)| (key.clone(), cut(text).to_owned()))
            .collect()
    }
}

/// What one container's texts may take, and have taken.
#[derive(Debug)]
pub(super) struct Room {
    left: Cell<usize>,
    taken: Cell<usize>,
}

/// How much of `room` each of those may take who would like to take so much: whoever wants no more gets
/// all of it, whatever the others want, and the others the same each. So no container takes the room
/// of the proxy behind it.
pub(super) fn level(mut wanted: Vec<usize>, room: usize) -> usize {
    wanted.sort_unstable();
    let mut left = room;
    for (place, one) in wanted.iter().enumerate() {
        let share = left / (wanted.len() - place);
        if *one > share {
            return share;
        }
        left -= one;
    }
    room
}

// === impl Room ===

impl Default for Room {
    fn default() -> Self {
        Self::new(OF_CONTAINERS)
    }
}

impl Room {
    pub(super) const fn new(bytes: usize) -> Self {
        Self { left: Cell::new(bytes), taken: Cell::new(0) }
    }

    /// A text, as far as it is kept; `None` when there is no room left, from then on for all.
    pub(super) fn keep(&self, text: &str) -> Option<String> {
        let text = cut(text);
        let takes = text.len() + OF_TEXT;
        self.taken.set(self.taken.get() + takes);
        let left = self.left.get().checked_sub(takes);
        self.left.set(left.unwrap_or(0));
        left.map(|_| text.to_owned())
    }

    /// What the texts that were asked for take, those that were not kept included.
    pub(super) fn taken(&self) -> usize {
        self.taken.get()
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        Kept::of(&Profiles::builtin()).texts(all)
    }

    #[test]
    fn what_somebody_reads_is_kept_and_nothing_else() {
        let known = ["sidecar.istio.io/status", "proxy.istio.io/config", "holdfast.dev/ready"];
        let mut all: BTreeMap<String, String> =
            known.map(|key| (key.to_owned(), "value".to_owned())).into();
        let expected = all.clone();
        all.extend((0..10_000).map(|n| (format!("example.com/{n}"), String::new())));
        assert_eq!(kept(&all), expected);
    }

    #[test]
    fn mistakes_are_kept_as_far_as_they_are_told() {
        let all = (0..10_000).map(|n| (format!("{PREFIX}{n}"), "x".repeat(MAX_TEXT + n))).collect();
        let kept = kept(&all);
        assert_eq!(kept.len(), MAX_OWN);
        assert!(kept.values().all(|text| text.len() == MAX_TEXT));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = "\u{20ac}".repeat(MAX_TEXT);
        assert_eq!(cut(&text).len(), MAX_TEXT / 3 * 3);
    }

    #[test]
    fn of_many_values_the_first_are_kept() {
        let room = Room::default();
        let value = "x".repeat(1024);
        let kept = (0..1_000).filter(|_| room.keep(&value).is_some()).count();
        assert_eq!(kept, OF_CONTAINERS / (1024 + OF_TEXT));
        assert_eq!(room.keep("a"), None);
    }

    #[test]
    fn empty_values_are_not_kept_without_end() {
        let room = Room::default();
        let kept = (0..700_000).filter(|_| room.keep("").is_some()).count();
        assert_eq!(kept, OF_CONTAINERS / OF_TEXT);
    }

    #[test]
    fn who_wants_little_gets_it_whatever_the_others_want() {
        for (wanted, expected) in [
            (vec![], 100),
            (vec![100], 100),
            (vec![101], 100),
            (vec![50, 50], 100),
            (vec![1_000, 10], 90),
            (vec![1_000, 10, 1_000], 45),
            (vec![40, 30, 31], 39),
            (vec![1_000; 200], 0),
        ] {
            assert_eq!(level(wanted.clone(), 100), expected, "{wanted:?}");
        }
    }
}
