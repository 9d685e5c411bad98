//! The node's pods, and which of them has something to do next.

use std::collections::{BTreeSet, HashMap};

use super::pod::Pod;
use crate::core::{Monotonic, PodUid};

/// All pods, in no order, and the instants at which they are due.
#[derive(Debug, Default)]
pub(super) struct Pods {
    by_uid: HashMap<PodUid, Kept>,
    /// The soonest first: nobody has to look at all of them for the next one.
    due: BTreeSet<(Monotonic, PodUid)>,
    /// Those that may have changed since `due` was last right.
    lent: Vec<PodUid>,
}

#[derive(Debug)]
struct Kept {
    pod: Pod,
    /// As it stands in [`Pods::due`].
    due: Option<Monotonic>,
}

// === impl Pods ===

impl Pods {
    pub(super) fn get(&self, uid: &PodUid) -> Option<&Pod> {
        self.by_uid.get(uid).map(|kept| &kept.pod)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Pod> {
        self.by_uid.values().map(|kept| &kept.pod)
    }

    /// To change it; until [`Self::settle`] is called its next instant is not known.
    pub(super) fn get_mut(&mut self, uid: &PodUid) -> Option<&mut Pod> {
        let kept = self.by_uid.get_mut(uid)?;
        lend(&mut self.lent, uid);
        Some(&mut kept.pod)
    }

    /// As [`Self::get_mut`]; a new one if there is none.
    pub(super) fn get_or_new(&mut self, uid: &PodUid, now: Monotonic) -> &mut Pod {
        lend(&mut self.lent, uid);
        let new = || Kept { pod: Pod::new(uid.clone(), now), due: None };
        &mut self.by_uid.entry(uid.clone()).or_insert_with(new).pod
    }

    pub(super) fn remove(&mut self, uid: &PodUid) {
        if let Some(Kept { due: Some(at), .. }) = self.by_uid.remove(uid) {
            self.due.remove(&(at, uid.clone()));
        }
    }

    /// Those whose instant has come, in a stable order, which makes runs comparable.
    pub(super) fn due_by(&self, now: Monotonic) -> Vec<PodUid> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        let mut uids: Vec<PodUid> = due.map(|(_, uid)| uid.clone()).collect();
        uids.sort();
        uids
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        debug_assert!(self.lent.is_empty(), "{:?} may have changed", self.lent);
        debug_assert!(
            self.by_uid.values().all(|kept| kept.due == kept.pod.next_wakeup()),
            "a pod has changed that nobody was lent"
        );
        self.due.first().map(|(at, _)| *at)
    }

    /// Looks when those are due that may have changed.
    pub(super) fn settle(&mut self) {
        for uid in self.lent.drain(..) {
            let Some(Kept { pod, due }) = self.by_uid.get_mut(&uid) else { continue };
            let next = pod.next_wakeup();
            if next == *due {
                continue;
            }
            if let Some(at) = due.take() {
                self.due.remove(&(at, uid.clone()));
            }
            *due = next;
            self.due.extend(next.map(|at| (at, uid)));
        }
    }
}

#[cfg(test)]
impl Pods {
    pub(super) fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &PodUid> {
        self.by_uid.keys()
    }
}

#[cfg(test)]
impl std::ops::Index<&PodUid> for Pods {
    type Output = Pod;

    fn index(&self, uid: &PodUid) -> &Pod {
        self.get(uid).expect("no such pod")
    }
}

/// An event's changes are mostly one pod's, one after another.
fn lend(lent: &mut Vec<PodUid>, uid: &PodUid) {
    if lent.last() != Some(uid) {
        lent.push(uid.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Order;

    const fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    fn ordered(pods: &mut Pods, uid: &str, until: Option<u64>) {
        let pod = pods.get_or_new(&PodUid::new(uid), at(0));
        pod.order = until.map(|until| Order::Closed { until: at(until) });
    }

    #[test]
    fn the_next_instant_is_the_soonest_of_those_that_are_there() {
        let mut pods = Pods::default();
        assert_eq!(pods.next_due(), None);
        for (uid, until) in [("a", Some(3)), ("b", Some(2)), ("c", None), ("d", Some(3))] {
            ordered(&mut pods, uid, until);
        }
        pods.settle();
        assert_eq!(pods.next_due(), Some(at(2)));
        let due = |pods: &Pods, now| -> Vec<String> {
            pods.due_by(at(now)).iter().map(ToString::to_string).collect()
        };
        assert_eq!(due(&pods, 1), [""; 0]);
        assert_eq!(due(&pods, 2), ["b"]);
        assert_eq!(due(&pods, 3), ["a", "b", "d"]);
        ordered(&mut pods, "b", Some(9));
        ordered(&mut pods, "a", None);
        ordered(&mut pods, "b", Some(4));
        pods.settle();
        assert_eq!(pods.next_due(), Some(at(3)));
        assert_eq!(due(&pods, 3), ["d"]);
        // Gone after it was lent, and before.
        ordered(&mut pods, "b", Some(1));
        pods.remove(&PodUid::new("b"));
        pods.remove(&PodUid::new("d"));
        pods.settle();
        assert_eq!(pods.next_due(), None);
        assert!(pods.due.is_empty() && pods.get(&PodUid::new("b")).is_none());
    }
}
