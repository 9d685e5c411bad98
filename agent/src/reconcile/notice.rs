//! What a pod's owner should know: the lines of the log on which he can act, as Kubernetes Events.

use crate::{
    cluster::{EventKind, EventSink, PodRef as Regarding},
    core::{Line, PodRef, Problem},
};

/// Publishes the line's Event, if it has one and the pod's name is known.
pub(super) fn publish(events: &EventSink, pod: &PodRef, line: &Line) {
    let Some(name) = &pod.name else { return };
    let (reason, action, note) = match line {
        Line::InvalidSetting(Problem { key, value, reason, .. }) => {
            // Events of one action are counted as one, with the first one's note.
            ("InvalidSetting", key.clone(), format!("{key}: \"{value}\": {reason}"))
        }
        Line::InitPassed { connect, hint } => {
            let container = connect.container.as_deref().unwrap_or("an init container");
            let hint = hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
            let note = format!(
                "{container} connects to {} through the mesh before its proxy exists{hint}",
                connect.caller.destination
            );
            ("InitContainerNeedsProxy", "Passing".to_owned(), note)
        }
        Line::NotRedirected { around, profile } => {
            let note = format!(
                "the pod has the proxy of {profile}, but {around} connects left it and none came to \
                 the proxy's port: is the mesh's redirect in place?"
            );
            ("NotRedirected", "Opening".to_owned(), note)
        }
        Line::GateClosed { .. }
        | Line::GateInherited { .. }
        | Line::Held(_)
        | Line::Refused(_)
        | Line::Observed { .. }
        | Line::GateOpened { .. }
        | Line::DeadlineRefuses { .. }
        | Line::Released { .. }
        | Line::GateGuards
        | Line::GateDetached
        | Line::GateFailed { .. }
        | Line::NotHeld { .. } => return,
    };
    events.publish(Regarding::new(name, &pod.uid), EventKind::Warning, reason, action, note);
}
