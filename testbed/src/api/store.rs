//! The objects, their versions and a bounded history of changes: etcd and the watch cache in one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    access::{Access, Rule},
    resource::Resource,
    select::Selector,
};

/// How many changes of a resource a watch or the next page of a list may lag behind. A real server
/// keeps minutes of them; these are half a minute of twenty pods that start each second.
const HISTORY: usize = 5000;
/// A fresh cluster is never at version 1, and clients must not take a version for a count.
const FIRST_VERSION: u64 = 1000;

/// An object's identity within its resource: namespace (empty for cluster-wide ones) and name.
pub(super) type Key = (Resource, String, String);

/// One change: what was, what is.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    namespace: String,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

/// The changes of one resource, the oldest first: Events, of which there are many, push out nothing of
/// the pods'.
#[derive(Debug, Default)]
struct History {
    changes: VecDeque<Change>,
    /// The version of the last one that was forgotten.
    forgotten: u64,
}

/// What one watcher sees of a change.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    Added(Value),
    Modified(Value),
    Deleted(Value),
}

/// Why a watch or a page cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expired;

/// How a watch from a version that is too old is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// 200 and one ERROR event with code 410: what an API server with a watch cache does.
    #[default]
    Event,
    /// The HTTP status 410, as the API's documentation has it. The watcher of kube 5.0 does not
    /// list again after it, but tries the same version for ever.
    Status,
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    pub(super) version: u64,
    pub(super) next: Option<String>,
    pub(super) remaining: usize,
}

#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    histories: BTreeMap<Resource, History>,
    version: u64,
    /// Before this one everything was forgotten.
    compacted: u64,
    /// Counts the times at which every open watch was told that it is too old.
    pub(super) expiry: u64,
    /// Counts the times at which every open watch was ended.
    pub(super) cuts: u64,
    /// Lines that open watches were made to say.
    pub(super) said: Vec<(Resource, Vec<u8>)>,
    /// Between two bookmarks of a watch that begins now.
    pub(super) bookmark_every: Duration,
    pub(super) refusal: Refusal,
    pub(super) events: Events,
    pub(super) requests: BTreeMap<(String, String), u64>,
    pub(super) accesses: BTreeSet<Access>,
    /// What clients may do; all as long as nothing is said.
    pub(super) granted: Option<Vec<Rule>>,
}

/// A real API server sends one about every minute; a test cannot wait that long to see one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(1);

/// What becomes of a client's attempt to write an Event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    /// It is kept.
    #[default]
    Keep,
    /// It is forbidden (HTTP 403): the client lacks the right.
    Forbid,
    /// It fails (HTTP 500).
    Fail,
    /// It waits until another choice is made.
    Stall,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            histories: BTreeMap::new(),
            version: FIRST_VERSION,
            compacted: FIRST_VERSION,
            expiry: 0,
            cuts: 0,
            said: Vec::new(),
            bookmark_every: BOOKMARK_EVERY,
            refusal: Refusal::default(),
            events: Events::default(),
            requests: BTreeMap::new(),
            accesses: BTreeSet::new(),
            granted: None,
        }
    }
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key).map(Arc::as_ref)
    }

    /// Creates or replaces; gives the object as stored.
    pub(super) fn put(&mut self, resource: Resource, mut object: Value) -> Value {
        let text =
            |of: &Value, field: &str| of["metadata"][field].as_str().unwrap_or_default().to_owned();
        let namespace =
            if resource.is_namespaced() { text(&object, "namespace") } else { String::new() };
        let key = (resource, namespace, text(&object, "name"));
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["apiVersion"] = json!(resource.api_version());
        object["kind"] = json!(resource.kind());
        let stored = Arc::new(object.clone());
        let before = self.objects.insert(key.clone(), Arc::clone(&stored));
        self.record(&key, before, Some(stored));
        object
    }

    /// Changes an object in place; `None` when there is none.
    pub(super) fn update(&mut self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut object = self.get(key)?.clone();
        change(&mut object);
        Some(self.put(key.0, object))
    }

    pub(super) fn delete(&mut self, key: &Key) -> Option<Value> {
        let before = self.objects.remove(key)?;
        self.version += 1;
        self.record(key, Some(Arc::clone(&before)), None);
        Some(Arc::unwrap_or_clone(before))
    }

    fn record(&mut self, key: &Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        let history = self.histories.entry(key.0).or_default();
        let namespace = key.1.clone();
        history.changes.push_back(Change { version: self.version, namespace, before, after });
        if history.changes.len() > HISTORY
            && let Some(dropped) = history.changes.pop_front()
        {
            history.forgotten = dropped.version;
        }
    }

    /// Forgets every change, as compaction does: earlier versions are gone, open watches with them.
    pub(super) fn expire(&mut self) {
        // A version of its own, so that not even a watch from the latest one is young enough.
        self.version += 1;
        self.compacted = self.version;
        self.histories.clear();
        self.expiry += 1;
    }

    /// The selected objects from `after` on, at most `limit` of them.
    pub(super) fn list(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        selector: &Selector,
        limit: Option<usize>,
        after: Option<&str>,
    ) -> Result<Page, Expired> {
        // All pages are of the version of the first: a watch from there sees what has changed since.
        let (version, start) = match after {
            None => (self.version, Bound::Included((resource, String::new(), String::new()))),
            Some(token) => {
                let (version, namespace, name) = self.parse_token(resource, token)?;
                (version, Bound::Excluded((resource, namespace, name)))
            }
        };
        let all: Vec<(&Key, &Arc<Value>)> = self
            .objects
            .range((start, Bound::Unbounded))
            .take_while(|((kind, _, _), _)| *kind == resource)
            .filter(|((_, of, _), object)| {
                namespace.is_none_or(|namespace| namespace == of) && selector.matches(object)
            })
            .collect();
        let taken = limit.filter(|limit| *limit > 0).unwrap_or(all.len());
        let remaining = all.len().saturating_sub(taken);
        let page = &all[..all.len() - remaining];
        let next = page
            .last()
            .filter(|_| remaining > 0)
            .map(|((_, namespace, name), _)| format!("{version}.{namespace}.{name}"));
        Ok(Page {
            items: page.iter().map(|(_, object)| Value::clone(object)).collect(),
            version,
            next,
            remaining,
        })
    }

    /// A token names the list's version and the last object given. Changes between two pages show,
    /// which a real API server prevents; a client is told of them again by its watch.
    fn parse_token(
        &self,
        resource: Resource,
        token: &str,
    ) -> Result<(u64, String, String), Expired> {
        let mut parts = token.splitn(3, '.');
        let version = parts.next().and_then(|text| text.parse::<u64>().ok());
        match (version, parts.next(), parts.next()) {
            (Some(version), Some(namespace), Some(name)) if version >= self.oldest(resource) => {
                Ok((version, namespace.to_owned(), name.to_owned()))
            }
            _ => Err(Expired),
        }
    }

    /// Whether a watch of a resource may start from `version`.
    pub(super) fn can_watch_from(&self, resource: Resource, version: u64) -> Result<(), Expired> {
        if version >= self.oldest(resource) { Ok(()) } else { Err(Expired) }
    }

    /// Of this version all is known that has happened afterwards, of none before it.
    fn oldest(&self, resource: Resource) -> u64 {
        let forgotten = self.histories.get(&resource).map(|history| history.forgotten);
        self.compacted.max(forgotten.unwrap_or_default())
    }

    /// What a watcher sees of all that happened after `version`.
    pub(super) fn changes_since(
        &self,
        version: u64,
        resource: Resource,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Vec<Seen> {
        let Some(History { changes, .. }) = self.histories.get(&resource) else {
            return Vec::new();
        };
        changes
            .range(changes.partition_point(|change| change.version <= version)..)
            .filter(|change| namespace.is_none_or(|namespace| namespace == change.namespace))
            .filter_map(|change| change.seen_through(selector))
            .collect()
    }
}

impl Change {
    /// An object that begins or ceases to match a selector is added or deleted for that watcher.
    fn seen_through(&self, selector: &Selector) -> Option<Seen> {
        let matches = |object: &Option<Arc<Value>>| {
            object.as_deref().filter(|object| selector.matches(object)).cloned()
        };
        match (matches(&self.before), matches(&self.after)) {
            (None, None) => None,
            (None, Some(now)) => Some(Seen::Added(now)),
            (Some(_), Some(now)) => Some(Seen::Modified(now)),
            (Some(mut last), None) => {
                // The deletion itself is the object's last version.
                last["metadata"]["resourceVersion"] = json!(self.version.to_string());
                Some(Seen::Deleted(last))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>) -> Value {
        json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"nodeName": node}})
    }

    #[test]
    fn a_pod_bound_to_the_node_is_added_for_that_node_s_watcher() {
        let mut store = Store::default();
        let selector = Selector::parse(Some("spec.nodeName=node1"), None).unwrap();
        let start = store.version();
        store.put(Resource::Pods, pod("a", None));
        assert!(store.changes_since(start, Resource::Pods, None, &selector).is_empty());
        let bound = store.put(Resource::Pods, pod("a", Some("node1")));
        assert_eq!(
            store.changes_since(start, Resource::Pods, None, &selector),
            [Seen::Added(bound)]
        );
    }

    #[test]
    fn history_is_bounded_and_the_bound_expires_old_watches() {
        let mut store = Store::default();
        let start = store.version();
        for _ in 0..=HISTORY {
            store.put(Resource::Pods, pod("a", None));
        }
        assert_eq!(store.can_watch_from(Resource::Pods, start), Err(Expired));
        assert_eq!(store.can_watch_from(Resource::Pods, start + 1), Ok(()));
        let from = store.version();
        for _ in 0..=HISTORY {
            store.put(Resource::Events, pod("a", None));
        }
        assert_eq!(store.can_watch_from(Resource::Pods, from), Ok(()), "pods have not changed");
        let newest = store.version();
        store.expire();
        assert_eq!(store.can_watch_from(Resource::Pods, newest), Err(Expired));
        assert_eq!(store.can_watch_from(Resource::Pods, store.version()), Ok(()));
    }

    #[test]
    fn what_changes_between_two_pages_is_seen_by_a_watch_from_the_list() {
        let mut store = Store::default();
        for name in ["b", "c", "d"] {
            store.put(Resource::Pods, pod(name, None));
        }
        let list = |store: &Store, after: Option<&str>| {
            store.list(Resource::Pods, None, &Selector::default(), Some(2), after).unwrap()
        };
        let first = list(&store, None);
        // Before the objects that have been given already.
        let added = store.put(Resource::Pods, pod("a", None));
        let last = list(&store, first.next.as_deref());
        assert_eq!(last.version, first.version);
        let seen = store.changes_since(last.version, Resource::Pods, None, &Selector::default());
        assert_eq!(seen, [Seen::Added(added)]);
    }

    #[test]
    fn pages_cover_everything_once() {
        let mut store = Store::default();
        for name in ["a", "b", "c", "d", "e"] {
            store.put(Resource::Pods, pod(name, None));
        }
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = store
                .list(Resource::Pods, None, &Selector::default(), Some(2), token.as_deref())
                .unwrap();
            names.extend(
                page.items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()),
            );
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }
}
