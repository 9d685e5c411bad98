//! A pod as the API server sends it, as far as it is read: what nobody asks for is skipped while it
//! is parsed, and nothing that a tenant can repeat is taken more often than makes sense.
//!
//! An object of 1.5 MiB, the most that the API server stores, has room for hundreds of thousands of
//! empty arguments, variables or managed fields. The types of k8s-openapi take all of them, at ten to a
//! hundred times their size, which is more than the agent's memory for one pod.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1,
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Containers of one kind, of a pod: several times as many as anybody runs in one.
pub(super) const CONTAINERS: usize = 128;

/// Words, variables and ports of a container, and owners of a pod: several times as many as a mesh's
/// proxy has.
pub(super) const ENTRIES: usize = 256;

/// Labels or annotations. Of the latter the API server takes 256 KiB; labels have no limit of their own.
const TEXTS: usize = 16 * 1024;

/// A pod's object.
#[derive(Clone, Debug, Deserialize)]
pub struct PodObject {
    #[serde(default, deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Option<PodSpec>,
    pub(super) status: Option<PodStatus>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) host_network: Option<bool>,
    pub(super) security_context: Option<SecurityContext>,
    #[serde(default, deserialize_with = "first::<_, _, CONTAINERS>")]
    pub(super) init_containers: Vec<Container>,
    #[serde(default, deserialize_with = "first::<_, _, CONTAINERS>")]
    pub(super) containers: Vec<Container>,
    #[serde(default, deserialize_with = "first::<_, _, CONTAINERS>")]
    pub(super) ephemeral_containers: Vec<Named>,
}

/// A thing of which the name is all that matters.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) restart_policy: Option<String>,
    #[serde(default, deserialize_with = "first::<_, _, ENTRIES>")]
    pub(super) command: Vec<String>,
    #[serde(default, deserialize_with = "first::<_, _, ENTRIES>")]
    pub(super) args: Vec<String>,
    #[serde(default, deserialize_with = "first::<_, _, ENTRIES>")]
    pub(super) env: Vec<Variable>,
    #[serde(default, deserialize_with = "first::<_, _, ENTRIES>")]
    pub(super) ports: Vec<Port>,
    pub(super) security_context: Option<SecurityContext>,
    pub(super) startup_probe: Option<Probe>,
    pub(super) readiness_probe: Option<Probe>,
    pub(super) lifecycle: Option<Lifecycle>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) container_port: i32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecurityContext {
    pub(super) run_as_user: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lifecycle {
    pub(super) post_start: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    pub(super) http_get: Option<HttpGet>,
    pub(super) tcp_socket: Option<TcpSocket>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct HttpGet {
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) port: IntOrString,
    pub(super) scheme: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TcpSocket {
    pub(super) host: Option<String>,
    pub(super) port: IntOrString,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: Option<String>,
    #[serde(default, deserialize_with = "first::<_, _, CONTAINERS>")]
    pub(super) init_container_statuses: Vec<ContainerStatus>,
    #[serde(default, deserialize_with = "first::<_, _, CONTAINERS>")]
    pub(super) container_statuses: Vec<ContainerStatus>,
    #[serde(default, deserialize_with = "first::<_, _, CONTAINERS>")]
    pub(super) ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
    #[serde(default)]
    pub(super) ready: bool,
    pub(super) state: Option<ContainerState>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerState {
    pub(super) running: Option<IgnoredAny>,
}

/// What of an object's metadata is read, by us or by kube's watcher.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    #[serde(default, deserialize_with = "first_texts")]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "first_texts")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "first::<_, _, ENTRIES>")]
    owner_references: Vec<OwnerReference>,
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let Metadata {
        name,
        namespace,
        uid,
        resource_version,
        deletion_timestamp,
        labels,
        annotations,
        owner_references,
    } = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        deletion_timestamp,
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(owner_references),
        ..ObjectMeta::default()
    })
}

/// The first `MAX` of a list; those behind them are read and forgotten. Go writes an empty list as null.
fn first<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct First<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for First<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut first = Vec::new();
            while first.len() < MAX {
                let Some(one) = list.next_element()? else { return Ok(first) };
                first.push(one);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }

    deserializer.deserialize_any(First::<T, MAX>(PhantomData))
}

/// The first of labels or annotations.
fn first_texts<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Texts;

    impl<'de> Visitor<'de> for Texts {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("texts by their names")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut texts = BTreeMap::new();
            while texts.len() < TEXTS {
                let Some((name, text)) = map.next_entry::<_, Option<_>>()? else {
                    return Ok(texts);
                };
                texts.insert(name, text.unwrap_or_default());
            }
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(texts)
        }
    }

    deserializer.deserialize_any(Texts)
}

// === impl PodObject ===

impl Resource for PodObject {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        v1::Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        v1::Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        v1::Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        v1::Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> PodObject {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn of_what_can_be_repeated_no_more_is_taken_than_makes_sense() {
        let many = 100_000;
        let (words, variables) = (vec![""; many], vec![json!({"name": "a"}); many]);
        let ports = vec![json!({"containerPort": 1}); many];
        let labels: BTreeMap<_, _> = (0..many).map(|n| (n.to_string(), "")).collect();
        let container = json!({
            "name": "a", "command": words, "args": words, "env": variables, "ports": ports,
        });
        let bare = vec![json!({"name": "a"}); 1_000];
        let mut containers = bare.clone();
        containers[0] = container;
        let object = parsed(
            &json!({
                "metadata": {"labels": labels, "annotations": labels},
                "spec": {
                    "containers": containers, "initContainers": bare, "ephemeralContainers": bare,
                },
                "status": {
                    "containerStatuses": bare,
                    "initContainerStatuses": bare,
                    "ephemeralContainerStatuses": bare,
                },
            })
            .to_string(),
        );
        let texts = |texts: &Option<BTreeMap<String, String>>| texts.as_ref().map(BTreeMap::len);
        let ObjectMeta { labels, annotations, .. } = &object.metadata;
        assert_eq!([texts(labels), texts(annotations)], [Some(TEXTS); 2]);
        let (spec, status) = (object.spec.unwrap(), object.status.unwrap());
        let Container { command, args, env, ports, .. } = &spec.containers[0];
        assert_eq!([command.len(), args.len(), env.len(), ports.len()], [ENTRIES; 4]);
        assert_eq!(
            [spec.containers.len(), spec.init_containers.len(), spec.ephemeral_containers.len()],
            [CONTAINERS; 3]
        );
        assert_eq!(
            [
                status.container_statuses.len(),
                status.init_container_statuses.len(),
                status.ephemeral_container_statuses.len(),
            ],
            [CONTAINERS; 3]
        );
    }

    #[test]
    fn managed_fields_and_whatever_else_nobody_reads_are_skipped() {
        let deep = (0..100).fold(json!({}), |inner, _| json!({"f:a": inner}));
        let object = parsed(
            &json!({
                "metadata": {"name": "p", "managedFields": [{"fieldsV1": deep}], "finalizers": 7},
                "spec": {"volumes": "no list", "containers": null},
            })
            .to_string(),
        );
        assert_eq!(object.metadata.managed_fields, None);
        assert_eq!(object.metadata.name.as_deref(), Some("p"));
        assert!(object.spec.unwrap().containers.is_empty());
    }
}
