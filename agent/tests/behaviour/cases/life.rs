//! The moments of a pod's life.

use serde_json::json;

use super::{APP, Case, case, pod, ready, seconds, starts, then};
use crate::{
    kernel::Answer::{Guarded, Held, Passes, Refused},
    scene::Step,
};
use holdfast::core::RefuseErrno;

const HOLD: &str = "holdfast.dev/hold";

pub(super) fn cases() -> Vec<Case> {
    let open = || pod("istio-classic").annotation("holdfast.dev/guard", "disabled");
    let guarded = || pod("istio-classic").annotation("holdfast.dev/guard", "enabled");
    let both = || ["istio-proxy", APP];
    let mut cases = starting(&open);
    cases.extend([
        case(
            "the proxy is ready, guard off",
            open(),
            ready(&both()),
            Passes,
            "open means gone: no program is on the pod",
        ),
        case(
            "the proxy is ready, guard on",
            guarded(),
            ready(&both()),
            Guarded,
            "the gate stays and looks for a listener",
        ),
        case(
            "a probe fails later",
            open(),
            then(ready(&both()), [Step::Probe(false)]),
            Passes,
            "a busy proxy is not a dead one",
        ),
        case(
            "the proxy's container ends, guard off",
            open(),
            then(ready(&both()), [Step::Ends("istio-proxy")]),
            Held,
            "its cgroup has no process any more",
        ),
        case(
            "the proxy's container ends, guard on",
            guarded(),
            then(ready(&both()), [Step::Ends("istio-proxy")]),
            Held,
            "its cgroup has no process any more",
        ),
        case(
            "nobody listens although the proxy's container runs, guard on",
            guarded(),
            then(ready(&both()), [Step::Held(APP)]),
            Held,
            "the kernel found no listener for a connect",
        ),
        case(
            "the proxy's new container has started and is not ready",
            open(),
            then(ready(&both()), [Step::Ends("istio-proxy"), Step::Starts("istio-proxy")]),
            Held,
            "running is not ready",
        ),
        case(
            "the proxy's new container is ready",
            open(),
            then(
                ready(&both()),
                [
                    Step::Ends("istio-proxy"),
                    Step::Starts("istio-proxy"),
                    Step::Probe(true),
                    seconds(5),
                ],
            ),
            Passes,
            "as at the start",
        ),
        case(
            "kubelet still calls the dead proxy ready",
            open(),
            then(
                starts(&both()),
                [
                    Step::Kubelet("istio-proxy", true),
                    seconds(5),
                    Step::Ends("istio-proxy"),
                    Step::Change(json!({"metadata": {"labels": {"touched": "yes"}}})),
                ],
            ),
            Held,
            "its word is about a container that has ended",
        ),
        case(
            "the proxy has not come back within the timeout",
            open(),
            then(ready(&both()), [Step::Ends("istio-proxy"), Step::Held(APP), seconds(70)]),
            Passes,
            "a death has its own budget, and it is spent",
        ),
        case(
            "the proxy ends after the application has (a Job)",
            open(),
            then(ready(&both()), [Step::Ends(APP), Step::Ends("istio-proxy")]),
            Passes,
            "nobody is left to wait",
        ),
        case(
            "the application starts anew while the proxy is dead",
            open(),
            then(ready(&both()), [Step::Ends(APP), Step::Ends("istio-proxy"), Step::Starts(APP)]),
            Held,
            "somebody would be refused again",
        ),
        case(
            "the proxy of a pod that is being deleted ends",
            guarded(),
            then(
                ready(&both()),
                [
                    Step::Change(
                        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                    ),
                    Step::Ends("istio-proxy"),
                ],
            ),
            Passes,
            "it drains; the application's last calls must not hang",
        ),
        case(
            "a native sidecar's container ends",
            pod("istio-native").annotation("holdfast.dev/guard", "disabled"),
            then(ready(&both()), [Step::Ends("istio-proxy")]),
            Held,
            "kubelet restarts it, and holds nothing meanwhile",
        ),
        case(
            "the application's container restarts while the proxy is ready",
            open(),
            then(ready(&both()), [Step::Ends(APP), Step::Starts(APP)]),
            Passes,
            "the proxy is there",
        ),
        case(
            "the application's container restarts before the proxy is ready",
            open(),
            then(starts(&both()), [Step::Ends(APP), Step::Starts(APP)]),
            Held,
            "a new cgroup in the same pod",
        ),
        case(
            "the sandbox is made anew under the same uid",
            open(),
            then(
                ready(&both()),
                [Step::Ends("istio-proxy"), Step::Ends(APP), Step::Ends(""), Step::Starts(APP)],
            ),
            Held,
            "the pod starts once more, without a proxy",
        ),
        case(
            "the pod's cgroup is removed and made anew",
            open(),
            then(ready(&both()), [Step::CgroupGone, Step::Cgroup, Step::Starts(APP)]),
            Held,
            "the pod starts once more",
        ),
    ]);
    cases
}

fn starting(open: &dyn Fn() -> crate::scene::Given) -> Vec<Case> {
    let unlabelled = || open().labels(&[]);
    let both = || ["istio-proxy", APP];
    let enable = || Step::Namespace(vec![(HOLD, "enabled")]);
    vec![
        case(
            "kubelet calls the proxy ready first",
            open(),
            then(starts(&both()), [Step::Kubelet("istio-proxy", true), seconds(5)]),
            Passes,
            "whichever says it first",
        ),
        case(
            "the API tells of the pod after its first connect",
            open(),
            [Step::Cgroup, Step::Starts(APP), Step::Held(APP), Step::Told],
            Held,
            "it was held in case, and goes on being",
        ),
        case(
            "the API tells that the pod is not enabled, after its first connect",
            unlabelled(),
            [Step::Cgroup, Step::Starts(APP), Step::Held(APP), Step::Told, seconds(5)],
            Passes,
            "what it sent until then is sent again",
        ),
        case(
            "the timeout has passed",
            open(),
            then(starts(&[APP]), [Step::Held(APP), seconds(70)]),
            Passes,
            "as without holdfast",
        ),
        case(
            "nobody has waited, and the timeout has passed",
            open(),
            then(starts(&[APP]), [seconds(200)]),
            Held,
            "it counts from the first connect: images may take long to pull",
        ),
        case(
            "the timeout has passed, `on-timeout: refuse`",
            open().annotation("holdfast.dev/on-timeout", "refuse"),
            then(starts(&[APP]), [Step::Held(APP), seconds(70)]),
            Refused(RefuseErrno::ConnRefused),
            "the user wants it to fail until the proxy is ready",
        ),
        case(
            "ready after the timeout, `on-timeout: refuse`",
            pod("istio-classic").change(json!({"metadata": {"annotations": {
                "holdfast.dev/on-timeout": "refuse", "holdfast.dev/guard": "disabled",
            }}})),
            then(starts(&[APP]), [Step::Held(APP), seconds(70), Step::Probe(true), seconds(5)]),
            Passes,
            "the proxy is ready",
        ),
        case(
            "the label is removed while it waits",
            open(),
            then(starts(&[APP]), [Step::Namespace(vec![]), seconds(5)]),
            Passes,
            "the gate opens at once",
        ),
        case(
            "the label comes while the pod starts",
            unlabelled(),
            then(starts(&both()), [enable(), Step::Probe(false)]),
            Held,
            "the proxy was asked first, and is not ready",
        ),
        case(
            "the label comes after the proxy was ready",
            unlabelled(),
            then(starts(&both()), [enable(), Step::Probe(true)]),
            Passes,
            "never start by holding what works",
        ),
        case(
            "the label has come, and the proxy has not answered yet",
            unlabelled(),
            then(starts(&both()), [enable()]),
            Passes,
            "never start by holding what works",
        ),
        case(
            "the pod ran before the agent, its proxy is ready",
            open(),
            [Step::Told, Step::CgroupBefore, Step::Starts(APP), Step::Probe(true)],
            Passes,
            "never start by holding what works",
        ),
        case(
            "the pod ran before the agent, its proxy is not ready",
            open(),
            [Step::Told, Step::CgroupBefore, Step::Starts(APP), Step::Probe(false)],
            Held,
            "it is still starting, or its proxy has died",
        ),
        case(
            "a Job's pod with `restartPolicy: Never`",
            open().change(json!({"spec": {"restartPolicy": "Never"}})),
            starts(&[APP]),
            Held,
            "its first try is its only one",
        ),
        case(
            "a static pod",
            open().change(json!({"metadata": {
                "annotations": {
                    "kubernetes.io/config.hash": "7f6ce3b5d0c1e2a49f8b7c6d5e4f3a2b",
                    "kubernetes.io/config.mirror": "7f6ce3b5d0c1e2a49f8b7c6d5e4f3a2b",
                },
                "ownerReferences": [{
                    "apiVersion": "v1",
                    "kind": "Node",
                    "name": "node1",
                    "uid": "4c1f2d3e-8a6b-4f70-9c5d-2e1b0a9f8d7c",
                    "controller": true,
                }],
            }})),
            starts(&[APP]),
            Held,
            "its cgroup is named after its manifest's hash",
        ),
    ]
}
