//! What `holdfast status` prints where no agent answers: what stands in the kernel all the same, and who
//! minds the pods that start.

use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;

use super::{
    status::Screen,
    terminal::{Paint, Style},
};
use crate::{
    bpf::{self, BpfError, Sentry, Standing},
    clock,
    core::{Epoch, PodUid, Stamp, age, connections, in_words},
    exit,
};

/// A node, as it can be seen without an agent that answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AbsentReport {
    /// When this was so.
    pub at: Stamp,
    /// What is known of an agent.
    pub state: Presence,
    /// The process of the agent that is there, as this process sees it.
    pub agent_pid: Option<i32>,
    /// The pod whose agent works, or was the last to.
    pub agent_pod: Option<PodUid>,
    /// Pods whose gates stand.
    pub gates: usize,
    /// Who minds the pods that start.
    pub sentry: SentryReport,
}

/// Whether an agent works on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// None does.
    Absent,
    /// One has begun, and has not relieved the sentry yet.
    Starting,
    /// One does, and answers elsewhere.
    Working,
}

/// The sentry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SentryReport {
    /// It is on its post.
    pub posted: bool,
    /// Since when.
    pub since: Option<Stamp>,
    /// When the kernel relieves it, or has: for the next agent it is remembered.
    pub until: Option<Stamp>,
    /// How many connects it has held since it was posted.
    pub held: u64,
    /// Why no more is known of it.
    pub error: Option<String>,
}

// === impl Presence ===

impl Presence {
    /// What is to be done.
    #[must_use]
    pub const fn mend(self) -> &'static str {
        match self {
            Self::Absent => {
                "whatever keeps the agent from working here: its last words say it, kubectl -n holdfast \
                 logs POD -c agent --previous"
            }
            Self::Starting => {
                "nothing, if it has begun just now; else its log says what it waits for: kubectl -n \
                 holdfast logs POD -c agent"
            }
            Self::Working => {
                "ask that one: kubectl -n holdfast exec POD -c agent -- holdfast status"
            }
        }
    }
}

// === impl AbsentReport ===

impl AbsentReport {
    /// Looks at what stands in a BPF file system. `None`: no agent has worked there, or what it had left
    /// was removed; or it cannot be told whether one works.
    #[must_use]
    pub fn take(bpffs: &Path, proc_root: &Path) -> Option<Self> {
        if !bpf::has_been_used(bpffs) {
            return None;
        }
        let Standing { pods: gates, links: _, sentry: programs } = bpf::standing(bpffs);
        let epoch = clock::epoch();
        let sentry = SentryReport::of(bpffs, programs > 0, epoch).unwrap_or_else(|error| {
            let error = Some(exit::line(&error.into()));
            SentryReport { error, ..SentryReport::default() }
        });
        // Where the locks cannot be read nothing is known of an agent, which is not that there is none.
        let agent_pid = bpf::holder(bpffs, true, proc_root).ok()?;
        let state = match (agent_pid, sentry.until) {
            (None, _) => Presence::Absent,
            (Some(_), Some(_)) => Presence::Starting,
            (Some(_), None) => Presence::Working,
        };
        let (at, agent_pod) = (epoch.stamp(clock::now()), bpf::last_agent(bpffs));
        Some(Self { at, state, agent_pid, agent_pod, gates, sentry })
    }
}

// === impl SentryReport ===

impl SentryReport {
    /// `stands`: programs of one do, of whichever version; of another version no more is known.
    fn of(bpffs: &Path, stands: bool, epoch: Epoch) -> Result<Self, BpfError> {
        let Some(sentry) = Sentry::open(bpffs)? else {
            return Ok(Self { posted: stands, ..Self::default() });
        };
        let since_1970 = |at: std::time::SystemTime| at.duration_since(UNIX_EPOCH).ok();
        Ok(Self {
            posted: sentry.is_posted() || sentry.is_posted_elsewhere(),
            since: sentry.posted_at().and_then(since_1970).map(Stamp::new),
            until: sentry.until()?.map(|until| epoch.stamp(until)),
            held: sentry.held()?,
            error: None,
        })
    }

    /// How it stands, in words, and whether that is as it should be.
    #[must_use]
    pub fn in_words(&self, state: Presence, at: Stamp) -> (String, bool) {
        let Self { posted, since, until, held: _, error } = self;
        if let Some(error) = error {
            return (format!("it cannot be looked at: {error}"), false);
        }
        let since = since.map(|since| format!(" for {}", age(at.since(since)))).unwrap_or_default();
        match (posted, until.map(|until| until.since(at))) {
            (_, Some(Duration::ZERO)) => (
                "its time is up: pods that start are NOT held until an agent works".to_owned(),
                false,
            ),
            (true, Some(left)) => {
                let left = in_words(left);
                let words = format!(
                    "posted{since}, and {left} more at most: what pods that start dial at a proxy's port \
                     waits while nobody listens there"
                );
                (words, true)
            }
            (true, None) => ("one of another version is posted".to_owned(), true),
            (false, _) if state == Presence::Working => {
                ("not posted: the agent minds the pods that start".to_owned(), true)
            }
            (false, _) => {
                ("NOT posted: pods that start are not held until an agent works".to_owned(), false)
            }
        }
    }
}

/// How the node stands without an agent that answers here.
#[must_use]
pub fn text(report: &AbsentReport, style: Style) -> String {
    let mut screen = Screen { text: String::new(), style };
    let AbsentReport { at, state, agent_pid, agent_pod, gates, sentry } = report;
    let (health, paint) = match state {
        Presence::Absent => ("NOT healthy: no agent works on this node", Paint::Bad),
        Presence::Starting => ("NOT healthy: an agent has begun and is not armed yet", Paint::Bad),
        Presence::Working => ("an agent works on this node, and does not answer here", Paint::Good),
    };
    screen.line("holdfast", health, Some(paint));
    let pod = agent_pod.as_ref().map(|pod| format!(" of the pod with uid {pod}"));
    let pod = pod.unwrap_or_default();
    let who = match agent_pid {
        Some(pid) => Some(format!("process {pid}{pod}")),
        None => agent_pod.is_some().then(|| format!("the last was that{pod}")),
    };
    if let Some(who) = who {
        screen.line("agent", &who, None);
    }
    let plural = if *gates == 1 { "" } else { "s" };
    let of_gates = match state {
        Presence::Absent => ", each as it is until its deadline at most",
        Presence::Starting | Presence::Working => "",
    };
    screen.line("gates", &format!("of {gates} pod{plural} stand{of_gates}"), None);
    let (words, is_well) = sentry.in_words(*state, *at);
    screen.line("sentry", &words, (!is_well).then_some(Paint::Bad));
    if sentry.until.is_some() {
        screen.line("so far", &format!("{} held by it", connections(sentry.held)), None);
    }
    screen.line("mend", state.mend(), None);
    screen.text
}

#[cfg(test)]
mod tests;
