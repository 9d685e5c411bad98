//! Objects and events that are large, of another time, or of no sense.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::super::NAMESPACE;
use crate::{Node, Pod, api::Resource};

/// Times far from now.
pub(super) const FAR: [&str; 2] = ["2001-01-01T00:00:00Z", "2061-01-01T00:00:00Z"];

/// A quarter of it is annotations, which is what a real API server allows
/// (`TotalAnnotationSizeLimitB`); the rest are managed fields and environment.
const LARGE: usize = 1024 * 1024;

/// Containers of a large pod.
const CONTAINERS: usize = 100;

/// Empty arguments of a pod, 1.4 MiB of the 1.5 that an API server stores (etcd's `--max-request-bytes`):
/// two bytes each, and three as JSON.
const EMPTY_WORDS: usize = 700_000;

/// A pod of a node, with nothing to it.
pub(super) fn small(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running"},
    })
}

/// A pod of a node, of 1 MiB.
pub(super) fn large(name: &str, node: &str) -> Value {
    let mut pod = small(name, node);
    grow(&mut pod);
    pod
}

/// A pod of a node, with as many arguments as there can be.
pub(super) fn wordy(name: &str, node: &str) -> Value {
    let mut pod = small(name, node);
    pod["spec"]["containers"][0]["args"] = json!(vec![""; EMPTY_WORDS]);
    pod
}

/// Makes a pod one of 1 MiB.
pub(super) fn enlarge(node: &Node, pod: &Pod) -> Result<()> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let mut object = node
        .api()
        .get(Resource::Pods, Some(namespace), name)
        .context("the API does not know the pod")?;
    grow(&mut object);
    pod.patch(&json!({"metadata": object["metadata"], "spec": object["spec"]}));
    Ok(())
}

fn grow(pod: &mut Value) {
    let quarter = LARGE / 4;
    let metadata = &mut pod["metadata"];
    // Many small ones and a large one.
    for n in 0..1_000 {
        metadata["annotations"][format!("example.com/note-{n}")] =
            json!("x".repeat(quarter / 2_000));
    }
    metadata["annotations"]["example.com/all"] = json!("y".repeat(quarter / 2));
    metadata["managedFields"] = json!([{
        "manager": "kubectl", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"z".repeat(quarter): {}}},
    }]);
    if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
        let value = "e".repeat(2 * quarter / CONTAINERS);
        containers.extend((0..CONTAINERS).map(|n| {
            json!({
                "name": format!("more-{n}"), "image": "app",
                "env": [{"name": "BLOB", "value": value}],
            })
        }));
    }
}

/// Makes a pod one of another time.
pub(super) fn misdate(_: &Node, pod: &Pod) -> Result<()> {
    // Both of them in each round: a pod has one of each.
    let [past, future] = FAR;
    pod.patch(&json!({
        "metadata": {"creationTimestamp": past},
        "status": {"startTime": future},
    }));
    Ok(())
}

/// Lines for a watch of pods, around a pod that waits.
pub(super) fn odd(pod: &Value) -> Vec<String> {
    let event = |kind: &str, object: &Value| json!({"type": kind, "object": object}).to_string();
    let with = |change: fn(&mut Value)| {
        let mut object = pod.clone();
        change(&mut object);
        object
    };
    let earlier = with(|pod| {
        pod["metadata"]["resourceVersion"] = json!("1");
        pod["status"] = json!({"phase": "Pending"});
    });
    let unknown = with(|pod| {
        pod["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
        pod["metadata"]["name"] = json!("nobody");
    });
    let nameless = with(|pod| {
        for field in ["uid", "namespace"] {
            if let Some(metadata) = pod["metadata"].as_object_mut() {
                metadata.remove(field);
            }
        }
    });
    let node = with(|pod| pod["kind"] = json!("Node"));
    vec![
        // Twice, and older than what was said before.
        event("ADDED", pod),
        event("ADDED", pod),
        event("MODIFIED", &earlier),
        event("MODIFIED", pod),
        event("MODIFIED", &earlier),
        // Of a pod that nobody has heard of: changed, gone, gone again, changed after its end.
        event("MODIFIED", &unknown),
        event("DELETED", &unknown),
        event("DELETED", &unknown),
        event("MODIFIED", &unknown),
        event("DELETED", &unknown),
        event("ADDED", &nameless),
        event("DELETED", &nameless),
        bookmark(),
        event("ADDED", &node),
    ]
}

/// A bookmark for a watch of pods, with a version that no server knows.
pub(super) fn bookmark() -> String {
    let object = json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "nonsense"},
    });
    json!({"type": "BOOKMARK", "object": object}).to_string()
}

/// Lines for a watch of namespaces.
pub(super) fn odd_namespaces() -> Vec<String> {
    let namespace = |name: &str| {
        json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"name": name, "resourceVersion": "1"},
        })
    };
    let event = |kind: &str, object: &Value| json!({"type": kind, "object": object}).to_string();
    vec![
        event("DELETED", &namespace("nowhere")),
        event("DELETED", &namespace("nowhere")),
        event("BOGUS", &namespace("nowhere")),
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":".to_owned(),
    ]
}
