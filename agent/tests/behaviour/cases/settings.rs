//! Settings and their bad values.

use holdfast::core::RefuseErrno;
use serde_json::json;

use super::{APP, Case, case, pod, ready, seconds, starts, then};
use crate::{
    kernel::Answer::{Guarded, Held, HeldRetry, Observed, Passes, Refused},
    scene::{Given, Step},
};

fn with(key: &str, value: &str) -> Given {
    pod("istio-classic").annotation(key, value)
}

pub(super) fn cases() -> Vec<Case> {
    let steps = || starts(&[APP]);
    let mut cases = vec![
        case("`mode: retry`", with("holdfast.dev/mode", "retry"), steps(), HeldRetry, "chosen"),
        case("`mode: observe`", with("holdfast.dev/mode", "observe"), steps(), Observed, "chosen"),
        case(
            "`mode: refuse`",
            with("holdfast.dev/mode", "refuse"),
            steps(),
            Refused(RefuseErrno::ConnRefused),
            "chosen",
        ),
        case(
            "`mode: refuse`, `errno: EAGAIN`",
            pod("istio-classic").change(json!({"metadata": {"annotations": {
                "holdfast.dev/mode": "refuse", "holdfast.dev/errno": "EAGAIN",
            }}})),
            steps(),
            Refused(RefuseErrno::Again),
            "chosen; the first connect to a destination still gets ECONNREFUSED",
        ),
        case(
            "`mode: observe` on the namespace",
            pod("istio-classic").namespace_annotation("holdfast.dev/mode", "observe"),
            steps(),
            Observed,
            "chosen for all its pods",
        ),
        case(
            "`mode: observe` on the namespace, `mode: hold` on the pod",
            with("holdfast.dev/mode", "hold").namespace_annotation("holdfast.dev/mode", "observe"),
            steps(),
            Held,
            "the pod wins",
        ),
        case(
            "`mode: observe` in the config file",
            pod("istio-classic").config("mode: observe"),
            steps(),
            Observed,
            "chosen for the cluster",
        ),
        case(
            "`mode: retry` on the namespace, `mode: observe` in the config file",
            pod("istio-classic")
                .namespace_annotation("holdfast.dev/mode", "retry")
                .config("mode: observe"),
            steps(),
            HeldRetry,
            "the namespace wins over the config file",
        ),
        case(
            "`mode` changes while connects wait",
            pod("istio-classic"),
            then(
                steps(),
                [Step::Change(
                    json!({"metadata": {"annotations": {"holdfast.dev/mode": "observe"}}}),
                )],
            ),
            Observed,
            "settings take effect at once",
        ),
        case(
            "`timeout: 5s`, 7 s after the first connect",
            with("holdfast.dev/timeout", "5s"),
            then(steps(), [Step::Held(APP), seconds(7)]),
            Passes,
            "chosen",
        ),
        case(
            "`timeout: 2m`, 70 s after the first connect",
            with("holdfast.dev/timeout", "2m"),
            then(steps(), [Step::Held(APP), seconds(70)]),
            Held,
            "chosen",
        ),
        case(
            "`guard: enabled` in the config file, proxy ready",
            pod("istio-classic").config("guard: enabled"),
            ready(&["istio-proxy", APP]),
            Guarded,
            "chosen for the cluster",
        ),
        case(
            "`guard: enabled`, `mode: observe`, proxy ready",
            pod("istio-classic").change(json!({"metadata": {"annotations": {
                "holdfast.dev/mode": "observe", "holdfast.dev/guard": "enabled",
            }}})),
            ready(&["istio-proxy", APP]),
            Passes,
            "where nothing waits there is nothing to guard",
        ),
        case(
            "`proxy: none-such`",
            with("holdfast.dev/proxy", "none-such"),
            steps(),
            Held,
            "no profile and no container: detected instead, and a warning says so",
        ),
        case(
            "`ready: kube`, the probe's answer",
            with("holdfast.dev/ready", "kube"),
            then(starts(&["istio-proxy", APP]), [Step::Kubelet("istio-proxy", false)]),
            Held,
            "kubelet's word alone counts",
        ),
    ];
    cases.extend(bad_values());
    cases
}

fn bad_values() -> Vec<Case> {
    let bad = |name, key: &str, value: &str| {
        let why = "not a value: the next level counts, here the default, and a warning says so";
        case(name, with(key, value), starts(&[APP]), Held, why)
    };
    vec![
        bad("`mode: wait`", "holdfast.dev/mode", "wait"),
        bad("`timeout: soon`", "holdfast.dev/timeout", "soon"),
        bad("`timeout: -5s`", "holdfast.dev/timeout", "-5s"),
        bad("`timeout: 0s`", "holdfast.dev/timeout", "0s"),
        bad("`timeout` that overflows", "holdfast.dev/timeout", "99999999999999999999h"),
        bad("`on-timeout: fail`", "holdfast.dev/on-timeout", "fail"),
        bad("`ports: \"0\"`", "holdfast.dev/ports", "0"),
        bad("`ports: \"65536\"`", "holdfast.dev/ports", "65536"),
        bad("`ready: ftp://:21`", "holdfast.dev/ready", "ftp://:21"),
        bad("`errno: EWHATEVER`", "holdfast.dev/errno", "EWHATEVER"),
        bad("`guard: maybe`", "holdfast.dev/guard", "maybe"),
        case(
            "an unknown key",
            with("holdfast.dev/tiemout", "5s"),
            starts(&[APP]),
            Held,
            "it counts for nothing, and a warning says so",
        ),
    ]
}
