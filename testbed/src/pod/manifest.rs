//! The pod as the API server has it before kubelet says anything: metadata and spec.

mod marks;
mod proxy;
mod setup;

use serde_json::{Value, json};

use super::{
    spec::{PodSpec, Role},
    status::{IMAGE, now},
};
use crate::{cgroup::Qos, mesh::Mesh};

/// The whole object but for `spec.nodeName` and kubelet's part of `status`.
pub(super) fn unscheduled(spec: &PodSpec, uid: &str, static_hash: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "uid": uid,
            "creationTimestamp": now(),
            "labels": marks::labels(spec),
            "annotations": marks::annotations(spec),
        },
        "spec": {
            "restartPolicy": spec.restart_policy.as_api(),
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "schedulerName": "default-scheduler",
            "enableServiceLinks": true,
            "securityContext": {},
            "containers": spec
                .all_containers()
                .into_iter()
                .map(|name| container(spec, name, Role::Main))
                .collect::<Vec<_>>(),
        },
        "status": {"phase": "Pending", "qosClass": spec.qos.as_api()},
    });
    let init = spec.all_init_containers();
    if !init.is_empty() {
        let init: Vec<Value> =
            init.into_iter().map(|(name, role)| container(spec, name, role)).collect();
        object["spec"]["initContainers"] = json!(init);
    }
    // The API server leaves a false one out.
    if spec.host_network {
        object["spec"]["hostNetwork"] = json!(true);
    }
    if let Some(fields) = &spec.managed_fields {
        object["metadata"]["managedFields"] = fields.clone();
    }
    if let Some(hash) = static_hash {
        marks::mirror(&mut object, hash);
    }
    object
}

/// A container as it stands in the lists of the spec.
pub(super) fn container(spec: &PodSpec, name: &str, role: Role) -> Value {
    let mut container = json!({
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "resources": resources(spec.qos),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    });
    let further = match spec.mesh {
        Some(mesh) if mesh.proxy() == name => proxy::fields(spec, mesh),
        Some(mesh) if mesh.init() == Some(name) => setup::fields(spec, mesh),
        _ => json!({}),
    };
    if let (Some(container), Value::Object(further)) = (container.as_object_mut(), further) {
        container.extend(further);
    }
    if role == Role::Sidecar {
        container["restartPolicy"] = json!("Always");
    }
    container
}

fn resources(qos: Qos) -> Value {
    let amount = json!({"cpu": "10m", "memory": "40Mi"});
    match qos {
        Qos::Guaranteed => json!({"requests": amount, "limits": amount}),
        Qos::Burstable => json!({"requests": amount}),
        Qos::BestEffort => json!({}),
    }
}

/// What runs as a user of its own, without any right.
fn unprivileged(uid: u32, gid: u32) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": uid,
        "runAsGroup": gid,
        "runAsNonRoot": uid != 0,
    })
}

fn env(all: &[(&str, String)]) -> Value {
    all.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

fn http_probe(mesh_path: &str, port: u16, period: u32, threshold: u32) -> Value {
    json!({
        "httpGet": {"path": mesh_path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "successThreshold": 1,
        "failureThreshold": threshold,
    })
}

/// Whether kubelet waits for an answer before it calls this container ready.
pub(super) fn has_probes(spec: &PodSpec, name: &str) -> bool {
    spec.mesh.is_some_and(|mesh: Mesh| mesh.proxy() == name && mesh.has_probes())
}
