//! The objects that a case is made of on a cluster.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Map, Value, json};
use testpod::{ClientArgs, Part};

use crate::{
    e2e::{APP, Case, Order, SETUP, case::STATE_DIR},
    mesh::Mesh,
};

/// By which the pod of a case is found, also a Job's.
pub(super) const CASE_LABEL: &str = "holdfast-e2e-case";

/// Anybody but root and the proxies.
const APP_USER: u32 = 65534;

/// Of so many nodes the scheduler has one to choose: there may be thousands.
const NODES: usize = 16;

/// The volume at [`STATE_DIR`].
const STATE: &str = "state";

/// What is created for a case.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Workload {
    /// A pod.
    Pod(Box<Pod>),
    /// A Job that makes the pod.
    Job(Box<Job>),
}

/// The objects of `case` in `namespace`, with containers of `image`, for one of `nodes`.
pub(super) fn workload(
    case: &Case,
    namespace: &str,
    image: &str,
    nodes: &[&str],
) -> Result<Workload, serde_json::Error> {
    let pod = pod(case, image, nodes);
    let name = json!({"name": case.name, "namespace": namespace});
    if !case.is_job {
        let mut pod = pod;
        merge(&mut pod["metadata"], name);
        return Ok(Workload::Pod(serde_json::from_value(pod)?));
    }
    let job = json!({"metadata": name, "spec": {"backoffLimit": 0, "template": pod}});
    Ok(Workload::Job(serde_json::from_value(job)?))
}

/// Metadata and spec; all that the strictest of the Pod Security Standards asks for.
fn pod(case: &Case, image: &str, nodes: &[&str]) -> Value {
    let proxy = proxy(case, image);
    let app = container(APP, image, &Part::Client(case.client.clone()), APP_USER);
    let mut init = Vec::new();
    let containers = match case.order {
        Order::AppFirst => vec![app, proxy],
        Order::PostStart => vec![proxy, app],
        Order::Native => {
            init.push(proxy);
            vec![app]
        }
    };
    init.extend(
        case.init.as_ref().map(|args: &ClientArgs| {
            container(SETUP, image, &Part::Client(args.clone()), APP_USER)
        }),
    );
    let mut labels = map(&case.labels);
    let mut annotations = map(&case.annotations);
    labels.insert(CASE_LABEL.to_owned(), json!(case.name));
    if case.mesh == Mesh::Istio {
        // What Istio's injector leaves behind, and what keeps one that is there from its work.
        labels.insert("security.istio.io/tlsMode".to_owned(), json!("istio"));
        labels.insert("sidecar.istio.io/inject".to_owned(), json!("false"));
        let status = json!({"initContainers": null, "containers": [case.mesh.proxy()]});
        annotations.insert("sidecar.istio.io/status".to_owned(), json!(status.to_string()));
    }
    let restart = if case.is_job { "Never" } else { "Always" };
    let mut spec = json!({
        "restartPolicy": restart,
        // They end by themselves when they are told to.
        "terminationGracePeriodSeconds": 2,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "affinity": {"nodeAffinity": on(nodes)},
        // As the agents do: where one is ready, there is no reason to stay away.
        "tolerations": [{"operator": "Exists"}],
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": containers,
    });
    if !init.is_empty() {
        spec["initContainers"] = json!(init);
    }
    if case.proxy.die_once.is_some() {
        spec["volumes"] = json!([{"name": STATE, "emptyDir": {}}]);
    }
    json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec})
}

/// Any of the nodes, by the names of their objects, as a DaemonSet's controller has it: a node's label
/// `kubernetes.io/hostname` may differ from its name.
fn on(nodes: &[&str]) -> Value {
    let terms: Vec<Value> = nodes
        .iter()
        .take(NODES)
        // One value each is all that a match by a field may have; one term of several has to match.
        .map(|node| {
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]})
        })
        .collect();
    json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}})
}

fn proxy(case: &Case, image: &str) -> Value {
    let mesh = case.mesh;
    let part = Part::Proxy(case.proxy.clone());
    // An own proxy has no user by which it could be told apart.
    let user = if mesh == Mesh::Own { APP_USER } else { mesh.user().uid };
    let mut proxy = container(mesh.proxy(), image, &part, user);
    let get = json!({"path": case.proxy.ready_path, "port": case.proxy.ready_port});
    // As Istio's injector has them. Without a probe kubelet would call it ready when it starts.
    proxy["startupProbe"] = json!({"httpGet": get, "periodSeconds": 1, "failureThreshold": 600});
    proxy["readinessProbe"] = json!({"httpGet": get, "periodSeconds": 15});
    if case.order == Order::PostStart {
        proxy["lifecycle"] = json!({"postStart": {"exec": {"command": ["/holdfast", "wait"]}}});
    }
    if case.order == Order::Native {
        proxy["restartPolicy"] = json!("Always");
    }
    if case.proxy.die_once.is_some() {
        proxy["volumeMounts"] = json!([{"name": STATE, "mountPath": STATE_DIR}]);
    }
    proxy
}

fn container(name: &str, image: &str, part: &Part, user: u32) -> Value {
    json!({
        "name": name,
        "image": image,
        // It was imported, or pulled for the agent.
        "imagePullPolicy": "IfNotPresent",
        "args": part.arguments(),
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsUser": user,
            "runAsGroup": user,
        },
    })
}

fn map(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
}

fn merge(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;
    use crate::e2e::cases;

    const IMAGE: &str = "registry.example.com/holdfast:1";

    fn case(name: &str) -> Case {
        cases().into_iter().find(|case| case.name == name).unwrap()
    }

    fn pod_of(name: &str) -> Pod {
        match workload(&case(name), "e2e", IMAGE, &["node1"]).unwrap() {
            Workload::Pod(pod) => *pod,
            Workload::Job(_) => panic!("{name} is a Job"),
        }
    }

    fn spec(name: &str) -> PodSpec {
        pod_of(name).spec.unwrap()
    }

    fn names(containers: &[Container]) -> Vec<&str> {
        containers.iter().map(|container| container.name.as_str()).collect()
    }

    #[test]
    fn every_field_is_one_that_the_api_has() {
        for case in cases() {
            let raw = pod(&case, IMAGE, &["node1"]);
            let mut typed =
                serde_json::to_value(serde_json::from_value::<Pod>(raw.clone()).unwrap()).unwrap();
            for field in ["apiVersion", "kind"] {
                typed.as_object_mut().unwrap().remove(field);
            }
            // A field that is misspelt is lost on the way, one of a wrong type does not get there.
            assert_eq!(typed, raw, "{}", case.name);
            workload(&case, "e2e", IMAGE, &["node1"]).unwrap();
        }
    }

    #[test]
    fn containers_are_in_the_order_that_the_case_is_about() {
        let classic = spec("classic-sidecar");
        assert_eq!(names(&classic.containers), ["app", "istio-proxy"]);
        assert_eq!(classic.init_containers, None);
        let hook = spec("poststart-sidecar");
        assert_eq!(names(&hook.containers), ["istio-proxy", "app"]);
        let command = hook.containers[0].lifecycle.clone().unwrap().post_start.unwrap();
        let command = command.exec.unwrap().command.unwrap();
        assert_eq!(command, ["/holdfast", "wait"]);
        let native = spec("native-sidecar");
        let init = native.init_containers.unwrap();
        assert_eq!(names(&init), ["istio-proxy"]);
        assert_eq!(init[0].restart_policy.as_deref(), Some("Always"));
        assert_eq!(names(&native.containers), ["app"]);
        let init = spec("init-container");
        assert_eq!(names(&init.init_containers.unwrap()), ["setup"]);
        assert_eq!(names(&init.containers), ["app", "istio-proxy"]);
    }

    #[test]
    fn a_proxy_is_ready_when_its_endpoint_says_so() {
        for case in cases() {
            let raw = pod(&case, IMAGE, &["node1"]);
            let all = [&raw["spec"]["containers"], &raw["spec"]["initContainers"]];
            let all: Vec<&Value> = all.into_iter().filter_map(Value::as_array).flatten().collect();
            let proxy = all.iter().find(|one| one["name"] == case.mesh.proxy()).unwrap();
            for probe in ["startupProbe", "readinessProbe"] {
                let get = &proxy[probe]["httpGet"];
                assert_eq!(get["port"], case.proxy.ready_port);
                assert_eq!(get["path"], case.proxy.ready_path.as_str());
            }
            assert!(all.iter().all(|one| one["image"] == IMAGE));
            assert!(all.iter().all(|one| one["imagePullPolicy"] == "IfNotPresent"));
            assert!(all.iter().all(|one| one["args"][0] == "testpod"));
        }
    }

    #[test]
    fn pods_carry_what_makes_them_meshed_and_chosen() {
        let pod = pod_of("opted-out");
        let labels = pod.metadata.labels.unwrap();
        assert_eq!(labels["holdfast.dev/hold"], "disabled");
        assert_eq!(labels[CASE_LABEL], "opted-out");
        assert_eq!(labels["security.istio.io/tlsMode"], "istio");
        assert!(pod.metadata.annotations.unwrap().contains_key("sidecar.istio.io/status"));
        let own = pod_of("own-proxy").metadata;
        assert_eq!(own.annotations.unwrap()["holdfast.dev/proxy"], "bridge");
        assert!(!own.labels.unwrap().contains_key("security.istio.io/tlsMode"));
    }

    #[test]
    fn a_proxy_that_dies_once_keeps_that_in_a_volume() {
        let spec = spec("proxy-restart-guarded");
        assert!(spec.volumes.unwrap()[0].empty_dir.is_some());
        let proxy = &spec.containers[1];
        assert_eq!(proxy.volume_mounts.as_ref().unwrap()[0].mount_path, STATE_DIR);
        let args = proxy.args.as_ref().unwrap();
        assert!(args.contains(&format!("--die-once={STATE_DIR}/died")), "{args:?}");
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    }

    #[test]
    fn pods_go_to_nodes_with_agents_whatever_keeps_others_away() {
        let names: Vec<String> = (0..NODES + 3).map(|number| format!("node{number}")).collect();
        let nodes: Vec<&str> = names.iter().map(String::as_str).collect();
        let spec: PodSpec =
            serde_json::from_value(pod(&case("job"), IMAGE, &nodes)["spec"].clone()).unwrap();
        let affinity = spec.affinity.unwrap().node_affinity.unwrap();
        let required = affinity.required_during_scheduling_ignored_during_execution.unwrap();
        assert_eq!(required.node_selector_terms.len(), NODES);
        let fields = required.node_selector_terms[1].match_fields.clone().unwrap();
        assert_eq!(fields[0].key, "metadata.name");
        assert_eq!(fields[0].values, Some(vec!["node1".to_owned()]));
        let toleration = &spec.tolerations.unwrap()[0];
        assert_eq!(toleration.operator.as_deref(), Some("Exists"));
        assert_eq!((&toleration.key, &toleration.effect), (&None, &None));
    }

    #[test]
    fn a_job_has_one_try() {
        let Workload::Job(job) = workload(&case("job"), "e2e", IMAGE, &["node1"]).unwrap() else {
            panic!("the Job is a pod");
        };
        assert_eq!(job.metadata.namespace.as_deref(), Some("e2e"));
        let spec = job.spec.unwrap();
        assert_eq!(spec.backoff_limit, Some(0));
        let template = spec.template;
        assert_eq!(template.metadata.unwrap().labels.unwrap()[CASE_LABEL], "job");
        assert_eq!(template.spec.unwrap().restart_policy.as_deref(), Some("Never"));
    }
}
