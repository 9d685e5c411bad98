//! Which containers of a pod that is held.

use serde_json::{Value, json};

use super::{APP, Case, case, pod, starts, then};
use crate::{
    kernel::Answer::{Held, Passes, PassesReported},
    scene::Step,
};

/// The pod's init containers.
fn init(containers: &Value) -> Value {
    json!({"spec": {"initContainers": containers}})
}

fn container(name: &str) -> Value {
    json!({"name": name, "image": "app"})
}

fn sidecar(name: &str) -> Value {
    json!({"name": name, "image": "app", "restartPolicy": "Always"})
}

fn slow_sidecar(name: &str) -> Value {
    json!({
        "name": name, "image": "app", "restartPolicy": "Always",
        "startupProbe": {"httpGet": {"port": 8200, "path": "/"}},
    })
}

pub(super) fn cases() -> Vec<Case> {
    let classic = |containers: &Value| pod("istio-classic").change(init(containers));
    let native = |before: &[Value], after: &[Value]| {
        let mut all = before.to_vec();
        all.push(sidecar("istio-proxy"));
        all.extend_from_slice(after);
        pod("istio-native").change(json!({"spec": {
            "initContainers": all, "containers": [container(APP)],
        }}))
    };
    let ephemeral = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "app"}]}});
    vec![
        case(
            "an ordinary init container in front of a classic proxy",
            classic(&json!([container("migrate")])),
            starts(&["migrate"]),
            PassesReported,
            "the proxy starts after its end: a hold would never end",
        )
        .of("migrate"),
        case(
            "an ordinary init container behind a native sidecar",
            native(&[], &[container("migrate")]),
            starts(&["istio-proxy", "migrate"]),
            Held,
            "the proxy is there, or about to be",
        )
        .of("migrate"),
        case(
            "an ordinary init container in front of a native sidecar",
            native(&[container("fetch")], &[]),
            starts(&["fetch"]),
            PassesReported,
            "the proxy starts after its end: a hold would never end",
        )
        .of("fetch"),
        case(
            "another native sidecar behind the proxy",
            native(&[], &[sidecar("shipper")]),
            starts(&["istio-proxy", "shipper"]),
            Held,
            "the proxy is there, or about to be",
        )
        .of("shipper"),
        case(
            "another native sidecar in front of the proxy, without a startup probe",
            native(&[sidecar("vault")], &[]),
            starts(&["vault"]),
            Held,
            "kubelet does not wait for it, so the proxy comes",
        )
        .of("vault"),
        case(
            "another native sidecar in front of the proxy, with a startup probe",
            native(&[slow_sidecar("vault")], &[]),
            starts(&["vault"]),
            PassesReported,
            "kubelet waits for it before it starts the proxy",
        )
        .of("vault"),
        case(
            "an ephemeral container",
            pod("istio-classic").change(ephemeral),
            starts(&["debug"]),
            Held,
            "it needs the proxy like any other",
        )
        .of("debug"),
        case(
            "a container that nothing has named yet",
            pod("istio-classic"),
            then(starts(&[]), [Step::StartsUnnamed(APP)]),
            Held,
            "being wrong costs a delay",
        ),
        case(
            "the proxy, once the API names it",
            pod("istio-classic"),
            then(
                starts(&[]),
                [Step::StartsUnnamed("istio-proxy"), Step::Kubelet("istio-proxy", false)],
            ),
            Passes,
            "what it sent until then is sent again",
        )
        .of("istio-proxy"),
        case(
            "a container that the pod's object does not have",
            pod("istio-classic"),
            starts(&["unheard-of"]),
            Held,
            "being wrong costs a delay",
        )
        .of("unheard-of"),
        case(
            "the pause container",
            pod("istio-classic"),
            starts(&[]),
            Passes,
            "it connects to nobody",
        )
        .of(""),
        case(
            "an application of which the API has not told",
            pod("istio-classic"),
            [Step::Cgroup, Step::Starts(APP)],
            Held,
            "being wrong costs a delay",
        ),
        case(
            "`linkerd-init` of a pod of which the API has not told",
            pod("linkerd-native"),
            [Step::Cgroup, Step::Starts("linkerd-init")],
            Passes,
            "its OCI bundle names it",
        )
        .of("linkerd-init"),
    ]
}
