//! The pod as the API server has it before kubelet says anything: metadata and spec.

use serde_json::{Map, Value, json};

use super::{
    spec::{PROXY, PodSpec, REDIRECT_INIT},
    status::{IMAGE, now},
};
use crate::{cgroup::Qos, redirect::PROXY_ID};

/// The whole object but for `spec.nodeName` and kubelet's part of `status`.
pub(super) fn unscheduled(spec: &PodSpec, uid: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "uid": uid,
            "creationTimestamp": now(),
            "labels": labels(spec),
            "annotations": annotations(spec),
        },
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "schedulerName": "default-scheduler",
            "enableServiceLinks": true,
            "hostNetwork": spec.host_network,
            "securityContext": {},
            "initContainers": list(spec, &spec.all_init_containers(), true),
            "containers": list(spec, &spec.all_containers(), false),
        },
        "status": {"phase": "Pending", "qosClass": spec.qos.as_api()},
    })
}

fn labels(spec: &PodSpec) -> Map<String, Value> {
    let mut all = Map::from_iter([("app".to_owned(), json!(spec.name))]);
    if spec.meshed {
        all.insert("security.istio.io/tlsMode".into(), json!("istio"));
        all.insert("service.istio.io/canonical-name".into(), json!(spec.name));
        all.insert("service.istio.io/canonical-revision".into(), json!("latest"));
    }
    all.extend(spec.labels.iter().map(|(k, v)| (k.clone(), json!(v))));
    all
}

fn annotations(spec: &PodSpec) -> Map<String, Value> {
    let mut all = Map::new();
    if spec.meshed {
        // The injector's own record of what it added.
        let (init, main) = if spec.native_sidecar {
            (json!([REDIRECT_INIT, PROXY]), json!(null))
        } else {
            (json!([REDIRECT_INIT]), json!([PROXY]))
        };
        let record = json!({
            "initContainers": init,
            "containers": main,
            "volumes": ["workload-socket", "istio-envoy", "istio-data", "istio-token"],
            "imagePullSecrets": null,
            "revision": "default",
        });
        all.insert("sidecar.istio.io/status".into(), json!(record.to_string()));
        all.insert("istio.io/rev".into(), json!("default"));
        let redirect = &spec.redirect;
        if !redirect.exclude_cidrs.is_empty() {
            all.insert(
                "traffic.sidecar.istio.io/excludeOutboundIPRanges".into(),
                json!(redirect.exclude_cidrs.join(",")),
            );
        }
        if !redirect.exclude_ports.is_empty() {
            let ports: Vec<String> = redirect.exclude_ports.iter().map(u16::to_string).collect();
            all.insert(
                "traffic.sidecar.istio.io/excludeOutboundPorts".into(),
                json!(ports.join(",")),
            );
        }
    }
    all.extend(spec.annotations.iter().map(|(k, v)| (k.clone(), json!(v))));
    all
}

fn list(spec: &PodSpec, names: &[&str], init: bool) -> Vec<Value> {
    names
        .iter()
        .map(|name| match *name {
            PROXY => proxy(spec, init),
            REDIRECT_INIT => redirect_init(),
            name => json!({
                "name": name,
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "resources": resources(spec.qos),
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }),
        })
        .collect()
}

fn proxy(spec: &PodSpec, init: bool) -> Value {
    let probe = |period: u32, threshold: u32| {
        json!({
            "httpGet": {"path": "/healthz/ready", "port": 15021, "scheme": "HTTP"},
            "periodSeconds": period,
            "timeoutSeconds": 3,
            "successThreshold": 1,
            "failureThreshold": threshold,
        })
    };
    let mut container = json!({
        "name": PROXY,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["proxy", "sidecar", "--domain", format!("{}.svc.cluster.local", spec.namespace)],
        "env": [{"name": "ISTIO_META_APP_CONTAINERS", "value": spec.containers.join(",")}],
        "ports": [{"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}],
        "resources": resources(spec.qos),
        // Istio's defaults: ready is asked every 15 s, startup every second for ten minutes.
        "readinessProbe": probe(15, 4),
        "startupProbe": probe(1, 600),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "runAsUser": PROXY_ID,
            "runAsGroup": PROXY_ID,
            "runAsNonRoot": true,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    });
    if init {
        container["restartPolicy"] = json!("Always");
    }
    container
}

fn redirect_init() -> Value {
    json!({
        "name": REDIRECT_INIT,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT",
            "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020",
        ],
        "resources": {},
        "securityContext": {
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "runAsUser": 0,
            "runAsGroup": 0,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    })
}

fn resources(qos: Qos) -> Value {
    let amount = json!({"cpu": "10m", "memory": "40Mi"});
    match qos {
        Qos::Guaranteed => json!({"requests": amount, "limits": amount}),
        Qos::Burstable => json!({"requests": amount}),
        Qos::BestEffort => json!({}),
    }
}
