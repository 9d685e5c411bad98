//! Removing what was made, whatever has happened.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use kube::{
    Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Preconditions},
    discovery::ApiResource,
};
use tokio::time::{Instant, sleep};

use super::{install::is_ours, patience::briefly, reason};

/// Pods end within their grace period, and namespaces after them; a namespace's controller takes
/// some rounds of its own.
const GONE_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Something that this test has made, or is about to make.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Made {
    pub(super) resource: ApiResource,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    /// Once it is known to be there: another of this name is somebody else's.
    pub(super) uid: Option<String>,
}

/// All of it, in the order in which it was made.
pub(super) struct Cleanup {
    client: Client,
    made: Mutex<Vec<Made>>,
}

// === impl Made ===

impl fmt::Display for Made {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ", self.resource.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(formatter, "{namespace}/")?;
        }
        formatter.write_str(&self.name)
    }
}

impl Made {
    /// Whether others live in it, or are made by it, which end after it has been deleted.
    fn takes_time(&self) -> bool {
        matches!(self.resource.kind.as_str(), "Namespace" | "DaemonSet")
    }

    /// Whether both are one, of which one may not know its uid.
    fn is_same(&self, other: &Self) -> bool {
        (&self.resource, &self.namespace, &self.name)
            == (&other.resource, &other.namespace, &other.name)
    }

    /// Whether it is this object that was made.
    fn is(&self, object: &DynamicObject) -> bool {
        match &self.uid {
            Some(uid) => object.metadata.uid.as_ref() == Some(uid),
            None => is_ours(object),
        }
    }
}

// === impl Cleanup ===

impl Cleanup {
    pub(super) fn new(client: Client) -> Self {
        Self { client, made: Mutex::default() }
    }

    pub(super) fn add(&self, made: Made) {
        self.lock().push(made);
    }

    /// It has been made: nothing but this is to be removed.
    pub(super) fn is_there(&self, made: &Made, uid: Option<&String>) {
        for one in self.lock().iter_mut().filter(|one| one.is_same(made)) {
            one.uid = uid.cloned();
        }
    }

    /// What there is to remove, and has not been yet.
    pub(super) fn made(&self) -> Vec<String> {
        self.lock().iter().map(ToString::to_string).collect()
    }

    /// Removes the last first: pods before their agents, agents before their rights. What takes its
    /// time and is of one kind goes together. Returns what is left, and why.
    pub(super) async fn run(&self) -> Vec<String> {
        let made = self.lock().clone();
        let mut left = Vec::new();
        for group in made.chunk_by(|a, b| a.resource.kind == b.resource.kind).rev() {
            let removed = group.iter().rev().map(|made| async move {
                self.remove(made).await.map_err(|why| format!("{made}: {why}"))?;
                self.lock().retain(|one| one != made);
                Ok(())
            });
            let removed: Vec<Result<(), String>> = join_all(removed).await;
            left.extend(removed.into_iter().filter_map(Result::err));
        }
        left
    }

    async fn remove(&self, made: &Made) -> Result<(), String> {
        let api = made.api(&self.client);
        let look = async || {
            let there = briefly(async || api.get_opt(&made.name).await).await;
            there.map_err(|error| reason(&error))
        };
        let Some(uid) = look().await?.filter(|object| made.is(object)).and_then(|one| one.uid())
        else {
            return Ok(());
        };
        let this = Preconditions { uid: Some(uid.clone()), ..Preconditions::default() };
        let parameters = DeleteParams::foreground().preconditions(this);
        match briefly(async || api.delete(&made.name, &parameters).await).await {
            Ok(_) if !made.takes_time() => return Ok(()),
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            // On its way out already, or another has taken its place: the next look tells.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(reason(&error)),
        }
        let deadline = Instant::now() + GONE_WITHIN;
        while look().await?.is_some_and(|object| object.uid().as_ref() == Some(&uid)) {
            if Instant::now() >= deadline {
                let after = humantime::format_duration(GONE_WITHIN);
                return Err(format!("still there {after} after its deletion"));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Made>> {
        // A list that is never left half-written.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
