//! What a pod's owner should know: the lines of the log on which he can act, or which explain a
//! delay, as Kubernetes Events.

use std::time::Duration;

use crate::{
    cluster::{EventKind, EventSink, PodRef as Regarding},
    core::{
        CloseReason, Episode, Fate, Finding, Line, Noted, OpenReason, Order, Orderer, Outcome,
        PodRef, Problem, Stamp, connections, in_words,
    },
};

/// What an Event says.
struct Notice {
    kind: EventKind,
    reason: &'static str,
    /// Events of one reason and action are counted as one, with the first one's note.
    action: String,
    note: String,
}

/// Publishes the line's Events, if it has any and the pod's name is known. `running`: what goes on
/// with the pod; `at`: now.
pub(super) fn publish(
    events: &EventSink,
    pod: &PodRef,
    line: &Line,
    noted: &Noted,
    running: Option<&Episode>,
    at: Stamp,
) {
    let Some(name) = &pod.name else { return };
    let of_end = noted.ended.as_deref().and_then(released);
    for notice in of_line(line, noted, running, at).into_iter().chain(of_end) {
        let Notice { kind, reason, action, note } = notice;
        events.publish(Regarding::new(name, &pod.uid), kind, reason, action, note);
    }
}

fn of_line(line: &Line, noted: &Noted, running: Option<&Episode>, at: Stamp) -> Option<Notice> {
    let proxy = running.map_or("the proxy", |episode| &episode.proxy);
    let limit = running.map(|episode| in_words(episode.timeout)).unwrap_or_default();
    Some(match line {
        // Until it is known what the pod is, its owner may have nothing to do with it.
        Line::Held(_) if noted.first => connect_held(running?, at)?,
        Line::GateClosed { reason: CloseReason::ProxyDied, .. } if noted.becomes_known => warning(
            "ProxyDied",
            "Holding",
            format!(
                "{proxy} has ended; connects wait until it is ready again, each for {limit} at most"
            ),
        ),
        Line::GateClosed { .. } if noted.becomes_known => connect_held(running?, at)?,
        Line::GateOpened { reason: OpenReason::Deadline, held, finding, .. } => warning(
            "HoldTimedOut",
            "Opening",
            format!(
                "{proxy} was not ready within {limit}{}; {} without it",
                because(finding.as_ref()),
                go_on(*held)
            ),
        ),
        Line::DeadlineRefuses { held, finding } => warning(
            "HoldTimedOut",
            "Refusing",
            format!(
                "{proxy} was not ready within {limit}{}; {} and all further ones fail until it is",
                because(finding.as_ref()),
                connections(*held as u64)
            ),
        ),
        Line::GateFailed { error, again, trials: _ } => {
            let until = if *again { ", for now" } else { "" };
            warning("HoldFailed", "Opening", format!("connects are not held{until}: {error}"))
        }
        Line::InvalidSetting(Problem { key, value, reason }) => {
            let note = format!("{key}: \"{value}\": {reason}");
            Notice { action: key.clone(), ..warning("InvalidSetting", "", note) }
        }
        Line::InitPassed { connect, hint } => {
            let container = connect.container.as_deref().unwrap_or("an init container");
            let hint = hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
            warning(
                "InitContainerNeedsProxy",
                "Passing",
                format!(
                    "{container} connects to {} through the mesh before its proxy exists{hint}",
                    connect.caller.destination
                ),
            )
        }
        Line::Ordered { order, limit, by: Orderer { uid, .. } } => {
            // Each has an action of its own: Events of one are counted under the first one's note.
            let (action, what) = match order {
                Some(Order::Open { .. }) => ("Opening", "is opened by the operator"),
                Some(Order::Closed { .. }) => ("Closing", "is closed by the operator"),
                None => {
                    ("TakingBack", "follows the facts again: the operator has taken the order back")
                }
            };
            let limit = limit.map(|limit| format!(", for {} at most", in_words(limit)));
            let note = format!("the gate {what}{} (user {uid})", limit.unwrap_or_default());
            normal("GateOrdered", action, note)
        }
        Line::NotRedirected { around, profile } => warning(
            "NotRedirected",
            "Opening",
            format!(
                "the pod has the proxy of {profile}, but {around} connects left it and none came to \
             the proxy's port: is the mesh's redirect in place?"
            ),
        ),
        Line::ContainerStarted { .. }
        | Line::ContainerEnded { .. }
        | Line::GateClosed { .. }
        | Line::GateInherited { .. }
        | Line::Held(_)
        | Line::Refused { .. }
        | Line::Observed { .. }
        | Line::GateOpened { .. }
        | Line::Released { .. }
        | Line::GateGuards
        | Line::GateDetached
        | Line::NotHeld { .. } => return None,
    })
}

/// The first connect that waits at the gate of a pod that is to be held.
fn connect_held(episode: &Episode, at: Stamp) -> Option<Notice> {
    /// A wait that has only just begun has all of its time before it, in words.
    const JUST_NOW: Duration = Duration::from_secs(1);
    let Episode { proxy, timeout, enabled_by, connects, first_connect_at, .. } = episode;
    let connect = connects.iter().find(|connect| connect.fate == Fate::Held)?;
    if enabled_by.is_none() || episode.ended_at.is_some() {
        return None;
    }
    let container = connect.container.as_deref().unwrap_or("a container");
    // Of one that no hook has seen it is not known what called.
    let who = match connect.comm.as_str() {
        "" => container.to_owned(),
        comm => format!("{container} ({})", comm.escape_debug()),
    };
    let waited = at.since(first_connect_at.unwrap_or(at));
    let left = in_words(timeout.saturating_sub(waited));
    let waits = if waited < JUST_NOW {
        format!("it waits, for {} at most", in_words(*timeout))
    } else {
        let by = if connect.by_sentry { ", until now at the sentry" } else { "" };
        format!("it has waited for {}{by}, and does for {left} more at most", in_words(waited))
    };
    let to = connect.destination;
    let note = format!("{who} connects to {to} before {proxy} is ready; {waits}");
    Some(normal("ConnectHeld", "Holding", note))
}

/// The end of an episode in which somebody waited for a proxy that came.
fn released(episode: &Episode) -> Option<Notice> {
    let ready_after = episode.ready_after()?;
    if episode.held == 0 {
        return None;
    }
    let (longest, after) = (in_words(episode.longest), in_words(ready_after));
    let held = connections(episode.held);
    let ready = match episode.began_at_sentry() {
        Some(_) => {
            format!("{after} after the first of them, which the sentry held until the agent came")
        }
        None => format!("after {after}"),
    };
    let mut note = format!("{held}, longest {longest}; {} ready {ready}", episode.proxy);
    let failed = episode.ended_as(Outcome::Refused) + episode.ended_as(Outcome::TimedOut);
    if failed > 0 {
        note += &format!("; {failed} failed");
    }
    Some(normal("ConnectsReleased", "Releasing", note))
}

/// What the probe saw last.
fn because(finding: Option<&Finding>) -> String {
    finding.map(|finding| format!(" ({finding})")).unwrap_or_default()
}

fn go_on(held: usize) -> String {
    let verb = if held == 1 { "goes on" } else { "go on" };
    format!("{} {verb}", connections(held as u64))
}

fn normal(reason: &'static str, action: &str, note: String) -> Notice {
    Notice { kind: EventKind::Normal, reason, action: action.to_owned(), note }
}

fn warning(reason: &'static str, action: &str, note: String) -> Notice {
    Notice { kind: EventKind::Warning, reason, action: action.to_owned(), note }
}

#[cfg(test)]
mod tests;
