//! The log: constant messages with fields.
//!
//! `mono_ns` is the instant on the kernel's clock, so that lines can be related to what
//! applications and tracing tools measure.

use crate::{
    clock,
    core::{HeldConnect, Line, PodName, PodUid},
};

/// A pod as the log names it. The API may not have told its name yet.
struct Pod {
    uid: PodUid,
    namespace: String,
    name: String,
}

impl Pod {
    fn new(uid: PodUid, name: Option<PodName>) -> Self {
        match name {
            Some(PodName { namespace, name }) => {
                Self { uid, namespace: namespace.to_string(), name: name.to_string() }
            }
            None => Self { uid, namespace: String::new(), name: String::new() },
        }
    }
}

/// Writes one line.
pub(super) fn line(line: Line) {
    let mono_ns = clock::now().0;
    match line {
        Line::GateClosed { uid, name, deadline } => {
            let Pod { uid, namespace, name } = Pod::new(uid, name);
            let deadline_ms = deadline.as_millis() as u64;
            tracing::info!(namespace, pod = name, pod_uid = %uid, deadline_ms, mono_ns, "gate closed");
        }
        Line::GateOpened { uid, name, at, reason, held } => {
            let mono_ns = at.0;
            let Pod { uid, namespace, name } = Pod::new(uid, name);
            let reason = reason.as_str();
            tracing::info!(
                namespace, pod = name, pod_uid = %uid, reason, held, mono_ns, "gate opened"
            );
        }
        Line::GateDetached { uid, name } => {
            let Pod { uid, namespace, name } = Pod::new(uid, name);
            tracing::info!(namespace, pod = name, pod_uid = %uid, mono_ns, "gate detached");
        }
        Line::Held { uid, name, connect } => {
            of_connect("connect held", Pod::new(uid, name), connect, None, None, mono_ns);
        }
        Line::Released { uid, name, connect, waited, outcome } => {
            // Tenths of a millisecond are what a release takes.
            let held_ms = waited.as_micros() as f64 / 1000.0;
            let (held_ms, outcome) = (Some(held_ms), Some(outcome.as_str()));
            let pod = Pod::new(uid, name);
            of_connect("connect released", pod, connect, held_ms, outcome, mono_ns);
        }
        Line::GateFailed { uid, name, error } => {
            let Pod { uid, namespace, name } = Pod::new(uid, name);
            tracing::error!(
                namespace, pod = name, pod_uid = %uid, error, mono_ns,
                "gate failed; the pod's connects are not held"
            );
        }
        Line::InvalidLabel { object, value } => {
            tracing::warn!(
                object,
                value,
                "label holdfast.dev/hold is neither \"enabled\" nor \"disabled\"; ignored"
            );
        }
    }
}

/// Both lines of a hold carry the same fields; the one at its end also how it ended.
fn of_connect(
    message: &'static str,
    pod: Pod,
    connect: HeldConnect,
    held_ms: Option<f64>,
    outcome: Option<&'static str>,
    mono_ns: u64,
) {
    let Pod { uid: pod_uid, namespace, name } = pod;
    let HeldConnect {
        cookie,
        container,
        container_cgroup: _,
        pid,
        uid,
        comm,
        destination,
        connect_at: _,
    } = connect;
    tracing::info!(
        namespace, pod = name, %pod_uid, container, pid, comm, uid, %destination,
        cookie = cookie.0, held_ms, outcome, mono_ns, "{message}"
    );
}
