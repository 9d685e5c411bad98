//! The log: constant messages with fields.
//!
//! `mono_ns` is the instant on the kernel's clock, so that lines can be related to what
//! applications and tracing tools measure.

use tracing::field::display;

use crate::core::{
    Caller, CloseReason, Episode, Finding, HeldConnect, Line, Monotonic, Noted, OpenReason, Order,
    Orderer, Outcome, PodName, PodRef, PodUid, Problem, ReadyCheck, RefuseErrno, Saying,
};

/// A pod as the log names it. The API may not have told its name yet.
struct Pod {
    uid: PodUid,
    namespace: String,
    name: String,
}

impl From<PodRef> for Pod {
    fn from(PodRef { uid, name, workload: _ }: PodRef) -> Self {
        match name {
            Some(PodName { namespace, name }) => {
                Self { uid, namespace: namespace.to_string(), name: name.to_string() }
            }
            None => Self { uid, namespace: String::new(), name: String::new() },
        }
    }
}

/// One line of this pod at this level; `info unless quiet`: a quiet one is for those who debug.
macro_rules! of_pod {
    (info unless $quiet:expr, $pod:expr, $($rest:tt)*) => {
        if $quiet {
            of_pod!(debug, $pod, $($rest)*);
        } else {
            of_pod!(info, $pod, $($rest)*);
        }
    };
    ($level:ident, $pod:expr, $($rest:tt)*) => {{
        let Pod { uid, namespace, name } = $pod;
        tracing::$level!(namespace, pod = name, pod_uid = %uid, $($rest)*)
    }};
}

/// Writes one line, told at `now`.
pub(super) fn line(pod: PodRef, line: Line, noted: &Noted, now: Monotonic) {
    let pod = Pod::from(pod);
    let mono_ns = now.0;
    let message = line.message();
    let quiet = noted.quiet;
    match line {
        Line::ContainerStarted { container, role: _, is_proxy, at } => {
            of_pod!(debug, pod, container, is_proxy, mono_ns = at.0, "{message}");
        }
        Line::ContainerEnded { container } => of_pod!(debug, pod, container, mono_ns, "{message}"),
        Line::GateClosed {
            at,
            reason,
            profile,
            proxy: _,
            mode,
            enabled_by,
            observes: _,
            timeout,
        } => {
            let timeout_ms = timeout.as_millis() as u64;
            let enabled_by = enabled_by.map(crate::core::Origin::as_str);
            let (reason, mode, mono_ns) = (reason.as_str(), mode.as_str(), at.0);
            of_pod!(
                info unless quiet,
                pod,
                reason,
                profile,
                mode,
                enabled_by,
                timeout_ms,
                mono_ns,
                "{message}"
            );
        }
        Line::GateInherited { reason, held } => {
            let reason = reason.map(CloseReason::as_str);
            let quiet = quiet && held == 0;
            of_pod!(info unless quiet, pod, reason, held, mono_ns, "{message}");
        }
        Line::GateOpened { at, reason, held, finding } => {
            let (mono_ns, why) = (at.0, reason.as_str());
            let check = match reason {
                OpenReason::ProbeReady => finding.as_ref().and_then(Finding::ready),
                OpenReason::KubeReady => Some(&ReadyCheck::Kube),
                OpenReason::Deadline | OpenReason::Exempt(_) => None,
            };
            let check = check.map(display);
            let last_finding = finding.as_ref().map(display);
            if reason == OpenReason::Deadline && !noted.observes {
                of_pod!(warn, pod, reason = why, held, last_finding, mono_ns, "{message}");
            } else {
                of_pod!(info unless quiet, pod, reason = why, held, check, mono_ns, "{message}");
            }
        }
        Line::DeadlineRefuses { held, finding } => {
            let last_finding = finding.as_ref().map(display);
            of_pod!(warn, pod, held, last_finding, mono_ns, "{message}");
        }
        Line::GateGuards => of_pod!(info, pod, mono_ns, "{message}"),
        Line::GateDetached => of_pod!(info unless quiet, pod, mono_ns, "{message}"),
        Line::GateFailed { error, again, trials } => {
            of_pod!(error, pod, error, again, trials, mono_ns, "{message}");
        }
        Line::NotHeld { exemption, wanted } => {
            of_pod!(info unless !wanted, pod, reason = exemption.as_str(), "{message}");
        }
        Line::Refused { connect, errno } => {
            let errno = errno.map(RefuseErrno::as_str);
            let level = Level::of(noted);
            of_connect(pod, connect, Of { message, mono_ns, level, errno, ..Of::default() });
        }
        Line::Held(connect) => {
            let waited = connect.by_sentry.then(|| now.since(connect.caller.connect_at));
            let waited_ms = waited.map(|waited| waited.as_micros() as f64 / 1000.0);
            let level = Level::of(noted);
            let of = Of { message, mono_ns, waited_ms, level, ..Of::default() };
            of_connect(pod, connect, of);
        }
        Line::Observed { connect, refused } => {
            let (level, refused) = (Level::of(noted), Some(refused));
            let of = Of { message, mono_ns, level, refused, ..Of::default() };
            of_connect(pod, connect, of);
        }
        Line::InitPassed { connect, hint } => {
            let level = if noted.observes { Level::Debug } else { Level::Warn };
            of_connect(pod, connect, Of { message, mono_ns, level, hint, ..Of::default() });
        }
        Line::Released { connect, waited, outcome } => {
            let level = match Level::of(noted) {
                Level::Info { .. } if outcome == Outcome::Refused => Level::Warn,
                level => level,
            };
            let of = Of {
                message,
                mono_ns,
                // Tenths of a millisecond are what a release takes.
                held_ms: Some(waited.as_micros() as f64 / 1000.0),
                outcome: Some(outcome.as_str()),
                level,
                ..Of::default()
            };
            of_connect(pod, connect, of);
        }
        // Whoever has not asked for anything is told of nothing that he should mend.
        Line::NotRedirected { around, profile } if noted.observes => {
            of_pod!(debug, pod, profile, around, mono_ns, "{message}");
        }
        Line::NotRedirected { around, profile } => {
            of_pod!(warn, pod, profile, around, mono_ns, "{message}");
        }
        Line::Ordered { order, limit, by: Orderer { uid: by_uid, pid: by_pid } } => {
            let limit_ms = limit.map(|limit| limit.as_millis() as u64);
            let order = Order::as_str(order);
            of_pod!(info, pod, order, limit_ms, by_uid, by_pid, mono_ns, "{message}");
        }
        Line::InvalidSetting(Problem { key, value, reason }) => {
            of_pod!(warn, pod, key, value, reason, "{message}");
        }
    }
}

/// Sums an episode up, if anything waited in it.
pub(super) fn summary(pod: PodRef, episode: &Episode, now: Monotonic) {
    if episode.touched() == 0 {
        return;
    }
    let pod = Pod::from(pod);
    let Episode { held, by_sentry, refused, observed, observed_refused, longest, .. } = episode;
    let by_sentry = Some(*by_sentry).filter(|held| *held > 0);
    let of = |outcome| episode.ended_as(outcome);
    let connected = of(Outcome::Connected) + of(Outcome::QuerySent);
    let failed = of(Outcome::Refused) + of(Outcome::TimedOut) + of(Outcome::QueryExpired);
    let gone = of(Outcome::ClosedByApplication);
    let longest_ms = longest.as_micros() as f64 / 1000.0;
    let ready_after_ms = episode.ready_after().map(|after| after.as_millis() as u64);
    of_pod!(
        info,
        pod,
        held,
        by_sentry,
        refused,
        observed,
        observed_refused,
        connected,
        failed,
        gone,
        longest_ms,
        ready_after_ms,
        mono_ns = now.0,
        "hold ended"
    );
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
    waited_ms: Option<f64>,
    outcome: Option<&'static str>,
    errno: Option<&'static str>,
    refused: Option<bool>,
    hint: Option<String>,
    level: Level,
}

/// How loud a line about a connect is.
#[derive(Clone, Copy, Debug)]
enum Level {
    Warn,
    /// So many like it were not told since the last one that was.
    Info {
        untold: Option<u64>,
    },
    /// One of many.
    Debug,
}

impl Default for Level {
    fn default() -> Self {
        Self::Info { untold: None }
    }
}

impl Level {
    fn of(noted: &Noted) -> Self {
        match noted.saying {
            // The sum at the end is enough about those whom nobody has enabled.
            _ if noted.observes => Self::Debug,
            Saying::Say { untold } => {
                Self::Info { untold: Some(untold).filter(|untold| *untold > 0) }
            }
            Saying::Count => Self::Debug,
        }
    }
}

/// All lines about a connect carry the same fields; some have more.
fn of_connect(pod: Pod, connect: HeldConnect, of: Of) {
    let by = connect.held_by();
    let HeldConnect { cookie, container, by_sentry: _, caller } = connect;
    let Caller { container: _, pid, uid, comm, destination, connect_at: _, query } = caller;
    let Pod { uid: pod_uid, namespace, name } = pod;
    // Who called is not known of one that no hook has seen.
    let (comm, uid) = (Some(comm).filter(|comm| !comm.is_empty()), pid.map(|_| uid));
    let Of { message, mono_ns, held_ms, waited_ms, outcome, errno, refused, hint, level } = of;
    let (cookie, query) = (cookie.0, query.map(|query| query.0));
    macro_rules! write {
        ($level:ident, $untold:expr) => {
            tracing::$level!(
                namespace, pod = name, %pod_uid, container, pid, comm, uid, %destination, query,
                cookie, by, waited_ms, held_ms, outcome, errno, refused, hint, untold = $untold, mono_ns, "{message}"
            )
        };
    }
    match level {
        Level::Warn => write!(warn, None::<u64>),
        Level::Info { untold } => write!(info, untold),
        Level::Debug => write!(debug, None::<u64>),
    }
}
