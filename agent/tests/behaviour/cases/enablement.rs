//! Whose choice it is.

use super::{APP, Case, case, pod, ready, seconds, starts, then};
use crate::{
    kernel::Answer::{Held, Observed, Passes},
    scene::Step,
};

const ISTIO_CONFIG: &str = "proxy.istio.io/config";
const HOLD: &str = "holdfast.dev/hold";

pub(super) fn cases() -> Vec<Case> {
    let istio = || pod("istio-classic");
    let unlabelled = |name| pod(name).labels(&[]);
    let steps = || starts(&[APP]);
    let mut cases = vec![
        case("namespace labelled `enabled`", istio(), steps(), Held, "the label enables it"),
        case("nothing labelled", unlabelled("istio-classic"), steps(), Passes, "opt-in"),
        case(
            "namespace labelled `disabled`",
            istio().labels(&[(HOLD, "disabled")]),
            steps(),
            Passes,
            "the label says no",
        ),
        case(
            "pod labelled `enabled` in a namespace without label",
            unlabelled("istio-classic").label(HOLD, "enabled"),
            steps(),
            Held,
            "the pod's label wins",
        ),
        case(
            "pod labelled `enabled` in a namespace labelled `disabled`",
            istio().labels(&[(HOLD, "disabled")]).label(HOLD, "enabled"),
            steps(),
            Held,
            "the pod's label wins",
        ),
        case(
            "pod labelled `disabled` in an enabled namespace",
            istio().label(HOLD, "disabled"),
            steps(),
            Passes,
            "the pod's label wins",
        ),
        case(
            "pod labelled `on`",
            istio().label(HOLD, "on"),
            steps(),
            Held,
            "not a value: the namespace's counts, and a warning says so",
        ),
        case(
            "namespace labelled `true`",
            istio().labels(&[(HOLD, "true")]),
            steps(),
            Passes,
            "not a value: the default counts, and a warning says so",
        ),
        case(
            "nothing labelled, agent with `hold: enabled`",
            unlabelled("istio-classic").config("hold: enabled"),
            steps(),
            Held,
            "opt-out cluster",
        ),
        case(
            "namespace labelled `disabled`, agent with `hold: enabled`",
            istio().labels(&[(HOLD, "disabled")]).config("hold: enabled"),
            steps(),
            Passes,
            "opted out",
        ),
        case(
            "Istio's `holdApplicationUntilProxyStarts: true`, nothing labelled",
            unlabelled("istio-classic")
                .annotation(ISTIO_CONFIG, "{\"holdApplicationUntilProxyStarts\": true}"),
            steps(),
            Held,
            "the mesh's own wish is the pod's",
        ),
        case(
            "Istio's `holdApplicationUntilProxyStarts: false` in an enabled namespace",
            istio().annotation(ISTIO_CONFIG, "holdApplicationUntilProxyStarts: false"),
            steps(),
            Passes,
            "the pod's own wish wins over the namespace's label",
        ),
        case(
            "Istio's wish says no, the pod's label `enabled`",
            istio().change(serde_json::json!({"metadata": {
                "labels": {HOLD: "enabled"},
                "annotations": {ISTIO_CONFIG: "holdApplicationUntilProxyStarts: false"},
            }})),
            steps(),
            Held,
            "holdfast's own label wins over a mesh's wish",
        ),
        case(
            "Linkerd's `proxy-await: enabled`, nothing labelled",
            unlabelled("linkerd-native").annotation("config.linkerd.io/proxy-await", "enabled"),
            steps(),
            Held,
            "the mesh's own wish is the pod's",
        ),
        case(
            "Linkerd's `proxy-await: disabled` in an enabled namespace",
            pod("linkerd-native").annotation("config.linkerd.io/proxy-await", "disabled"),
            steps(),
            Passes,
            "the pod's own wish wins over the namespace's label",
        ),
        case(
            "Linkerd's `proxy-await: disabled` on an enabled namespace",
            pod("linkerd-native")
                .annotation("config.linkerd.io/proxy-await", "disabled")
                .namespace_annotation("config.linkerd.io/proxy-await", "disabled"),
            steps(),
            Held,
            "the injector copies it onto the pods, and the namespace's label wins over its annotation",
        ),
        case(
            "Kuma's `wait-for-dataplane-ready: true`, nothing labelled",
            unlabelled("kuma-native").annotation("kuma.io/wait-for-dataplane-ready", "true"),
            steps(),
            Held,
            "the mesh's own wish is the pod's",
        ),
        case(
            "FSM's `hold-application-until-proxy-starts` on the namespace",
            unlabelled("fsm")
                .namespace_annotation("flomesh.io/hold-application-until-proxy-starts", "true"),
            steps(),
            Held,
            "FSM has it on namespaces, too",
        ),
        case(
            "Istio's wish, agent with `mesh-wishes: disabled`",
            unlabelled("istio-classic")
                .annotation(ISTIO_CONFIG, "holdApplicationUntilProxyStarts: true")
                .config("mesh-wishes: disabled"),
            steps(),
            Passes,
            "the operator has switched the meshes' wishes off",
        ),
    ];
    cases.extend(observed());
    cases
}

/// The agent looks at pods that nobody enabled.
fn observed() -> Vec<Case> {
    let observe = |given: crate::scene::Given| given.config("observe: enabled");
    let unlabelled = || observe(pod("istio-classic").labels(&[]));
    let steps = || starts(&[APP]);
    vec![
        case(
            "nothing labelled, agent with `observe: enabled`",
            unlabelled(),
            steps(),
            Observed,
            "nothing waits; holdfast report tells what would have",
        ),
        case(
            "the same, and the proxy is ready",
            unlabelled(),
            ready(&["istio-proxy", APP]),
            Passes,
            "no program is on the pod any more",
        ),
        case(
            "the same with `mode: refuse` and `on-timeout: refuse`, and the timeout has passed",
            observe(pod("istio-classic").labels(&[])).change(serde_json::json!({"metadata": {
                "annotations": {"holdfast.dev/mode": "refuse", "holdfast.dev/on-timeout": "refuse"},
            }})),
            then(steps(), [Step::Held(APP), seconds(70)]),
            Passes,
            "who only looks refuses nobody",
        ),
        case(
            "`observe: enabled`, and the API tells of the pod after its first connect",
            unlabelled(),
            [Step::Cgroup, Step::Starts(APP), Step::Held(APP), Step::Told],
            Observed,
            "what was held in case is sent again, and nothing more is held",
        ),
        case(
            "pod labelled `disabled`, agent with `observe: enabled`",
            unlabelled().label(HOLD, "disabled"),
            steps(),
            Passes,
            "it says no: nobody looks at it",
        ),
        case(
            "namespace labelled `disabled`, agent with `observe: enabled`",
            observe(pod("istio-classic").labels(&[(HOLD, "disabled")])),
            steps(),
            Passes,
            "it says no: nobody looks at its pods",
        ),
        case(
            "namespace labelled `enabled`, agent with `observe: enabled`",
            observe(pod("istio-classic")),
            steps(),
            Held,
            "the label enables it",
        ),
    ]
}
