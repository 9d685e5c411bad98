//! Paths, methods and parameters of the Kubernetes API.

use std::time::Instant;

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Shared,
    access::{self, Access},
    reply::{Failure, Shape, json_response},
    resource::Resource,
    select::Selector,
    store::{Events, Key},
    trouble::Asked,
    watch,
};

/// The parameters of lists and watches.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Parameters {
    field_selector: Option<String>,
    label_selector: Option<String>,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    token: Option<String>,
    watch: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) allow_watch_bookmarks: Option<String>,
    pub(super) send_initial_events: Option<String>,
    pub(super) timeout_seconds: Option<u64>,
}

/// Booleans come as `true` or `1`.
pub(super) fn is_set(parameter: Option<&String>) -> bool {
    parameter.is_some_and(|value| value == "true" || value == "1")
}

pub(super) fn router(shared: Shared) -> Router {
    Router::new().fallback(serve).with_state(shared)
}

/// Where a path points to, be there such a resource or not.
#[derive(Clone, Copy)]
struct Place<'a> {
    group: &'a str,
    plural: &'a str,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    subresource: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// `/api/v1/...` and `/apis/<group>/v1/...`.
    fn parse(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return None,
        };
        // `namespaces/<name>` alone is the namespace itself, with more behind it a scope.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..]
                if rest.first().is_some_and(|next| *next != "status") =>
            {
                (Some(*namespace), rest)
            }
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] if !plural.is_empty() => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
            _ => return None,
        };
        Some(Self { group, plural, namespace, name, subresource })
    }

    /// As authorisation words it: a namespace's own object lies in that namespace.
    fn access(&self, verb: &str) -> Access {
        let Self { group, plural, namespace, name, subresource } = *self;
        let namespace = match (group, plural) {
            ("", "namespaces") => name,
            _ => namespace,
        };
        Access {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: subresource.map_or(plural.to_owned(), |sub| format!("{plural}/{sub}")),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }
    }
}

/// Where a request points to.
struct Target<'a> {
    resource: Resource,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    is_status: bool,
}

impl<'a> Target<'a> {
    fn new(place: Place<'a>) -> Option<Self> {
        let Place { group, plural, namespace, name, subresource } = place;
        let is_status = match subresource {
            None => false,
            Some("status") => true,
            Some(_) => return None,
        };
        let resource = Resource::find(group, plural)?;
        Some(Self { resource, namespace, name, is_status })
    }

    fn key(&self, name: &str) -> Key {
        let namespace = self.namespace.unwrap_or_default();
        (self.resource, namespace.to_owned(), name.to_owned())
    }
}

async fn serve(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(parameters): Query<Parameters>,
    body: Bytes,
) -> Response {
    let place = Place::parse(uri.path());
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let asked = Asked {
        verb: place.map_or("get", |place| verb(&method, &place, &parameters)),
        resource: place.map_or(uri.path(), |place| place.plural),
        query: uri.query().unwrap_or_default(),
        token: token.and_then(|value| value.strip_prefix("Bearer ")),
        is_open: false,
    };
    let at = Instant::now();
    let (trouble, changed) = shared.troubles.of(&asked);
    let answer = answer(&shared, &method, &uri, &headers, &parameters, &body);
    let answer = async { answer.await.into_response() };
    let response = match trouble {
        Some(trouble) => trouble.befall(changed, answer).await,
        None => answer.await,
    };
    shared.counter.answered(at, &asked, body.len(), response)
}

async fn answer(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    parameters: &Parameters,
    body: &Bytes,
) -> Result<Response, Failure> {
    let Some(place) = Place::parse(uri.path()) else {
        shared.count("get", uri.path());
        return discovery(uri.path())
            .map(|document| json_response(StatusCode::OK, &document))
            .ok_or_else(Failure::unknown_path);
    };
    let verb = verb(method, &place, parameters);
    // Every account may ask what it may do.
    if (place.group, place.plural, method) == (access::REVIEWS.0, access::REVIEWS.1, &Method::POST)
    {
        let asked = serde_json::from_slice(body)
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        let answer = access::review(asked, shared.lock().granted.as_deref())
            .ok_or_else(Failure::not_allowed)?;
        return Ok(json_response(StatusCode::CREATED, &answer));
    }
    // As a real server does: who may not ask does not learn whether it is there.
    shared.admit(place.access(verb)).map_err(Failure::forbidden)?;
    let target = Target::new(place).ok_or_else(Failure::unknown_path)?;
    shared.count(verb, target.resource.plural());
    let accept =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let shape = Shape::from_accept(accept);
    if target.resource.is_event() && matches!(verb, "create" | "patch") {
        admit_event(shared).await?;
    }
    match (verb, target.name) {
        ("list", None) => list(shared, &target, shape, parameters),
        ("watch", None) => watch(shared, &target, shape, parameters),
        ("get", Some(name)) => {
            let store = shared.lock();
            let object = store
                .get(&target.key(name))
                .ok_or_else(|| Failure::not_found(target.resource, name))?;
            Ok(json_response(StatusCode::OK, &shape.of(object.clone())))
        }
        ("create", None) => create(shared, &target, body),
        ("patch", Some(name)) => patch(shared, &target, shape, name, body),
        ("delete", Some(name)) => {
            let deleted = shared.change(|store| store.delete(&target.key(name)));
            let object = deleted.ok_or_else(|| Failure::not_found(target.resource, name))?;
            Ok(json_response(StatusCode::OK, &object))
        }
        _ => Err(Failure::not_allowed()),
    }
}

/// Lets the write of an Event go on, later, or not at all.
async fn admit_event(shared: &Shared) -> Result<(), Failure> {
    let mut news = shared.subscribe();
    loop {
        news.borrow_and_update();
        // Bound first: the lock must not be held across the await.
        let events = shared.lock().events;
        match events {
            Events::Keep => return Ok(()),
            Events::Forbid => return Err(Failure::forbidden("events.events.k8s.io is forbidden")),
            Events::Fail => return Err(Failure::internal("etcdserver: request timed out")),
            // The sender lives as long as the API itself.
            Events::Stall => drop(news.changed().await),
        }
    }
}

/// As the API's authorisation names it, which is also what requests are counted by.
fn verb(method: &Method, place: &Place<'_>, parameters: &Parameters) -> &'static str {
    match *method {
        Method::GET if place.name.is_some() => "get",
        Method::GET if is_set(parameters.watch.as_ref()) => "watch",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

fn selector(parameters: &Parameters) -> Result<Selector, Failure> {
    Selector::parse(parameters.field_selector.as_deref(), parameters.label_selector.as_deref())
        .map_err(|bad| Failure::bad_request(bad.0))
}

fn list(
    shared: &Shared,
    target: &Target<'_>,
    shape: Shape,
    parameters: &Parameters,
) -> Result<Response, Failure> {
    let page = shared
        .lock()
        .list(
            target.resource,
            target.namespace,
            &selector(parameters)?,
            parameters.limit,
            parameters.token.as_deref(),
        )
        .map_err(|_| Failure::expired())?;
    Ok(json_response(StatusCode::OK, &shape.list(target.resource, page)))
}

fn watch(
    shared: &Shared,
    target: &Target<'_>,
    shape: Shape,
    parameters: &Parameters,
) -> Result<Response, Failure> {
    let scope = watch::Scope {
        resource: target.resource,
        namespace: target.namespace.map(str::to_owned),
        selector: selector(parameters)?,
        shape,
    };
    watch::start(shared, scope, parameters)
}

fn create(shared: &Shared, target: &Target<'_>, body: &[u8]) -> Result<Response, Failure> {
    let mut object = parse(body)?;
    let metadata = &mut object["metadata"];
    if let Some(namespace) = target.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if metadata["name"].is_null()
        && let Some(prefix) = metadata["generateName"].as_str()
    {
        // A real server appends five random characters; the version is as unique.
        metadata["name"] = json!(format!("{prefix}{:05}", shared.lock().version()));
    }
    let Some(name) = metadata["name"].as_str().map(str::to_owned) else {
        return Err(Failure::bad_request("metadata.name is required"));
    };
    let stored = shared.change(|store| {
        if store.get(&target.key(&name)).is_some() {
            return Err(Failure::already_exists(target.resource, &name));
        }
        Ok(store.put(target.resource, object))
    })?;
    Ok(json_response(StatusCode::CREATED, &stored))
}

fn patch(
    shared: &Shared,
    target: &Target<'_>,
    shape: Shape,
    name: &str,
    body: &[u8],
) -> Result<Response, Failure> {
    let patch = parse(body)?;
    // Strategic merge differs from merge only in lists, which no patch of an agent touches.
    let patch = if target.is_status { json!({"status": patch["status"]}) } else { patch };
    let key = target.key(name);
    shared
        .change(|store| {
            let Some(stored) = store.get(&key) else {
                return Err(Failure::not_found(target.resource, name));
            };
            // A patch that names a version is for this one only.
            let version = &patch["metadata"]["resourceVersion"];
            if !version.is_null() && *version != stored["metadata"]["resourceVersion"] {
                return Err(Failure::conflict(target.resource, name));
            }
            let stored = store.update(&key, |object| merge(object, &patch));
            stored.ok_or_else(|| Failure::not_found(target.resource, name))
        })
        .map(|stored| json_response(StatusCode::OK, &shape.of(stored)))
}

fn parse(body: &[u8]) -> Result<Value, Failure> {
    match serde_json::from_slice(body) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err(Failure::bad_request("the body is not a JSON object")),
        Err(error) => Err(Failure::bad_request(format!("the body is not JSON: {error}"))),
    }
}

/// JSON merge patch (RFC 7386).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(fields) = target.as_object_mut() {
                fields.remove(key);
            }
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// `/version` and what clients read to find out which resources there are.
fn discovery(path: &str) -> Option<Value> {
    let group = |name: &str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    Some(match path.trim_end_matches('/') {
        "/version" => json!({
            "major": "1",
            "minor": "33",
            "gitVersion": "v1.33.0",
            "gitCommit": "testbed",
            "gitTreeState": "clean",
            "buildDate": "2025-04-23T13:00:00Z",
            "goVersion": "none",
            "compiler": "none",
            "platform": "linux/amd64",
        }),
        "/api" => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        "/apis" => {
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group("apps"), group("events.k8s.io")]})
        }
        "/api/v1" => resources("", "v1"),
        "/apis/apps" => group("apps"),
        "/apis/apps/v1" => resources("apps", "apps/v1"),
        "/apis/events.k8s.io" => group("events.k8s.io"),
        "/apis/events.k8s.io/v1" => resources("events.k8s.io", "events.k8s.io/v1"),
        _ => return None,
    })
}

fn resources(group: &str, group_version: &str) -> Value {
    let all: Vec<Value> = Resource::ALL
        .into_iter()
        .filter(|one| one.group() == group)
        .map(|one| {
            json!({
                "name": one.plural(),
                "singularName": one.kind().to_lowercase(),
                "namespaced": one.is_namespaced(),
                "kind": one.kind(),
                "verbs": ["create", "delete", "get", "list", "patch", "watch"],
            })
        })
        .collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_resources() {
        let target = |path| Place::parse(path).and_then(Target::new);
        let namespaced = target("/api/v1/namespaces/shop/pods/a").unwrap();
        assert_eq!(namespaced.resource, Resource::Pods);
        assert_eq!((namespaced.namespace, namespaced.name), (Some("shop"), Some("a")));
        let namespace = target("/api/v1/namespaces/shop").unwrap();
        assert_eq!(namespace.resource, Resource::Namespaces);
        assert_eq!((namespace.namespace, namespace.name), (None, Some("shop")));
        let events = target("/apis/events.k8s.io/v1/namespaces/shop/events").unwrap();
        assert_eq!(events.resource, Resource::Events);
        let own = target("/apis/apps/v1/namespaces/holdfast/daemonsets/holdfast").unwrap();
        assert_eq!((own.resource, own.name), (Resource::DaemonSets, Some("holdfast")));
        assert!(target("/api/v1/bogus").is_none());
        assert!(target("/api/v1/namespaces/shop/pods/a/exec").is_none());
        assert!(target("/api/v1").is_none() && target("/version").is_none());
    }

    #[test]
    fn what_is_not_served_is_an_access_all_the_same() {
        let access = |path| Place::parse(path).unwrap().access("get");
        let secret = access("/api/v1/namespaces/shop/secrets/key");
        assert_eq!(secret.resource, "secrets");
        assert_eq!(
            (secret.namespace.as_deref(), secret.name.as_deref()),
            (Some("shop"), Some("key"))
        );
        assert_eq!(access("/api/v1/nodes/a/proxy").resource, "nodes/proxy");
        let namespace = access("/api/v1/namespaces/shop");
        assert_eq!(namespace.namespace, namespace.name);
    }

    #[test]
    fn a_merge_patch_removes_what_is_null_and_keeps_the_rest() {
        let mut object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"x": [1]}});
        merge(
            &mut object,
            &json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"x": [2]}}),
        );
        assert_eq!(
            object,
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"x": [2]}})
        );
    }
}
