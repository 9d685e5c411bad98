//! The log: constant messages with fields.
//!
//! `mono_ns` is the instant on the kernel's clock, so that lines can be related to what
//! applications and tracing tools measure.

use crate::{
    clock,
    core::{
        Caller, CloseReason, HeldConnect, Line, OpenReason, Outcome, PodName, PodRef, PodUid,
        Problem,
    },
};

/// A pod as the log names it. The API may not have told its name yet.
struct Pod {
    uid: PodUid,
    namespace: String,
    name: String,
}

impl From<PodRef> for Pod {
    fn from(PodRef { uid, name }: PodRef) -> Self {
        match name {
            Some(PodName { namespace, name }) => {
                Self { uid, namespace: namespace.to_string(), name: name.to_string() }
            }
            None => Self { uid, namespace: String::new(), name: String::new() },
        }
    }
}

/// One line of this pod at this level.
macro_rules! of_pod {
    ($level:ident, $pod:expr, $($rest:tt)*) => {{
        let Pod { uid, namespace, name } = $pod;
        tracing::$level!(namespace, pod = name, pod_uid = %uid, $($rest)*)
    }};
}

/// Writes one line.
pub(super) fn line(pod: PodRef, line: Line) {
    let pod = Pod::from(pod);
    let mono_ns = clock::now().0;
    match line {
        Line::GateClosed { reason, profile, mode, enabled_by, timeout } => {
            let timeout_ms = timeout.as_millis() as u64;
            let enabled_by = enabled_by.map(crate::core::Origin::as_str);
            let (reason, mode) = (reason.as_str(), mode.as_str());
            of_pod!(
                info,
                pod,
                reason,
                profile,
                mode,
                enabled_by,
                timeout_ms,
                mono_ns,
                "gate closed"
            );
        }
        Line::GateInherited { reason, held } => {
            let reason = reason.map(CloseReason::as_str);
            of_pod!(info, pod, reason, held, mono_ns, "gate taken over");
        }
        Line::GateOpened { at, reason, held } => {
            let (mono_ns, why) = (at.0, reason.as_str());
            match reason {
                OpenReason::Deadline => {
                    of_pod!(warn, pod, reason = why, held, mono_ns, "gate opened");
                }
                OpenReason::ProbeReady | OpenReason::KubeReady | OpenReason::Exempt(_) => {
                    of_pod!(info, pod, reason = why, held, mono_ns, "gate opened");
                }
            }
        }
        Line::DeadlineRefuses { held } => of_pod!(
            warn,
            pod,
            held,
            mono_ns,
            "deadline passed; connects are refused until the proxy is ready"
        ),
        Line::GateGuards => of_pod!(info, pod, mono_ns, "gate guards"),
        Line::GateDetached => of_pod!(info, pod, mono_ns, "gate detached"),
        Line::GateFailed { error } => {
            of_pod!(error, pod, error, mono_ns, "gate failed; the pod's connects are not held");
        }
        Line::NotHeld { exemption, wanted: true } => {
            of_pod!(info, pod, reason = exemption.as_str(), "pod not held");
        }
        Line::NotHeld { exemption, wanted: false } => {
            of_pod!(debug, pod, reason = exemption.as_str(), "pod not held");
        }
        Line::Held(connect) => {
            let message =
                if connect.caller.query.is_some() { "DNS query held" } else { "connect held" };
            let of = Of { message, mono_ns, ..Of::default() };
            of_connect(pod, connect, of);
        }
        Line::Refused(connect) => {
            let of = Of { message: "connect refused", mono_ns, ..Of::default() };
            of_connect(pod, connect, of);
        }
        Line::Observed { connect, refused } => {
            let message = "connect would have been held";
            let of = Of { message, mono_ns, refused: Some(refused), ..Of::default() };
            of_connect(pod, connect, of);
        }
        Line::InitPassed { connect, hint } => {
            let message = "init container reaches for the mesh before its proxy exists";
            of_connect(pod, connect, Of { message, mono_ns, warn: true, hint, ..Of::default() });
        }
        Line::Released { connect, waited, outcome } => {
            let is_query = connect.caller.query.is_some();
            let of = Of {
                message: if is_query { "DNS query released" } else { "connect released" },
                mono_ns,
                // Tenths of a millisecond are what a release takes.
                held_ms: Some(waited.as_micros() as f64 / 1000.0),
                outcome: Some(outcome.as_str()),
                warn: outcome == Outcome::Refused,
                ..Of::default()
            };
            of_connect(pod, connect, of);
        }
        Line::NotRedirected { around, profile } => of_pod!(
            warn,
            pod,
            profile,
            around,
            mono_ns,
            "pod is meshed but not redirected: connects left it, and none came to the proxy's port"
        ),
        Line::InvalidSetting(Problem { key, value, reason }) => {
            of_pod!(warn, pod, key, value, reason, "invalid setting");
        }
    }
}

/// Writes the line about a namespace's setting.
pub(super) fn namespace(namespace: &str, problem: Problem) {
    let Problem { key, value, reason } = problem;
    tracing::warn!(namespace, key, value, reason, "invalid setting");
}

/// What tells the lines about connects apart.
#[derive(Default)]
struct Of {
    message: &'static str,
    mono_ns: u64,
    held_ms: Option<f64>,
    outcome: Option<&'static str>,
    refused: Option<bool>,
    hint: Option<String>,
    warn: bool,
}

/// All lines about a connect carry the same fields; some have more.
fn of_connect(pod: Pod, connect: HeldConnect, of: Of) {
    let HeldConnect { cookie, container, caller } = connect;
    let Caller { container: _, pid, uid, comm, destination, connect_at: _, query } = caller;
    let Pod { uid: pod_uid, namespace, name } = pod;
    let Of { message, mono_ns, held_ms, outcome, refused, hint, warn } = of;
    let (cookie, query) = (cookie.0, query.map(|query| query.0));
    macro_rules! write {
        ($level:ident) => {
            tracing::$level!(
                namespace, pod = name, %pod_uid, container, pid, comm, uid, %destination, query,
                cookie, held_ms, outcome, refused, hint, mono_ns, "{message}"
            )
        };
    }
    if warn {
        write!(warn);
    } else {
        write!(info);
    }
}
