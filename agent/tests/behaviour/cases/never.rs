//! Whom never to hold, whatever the labels say.

use serde_json::json;

use super::{APP, Case, case, pod, starts, then};
use crate::{
    kernel::Answer::{Held, Passes},
    scene::Step,
};

pub(super) fn cases() -> Vec<Case> {
    let istio = || pod("istio-classic");
    let steps = || starts(&[APP]);
    vec![
        case(
            "`hostNetwork: true`",
            istio().change(json!({"spec": {"hostNetwork": true}})),
            steps(),
            Passes,
            "no mesh redirects it, and a mistake would hit the node's traffic",
        ),
        case(
            "host network seen before the API tells",
            istio(),
            [Step::Cgroup, Step::Starts(APP), Step::OnHostNetwork],
            Passes,
            "its process is in the node's network namespace",
        ),
        case(
            "namespace `kube-system`",
            istio().change(json!({"metadata": {"namespace": "kube-system"}})),
            steps(),
            Passes,
            "a node must be able to start",
        ),
        case(
            "namespace `istio-system`",
            istio().change(json!({"metadata": {"namespace": "istio-system"}})),
            steps(),
            Passes,
            "the control plane is what readiness waits for",
        ),
        case(
            "namespace `linkerd`",
            pod("linkerd-classic").change(json!({"metadata": {"namespace": "linkerd"}})),
            steps(),
            Passes,
            "the control plane is what readiness waits for",
        ),
        case("the agent's own pod", istio().own(), steps(), Passes, "it opens the others' gates"),
        case(
            "a pod that is being deleted",
            istio().change(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            steps(),
            Passes,
            "its proxy drains: not ready means something else",
        ),
        case(
            "a pod of which all containers have ended",
            istio().change(json!({"status": {"phase": "Succeeded"}})),
            steps(),
            Passes,
            "nothing runs in it",
        ),
        case("a pod without a proxy", pod("plain"), steps(), Passes, "nothing to wait for"),
        case(
            "Istio ambient",
            pod("istio-ambient"),
            steps(),
            Passes,
            "ztunnel serves it from outside the pod",
        ),
        case(
            "Istio with `interceptionMode: NONE`",
            pod("istio-none"),
            steps(),
            Passes,
            "nothing is redirected",
        ),
        case(
            "Kuma with its outbound redirect switched off",
            pod("kuma-native").annotation(
                "traffic.kuma.io/transparent-proxy-config",
                "redirect:\n  outbound:\n    enabled: false\n",
            ),
            steps(),
            Passes,
            "nothing is redirected",
        ),
        case(
            "Consul without transparent proxy",
            pod("consul-upstreams"),
            steps(),
            Passes,
            "the application dials ports that only it knows; `holdfast.dev/ports` can name them",
        ),
        case(
            "an Istio gateway",
            pod("gateway"),
            starts(&["istio-proxy"]),
            Passes,
            "the proxy is the application",
        )
        .of("istio-proxy"),
        case(
            "a container named `istio-proxy` without Istio's mark",
            istio().change(json!({"metadata": {
                "annotations": {"sidecar.istio.io/status": null},
                "labels": {"security.istio.io/tlsMode": null},
            }})),
            steps(),
            Passes,
            "a name alone is nobody's proxy",
        ),
        case(
            "enabled, and only later deleted",
            istio(),
            then(
                steps(),
                [Step::Change(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))],
            ),
            Passes,
            "the gate opens at once",
        ),
        case(
            "the API has no pod of this name any more",
            istio(),
            then(steps(), [Step::Deleted]),
            Passes,
            "nobody is left to hold it for",
        ),
        case(
            "a pod of the control plane's name in another namespace",
            istio().change(json!({"metadata": {"name": "istiod"}})),
            steps(),
            Held,
            "namespaces count, not names",
        ),
    ]
}
