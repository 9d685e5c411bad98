//! One thing that happened to a pod, as it leaves the agent: with the kind and the message of its
//! line, and the line's fields.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::core::{
    Caller, CloseReason, HeldConnect, Line, Order, Orderer, PodRef, Problem, RefuseErrno, Stamp,
    stamp::millis,
};

/// One thing that happened to a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up from 1 as long as the agent runs.
    pub seq: u64,
    /// When it was told.
    pub at: Stamp,
    /// To which.
    #[serde(flatten)]
    pub pod: PodRef,
    /// What, in a word for programs, see [`Line::kind`].
    pub kind: String,
    /// What, in the words of the log.
    pub message: String,
    /// The further fields of the log's line.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

// === impl Entry ===

impl Entry {
    /// Of a line.
    #[must_use]
    pub fn new(seq: u64, at: Stamp, pod: PodRef, line: &Line) -> Self {
        let fields = match fields(line) {
            Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()),
            _ => return Self::without_fields(seq, at, pod, line),
        };
        Self { fields: fields.collect(), ..Self::without_fields(seq, at, pod, line) }
    }

    fn without_fields(seq: u64, at: Stamp, pod: PodRef, line: &Line) -> Self {
        let (kind, message) = (line.kind().to_owned(), line.message().to_owned());
        Self { seq, at, pod, kind, message, fields: Map::new() }
    }
}

// === impl Line ===

impl Line {
    /// The connect that it is about.
    pub(super) const fn connect(&self) -> Option<&HeldConnect> {
        match self {
            Self::Held(connect)
            | Self::Refused { connect, .. }
            | Self::Observed { connect, .. }
            | Self::Released { connect, .. } => Some(connect),
            _ => None,
        }
    }

    /// All kinds, see [`Self::kind`].
    pub const KINDS: [&str; 18] = [
        "container-started",
        "container-ended",
        "gate-closed",
        "gate-taken-over",
        "held",
        "refused",
        "observed",
        "init-passed",
        "gate-opened",
        "deadline-refuses",
        "released",
        "gate-guards",
        "gate-detached",
        "gate-failed",
        "not-held",
        "not-redirected",
        "ordered",
        "invalid-setting",
    ];

    /// What it is about, in a word for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ContainerStarted { .. } => "container-started",
            Self::ContainerEnded { .. } => "container-ended",
            Self::GateClosed { .. } => "gate-closed",
            Self::GateInherited { .. } => "gate-taken-over",
            Self::Held(_) => "held",
            Self::Refused { .. } => "refused",
            Self::Observed { .. } => "observed",
            Self::InitPassed { .. } => "init-passed",
            Self::GateOpened { .. } => "gate-opened",
            Self::DeadlineRefuses { .. } => "deadline-refuses",
            Self::Released { .. } => "released",
            Self::GateGuards => "gate-guards",
            Self::GateDetached => "gate-detached",
            Self::GateFailed { .. } => "gate-failed",
            Self::NotHeld { .. } => "not-held",
            Self::NotRedirected { .. } => "not-redirected",
            Self::Ordered { .. } => "ordered",
            Self::InvalidSetting(_) => "invalid-setting",
        }
    }

    /// The log's constant message.
    #[must_use]
    pub const fn message(&self) -> &'static str {
        match self {
            Self::ContainerStarted { .. } => "container started",
            Self::ContainerEnded { .. } => "container ended",
            Self::GateClosed { observes: true, .. } => "pod observed, not held",
            Self::GateClosed { enabled_by: None, .. } => "gate closed, pod not known yet",
            Self::GateClosed { .. } => "gate closed",
            Self::GateInherited { .. } => "gate taken over",
            Self::Held(connect) if connect.caller.query.is_some() => "DNS query held",
            Self::Held(_) => "connect held",
            Self::Refused { .. } => "connect refused",
            Self::Observed { .. } => "connect would have been held",
            Self::InitPassed { .. } => {
                "init container reaches for the mesh before its proxy exists"
            }
            Self::GateOpened { .. } => "gate opened",
            Self::DeadlineRefuses { .. } => {
                "deadline passed; connects are refused until the proxy is ready"
            }
            Self::Released { connect, .. } if connect.caller.query.is_some() => {
                "DNS query released"
            }
            Self::Released { .. } => "connect released",
            Self::GateGuards => "gate guards",
            Self::GateDetached => "gate detached",
            Self::GateFailed { .. } => "gate failed; the pod's connects are not held",
            Self::NotHeld { .. } => "pod not held",
            Self::NotRedirected { .. } => {
                "pod is meshed but not redirected: connects left it, and none came to the proxy's port"
            }
            Self::Ordered { .. } => "gate ordered",
            Self::InvalidSetting(_) => "invalid setting",
        }
    }
}

fn fields(line: &Line) -> Value {
    match line {
        Line::ContainerStarted { container, role, is_proxy, at } => {
            json!({ "container": container, "role": role, "is_proxy": is_proxy, "mono_ns": at })
        }
        Line::ContainerEnded { container } => json!({ "container": container }),
        Line::GateClosed { at, reason, profile, proxy: _, mode, enabled_by, observes, timeout } => {
            json!({
                "reason": reason.as_str(),
                "profile": profile,
                "mode": mode.as_str(),
                "enabled_by": enabled_by.map(crate::core::Origin::as_str),
                "observes": observes.then_some(true),
                "timeout_ms": millis::of(*timeout),
                "mono_ns": at,
            })
        }
        Line::GateInherited { reason, held } => {
            json!({ "reason": reason.map(CloseReason::as_str), "held": held })
        }
        Line::Held(connect) => of_connect(connect, &Value::Null),
        Line::Observed { connect, refused } => of_connect(connect, &json!({ "refused": refused })),
        Line::Refused { connect, errno } => {
            of_connect(connect, &json!({ "errno": errno.map(RefuseErrno::as_str) }))
        }
        Line::InitPassed { connect, hint } => of_connect(connect, &json!({ "hint": hint })),
        Line::Released { connect, waited, outcome } => of_connect(
            connect,
            &json!({ "held_ms": millis::of(*waited), "outcome": outcome.as_str() }),
        ),
        Line::GateOpened { at, reason, held, finding } => json!({
            "reason": reason.as_str(),
            "held": held,
            "last_finding": finding.as_ref().map(ToString::to_string),
            "mono_ns": at,
        }),
        Line::DeadlineRefuses { held, finding } => {
            json!({ "held": held, "last_finding": finding.as_ref().map(ToString::to_string) })
        }
        Line::GateFailed { error, again, trials } => {
            json!({ "error": error, "again": again, "trials": trials })
        }
        Line::NotHeld { exemption, wanted } => {
            json!({ "reason": exemption.as_str(), "wanted": wanted })
        }
        Line::NotRedirected { around, profile } => json!({ "around": around, "profile": profile }),
        Line::Ordered { order, limit, by: Orderer { uid, pid } } => json!({
            "order": Order::as_str(*order),
            "limit_ms": limit.map(millis::of),
            "by_uid": uid,
            "by_pid": pid,
        }),
        Line::InvalidSetting(Problem { key, value, reason }) => {
            json!({ "key": key, "value": value, "reason": reason })
        }
        Line::GateGuards | Line::GateDetached => Value::Null,
    }
}

/// All lines about a connect have these fields; some have more.
fn of_connect(connect: &HeldConnect, more: &Value) -> Value {
    let HeldConnect { cookie, container, by_sentry: _, caller } = connect;
    let Caller { container: _, pid, uid, comm, destination, connect_at, query } = caller;
    let mut fields = json!({
        "container": container,
        "pid": pid,
        // Who called a connect that no hook has seen is not known.
        "comm": Some(comm).filter(|comm| !comm.is_empty()),
        "uid": pid.is_some().then_some(uid),
        "by": connect.held_by(),
        "destination": destination,
        "query": query,
        "cookie": cookie,
        "called_mono_ns": connect_at,
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more.clone());
    }
    fields
}
