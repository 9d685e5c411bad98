//! The kernel's part, as far as the machine's actions tell it: what would become of a connect.

use std::collections::HashMap;

use holdfast::core::{
    Action, CgroupId, GateSetting, Mode, Monotonic, RefuseErrno, SetGate, Verdict,
};

/// What becomes of a connect to the proxy's port, or of a query to its DNS port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It waits, and is sent again when the proxy is ready.
    Held,
    /// It waits, and goes on with its own retransmission.
    HeldRetry,
    /// Nobody looks at it.
    Passes,
    /// It passes; the container's first is reported.
    PassesReported,
    /// It fails at once.
    Refused(RefuseErrno),
    /// It passes and is logged.
    Observed,
    /// It waits only if nobody listens on the proxy's port.
    Guarded,
}

/// Whose connect or query it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose {
    /// A TCP connect of this container.
    Connect(&'static str),
    /// A DNS query of this container.
    Query(&'static str),
}

/// Gate and verdicts of one pod.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    gate: Option<SetGate>,
    verdicts: HashMap<CgroupId, Verdict>,
}

impl Kernel {
    pub(crate) fn take(&mut self, action: &Action) {
        match action {
            Action::SetGate(set) => self.gate = Some(set.clone()),
            Action::OpenGate { .. } => self.gate = None,
            Action::DetachGate { .. } => {
                self.gate = None;
                self.verdicts.clear();
            }
            Action::SetVerdict { container, verdict } => {
                self.verdicts.insert(*container, *verdict);
            }
            Action::ForgetVerdict { container } => {
                self.verdicts.remove(container);
            }
            Action::Replay { .. }
            | Action::CountGate { .. }
            | Action::StartProbe { .. }
            | Action::SetPace { .. }
            | Action::StopProbe(_)
            | Action::Log(..)
            | Action::ProveGate { .. }
            | Action::LogNamespace(..) => {}
        }
    }

    pub(crate) fn answer(&self, container: CgroupId, query: bool, now: Monotonic) -> Answer {
        let Some(gate) = &self.gate else { return Answer::Passes };
        if query && gate.dns_port.is_none() {
            return Answer::Passes;
        }
        match self.verdicts.get(&container) {
            Some(Verdict::Pass) => return Answer::Passes,
            Some(Verdict::PassAndTell) => return Answer::PassesReported,
            Some(Verdict::Hold) | None => {}
        }
        match gate.state {
            GateSetting::Guarded { .. } if query => Answer::Passes,
            GateSetting::Guarded { .. } => Answer::Guarded,
            GateSetting::Closed { deadline, refuse_until, .. } if now >= deadline => {
                if refuse_until.is_some_and(|until| now < until) {
                    Answer::Refused(gate.errno)
                } else {
                    Answer::Passes
                }
            }
            GateSetting::Closed { .. } => match gate.mode {
                Mode::Hold => Answer::Held,
                Mode::Retry => Answer::HeldRetry,
                Mode::Refuse => Answer::Refused(gate.errno),
                Mode::Observe => Answer::Observed,
            },
        }
    }
}

impl Answer {
    /// In words, for the document.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Held => "waits until the proxy is ready".to_owned(),
            Self::HeldRetry => "waits; the kernel's own retransmission ends it".to_owned(),
            Self::Passes => "passes".to_owned(),
            Self::PassesReported => "passes; the container's first is reported".to_owned(),
            Self::Refused(errno) => format!("fails at once with {}", errno.as_str()),
            Self::Observed => "passes; is logged".to_owned(),
            Self::Guarded => "waits only if nobody listens".to_owned(),
        }
    }
}
