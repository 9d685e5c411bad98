//! Applying the manifest.

use std::{collections::BTreeSet, fmt};

use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{self, Scope},
};

use super::{
    ClusterError, MANAGER,
    cleanup::{Cleanup, Made},
    manifest::{is_daemonset, title},
    patience::briefly,
    rollout, say,
};

/// Where objects go that name no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// By which an agent's DaemonSet is known, whoever has installed it.
const AGENTS: &str = "app.kubernetes.io/name=holdfast";

/// Whose entries among an object's writers say nothing about whose object it is.
const CONTROLLERS: &str = "kube-controller-manager";

/// The agents' DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The agent's image, which the cases' pods use as well.
    pub(super) image: String,
    /// Whether this test has made it.
    pub(super) ours: bool,
    /// The agents that were there before this run, by the uids of their pods.
    pub(super) earlier: BTreeSet<String>,
}

/// A document of the manifest, and what the cluster has in its place.
struct Placed {
    document: DynamicObject,
    made: Made,
    there: Option<DynamicObject>,
}

// === impl Installed ===

impl fmt::Display for Installed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl Installed {
    fn new(daemonset: &DynamicObject, ours: bool) -> Self {
        let containers = &daemonset.data["spec"]["template"]["spec"]["containers"];
        Self {
            namespace: daemonset.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            name: daemonset.name_any(),
            image: containers[0]["image"].as_str().unwrap_or_default().to_owned(),
            ours,
            earlier: BTreeSet::new(),
        }
    }

    async fn with_earlier(self, client: &Client) -> Result<Self, ClusterError> {
        let pods = rollout::pods(client, &self).await?;
        let earlier = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        Ok(Self { earlier, ..self })
    }
}

// === impl Placed ===

impl Placed {
    /// Whether somebody else has made what is there, or had a hand in it.
    fn is_theirs(&self) -> bool {
        self.there.as_ref().is_some_and(|object| !is_ours(object))
    }

    /// Whether an earlier run has left it there.
    fn is_left(&self) -> bool {
        self.there.as_ref().is_some_and(is_ours)
    }

    fn is_namespace(&self) -> bool {
        self.made.resource.kind == "Namespace"
    }

    /// The agents' DaemonSet that is there, if this is its place.
    fn agents(&self) -> Option<&DynamicObject> {
        self.there.as_ref().filter(|_| is_daemonset(&self.document))
    }

    async fn apply(&self, client: &Client) -> Result<DynamicObject, ClusterError> {
        let (api, patch) = (self.made.api(client), Patch::Apply(&self.document));
        let parameters = PatchParams::apply(MANAGER).force();
        briefly(async || api.patch(&self.made.name, &parameters, &patch).await)
            .await
            .map_err(ClusterError::api(format!("apply {}", title(&self.document))))
    }

    /// As it goes on record: what is there already is known by its uid.
    fn to_remove(&self) -> Made {
        let uid = self.there.as_ref().and_then(kube::ResourceExt::uid);
        Made { uid, ..self.made.clone() }
    }
}

/// Applies each document, but for those that somebody else has made: these are left as they are. Where
/// somebody else has installed agents, there or anywhere, these are used and nothing is applied, since
/// a node can have one agent only.
pub(super) async fn apply(
    client: &Client,
    cleanup: &Cleanup,
    documents: Vec<DynamicObject>,
) -> Result<Installed, ClusterError> {
    // All is looked at before anything is done: what is put on record is deleted, whenever this ends.
    let all = look(client, documents).await?;
    let any_theirs = all.iter().any(Placed::is_theirs);
    // With a namespace goes all that is in it.
    let (staying, ours): (Vec<_>, Vec<_>) = all.into_iter().partition(|placed| {
        placed.is_theirs() || any_theirs && placed.is_left() && placed.is_namespace()
    });
    if let Some(there) = staying.iter().find_map(Placed::agents) {
        let installed = Installed::new(there, false);
        // Also what is ours beside it stays: its agents may need that.
        say(&format!("DaemonSet {installed} is there already: used as it is, nothing is applied"));
        return installed.with_earlier(client).await;
    }
    for placed in &staying {
        say(&format!("{} is there already: left as it is", title(&placed.document)));
    }
    // A manifest has one; that was seen to when it was read.
    let here = ours.iter().find(|placed| is_daemonset(&placed.document));
    let here = here.expect("a manifest without a DaemonSet is refused");
    if let Some(installed) = elsewhere(client, &here.made).await? {
        say(&format!("DaemonSet {installed} is there already: used as it is, nothing is applied"));
        for placed in ours.into_iter().filter(Placed::is_left) {
            cleanup.add(placed.to_remove());
        }
        return installed.with_earlier(client).await;
    }
    let earlier = match here.agents() {
        Some(there) => Installed::new(there, true).with_earlier(client).await?.earlier,
        None => BTreeSet::new(),
    };
    let mut installed = None;
    for placed in ours {
        // First: an answer that is lost, or not waited for, leaves nothing behind.
        cleanup.add(placed.to_remove());
        let object = placed.apply(client).await?;
        cleanup.is_there(&placed.made, object.metadata.uid.as_ref());
        if is_daemonset(&placed.document) {
            installed = Some(Installed::new(&object, true));
        }
    }
    let installed = installed.expect("a manifest without a DaemonSet is refused");
    Ok(Installed { earlier, ..installed })
}

/// What the cluster has in the places of the documents.
async fn look(client: &Client, documents: Vec<DynamicObject>) -> Result<Vec<Placed>, ClusterError> {
    let mut all = Vec::new();
    for document in documents {
        let made = locate(client, &document).await?;
        let api = made.api(client);
        let looked = briefly(async || api.get_opt(&made.name).await).await;
        let there = looked.map_err(ClusterError::api(format!("look for {}", title(&document))))?;
        all.push(Placed { document, made, there });
    }
    Ok(all)
}

/// An installation under another name or in another namespace, such as a Helm release's.
async fn elsewhere(client: &Client, here: &Made) -> Result<Option<Installed>, ClusterError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &here.resource);
    let agents = ListParams::default().labels(AGENTS);
    let list = briefly(async || api.list(&agents).await).await;
    let all = list.map_err(ClusterError::api("look for agents in all namespaces"))?;
    let is_other = |object: &DynamicObject| {
        let place = (object.namespace(), object.name_any());
        place != (here.namespace.clone(), here.name.clone())
            && object.metadata.deletion_timestamp.is_none()
    };
    let other = all.items.iter().find(|object| is_other(object));
    Ok(other.map(|object| Installed::new(object, false)))
}

/// What the API calls the document's kind, and where the object goes.
async fn locate(client: &Client, document: &DynamicObject) -> Result<Made, ClusterError> {
    let what = title(document);
    let types = document.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types)
        .map_err(|source| ClusterError::ApiVersion { what: what.clone(), source })?;
    let (resource, capabilities) = briefly(async || discovery::pinned_kind(client, &gvk).await)
        .await
        .map_err(ClusterError::api(format!("find out what a {} is ({what})", types.kind)))?;
    let namespace = (capabilities.scope == Scope::Namespaced)
        .then(|| document.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()));
    Ok(Made { resource, namespace, name: document.name_any(), uid: None })
}

/// Whether nobody but this test has written it: an earlier run has made it (and was told to keep it,
/// or killed), and nobody has made it his own since. What controllers note in it does not count.
pub(super) fn is_ours(object: &DynamicObject) -> bool {
    let mut writers = object
        .managed_fields()
        .iter()
        .filter(|entry| entry.subresource.as_ref().is_none_or(String::is_empty))
        .filter_map(|entry| entry.manager.as_deref())
        .filter(|manager| *manager != CONTROLLERS)
        .peekable();
    writers.peek().is_some() && writers.all(|manager| manager == MANAGER)
}

// === impl Made ===

impl Made {
    pub(super) fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(by: &Value) -> DynamicObject {
        let metadata = json!({"name": "a", "managedFields": by});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn an_object_is_ours_as_long_as_nobody_else_has_written_it() {
        let ours = json!({"manager": MANAGER, "operation": "Apply"});
        let kubectl = json!({"manager": "kubectl-client-side-apply", "operation": "Update"});
        let status = |manager: &str| json!({"manager": manager, "subresource": "status"});
        for (by, expected) in [
            (json!([ours]), true),
            (json!([ours, kubectl]), false),
            (json!([kubectl, ours]), false),
            (json!([kubectl]), false),
            (json!([ours, status("kube-controller-manager"), status("k3s")]), true),
            (json!([ours, {"manager": "kube-controller-manager"}]), true),
            (json!([{"manager": "kube-controller-manager"}]), false),
            (json!([]), false),
        ] {
            assert_eq!(is_ours(&written(&by)), expected, "{by}");
        }
    }
}
