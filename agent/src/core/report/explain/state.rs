//! Where a pod stands and why: a sentence for its explanation, a few words for a table.

use crate::core::{
    CloseReason, Exemption, Mode, OpenReason, OrderReport, Origin, PodReport, PodState,
};

impl PodReport {
    /// What becomes of its connects now.
    pub(super) fn now_in_words(&self) -> String {
        let (proxy, mode) = (self.proxy_name(), self.mode());
        let through = format!("Connections through {proxy}");
        match self.state {
            PodState::Pending if self.settings.is_none() => {
                "Nothing is held yet: the API server has not told enough of this pod.".to_owned()
            }
            PodState::Pending => {
                "Nothing runs yet: kubelet has not started this pod. When it does, its gate closes."
                    .to_owned()
            }
            PodState::Exempt => {
                "This pod is left alone; its connections go as without holdfast.".to_owned()
            }
            PodState::Checking => format!(
                "Nothing is held: this pod ran before the agent came to it, so {proxy} is asked first."
            ),
            PodState::Closed => {
                let what = match mode {
                    _ if self.proxy.as_ref().is_some_and(|proxy| proxy.guessed) => {
                        "Connections to the ports of all known proxies wait until more is known"
                            .to_owned()
                    }
                    Mode::Hold | Mode::Retry if self.is_ordered_closed() => {
                        format!("{through} wait until the operator's order ends")
                    }
                    Mode::Hold | Mode::Retry => format!("{through} wait until it is ready"),
                    Mode::Refuse => format!("{through} fail until it is ready (mode refuse)"),
                    Mode::Observe => format!(
                        "Nothing waits (mode observe): what would, until {proxy} is ready, is noted"
                    ),
                };
                format!("{what}. {}.", self.closed_for_in_words())
            }
            PodState::Observed => format!(
                "Observed, not held: nothing waits, and what would have, until {proxy} is ready, is \
                 counted."
            ),
            PodState::Refusing => format!(
                "{through} fail: {proxy} was not ready within {}, and on-timeout is refuse. They go \
                 on failing until it is ready.",
                self.timeout()
            ),
            PodState::Opening => format!(
                "The gate has just opened{}. What waited goes on now.",
                self.opened
                    .map(|opened| format!(": {}", opened.reason.as_str()))
                    .unwrap_or_default()
            ),
            PodState::Guarded => format!(
                "Nothing waits: {}. Should {proxy} stop listening, what dials then waits (guard is \
                 enabled).",
                self.ready_in_words()
            ),
            PodState::Open => format!(
                "Nothing waits: {}. Should its container end, the gate closes again.",
                self.ready_in_words()
            ),
            PodState::GivenUp => format!("Nothing waits any more: {}.", self.given_up_in_words()),
            PodState::Failed => format!(
                "This pod is NOT held, although it should be: its programs could not be worked. \
                 {}.",
                self.error.as_deref().unwrap_or("The agent's log says why")
            ),
        }
    }

    /// Whether nothing but time and the operator opens its gate.
    pub(super) const fn is_ordered_closed(&self) -> bool {
        matches!(self.order, Some(OrderReport::Closed { .. }))
    }

    fn closed_for_in_words(&self) -> String {
        let proxy = self.proxy_name();
        match self.closed_for {
            _ if self.is_ordered_closed() => "The operator has closed its gate".to_owned(),
            Some(CloseReason::Start) | None => "The pod is starting".to_owned(),
            Some(CloseReason::NotReady) => {
                format!("It may have run before it was to be held, and {proxy} was not ready")
            }
            Some(CloseReason::ProxyDied) => format!("Container {proxy} has ended"),
            Some(CloseReason::NobodyListens) => {
                format!("A connection found nobody listening on {}", self.ports_in_words())
            }
            Some(CloseReason::Operator) => "The operator has closed its gate".to_owned(),
        }
    }

    fn given_up_in_words(&self) -> String {
        if self.closed_for == Some(CloseReason::Operator) {
            return "the time of the operator's order has passed, and what waited went on"
                .to_owned();
        }
        format!(
            "{} was not ready within {}, so what waited went on without it",
            self.proxy_name(),
            self.timeout()
        )
    }

    fn ready_in_words(&self) -> String {
        let proxy = self.proxy_name();
        match self.opened.map(|opened| opened.reason) {
            Some(OpenReason::ProbeReady) => match &self.probe {
                Some(probe) if probe.finding.ready().is_some() => {
                    format!("{proxy} is ready ({})", probe.finding)
                }
                _ => format!("{proxy} has said that it is ready"),
            },
            Some(OpenReason::KubeReady) => format!("kubelet has called {proxy} ready"),
            _ => format!("{proxy} was ready already when the agent looked at this pod"),
        }
    }

    /// Why it stands where it stands, for a table.
    pub(super) fn in_few_words(&self) -> String {
        let proxy = self.proxy_name();
        let seen = || match &self.probe {
            Some(probe) if probe.finding.ready().is_none() => format!(": {}", probe.finding),
            _ => String::new(),
        };
        match self.state {
            PodState::Pending if self.settings.is_none() => {
                "the API has not told enough yet".to_owned()
            }
            PodState::Pending => "kubelet has not started it yet".to_owned(),
            PodState::Exempt => self.exemption_in_few_words(),
            PodState::Checking => format!("it ran before; {proxy} is asked first{}", seen()),
            PodState::Closed => match self.closed_for {
                _ if self.proxy.as_ref().is_some_and(|proxy| proxy.guessed) => {
                    "the API has not told of it yet; held in case".to_owned()
                }
                _ if self.is_ordered_closed() => CloseReason::Operator.as_str().to_owned(),
                Some(CloseReason::Operator) => CloseReason::Operator.as_str().to_owned(),
                Some(CloseReason::ProxyDied) => format!("{proxy} has ended{}", seen()),
                Some(CloseReason::NobodyListens) => {
                    format!("nobody listens on {} any more", self.ports_in_words())
                }
                Some(CloseReason::Start | CloseReason::NotReady) | None => match &self.probe {
                    Some(_) => format!("{proxy} is not ready{}", seen()),
                    None => format!("{proxy} is not ready yet"),
                },
            },
            PodState::Observed => format!("observed, not held: {proxy} is not ready{}", seen()),
            PodState::Refusing => format!("{proxy} not ready within {}{}", self.timeout(), seen()),
            PodState::Opening => match self.opened {
                Some(opened) => opened.reason.as_str().to_owned(),
                None => "opened".to_owned(),
            },
            PodState::Guarded | PodState::Open => format!("{proxy} is ready"),
            PodState::GivenUp if self.closed_for == Some(CloseReason::Operator) => {
                "the time of the operator's order has passed".to_owned()
            }
            PodState::GivenUp => format!("{proxy} not ready within {}{}", self.timeout(), seen()),
            PodState::Failed => match &self.error {
                Some(error) => format!("its programs could not be worked: {error}"),
                None => "its programs could not be worked".to_owned(),
            },
        }
    }

    fn exemption_in_few_words(&self) -> String {
        let Some(exemption) = self.exemption else { return String::new() };
        let mark = self.unused.as_ref().map(|unused| unused.mark.as_str());
        match (exemption, mark, self.setting("hold").map(|hold| hold.origin)) {
            (Exemption::NotEnabled, _, Some(Origin::Default | Origin::Config) | None) => {
                "not enabled: nobody chose to hold it".to_owned()
            }
            (Exemption::NotEnabled, _, Some(origin)) => format!("disabled: {}", origin.as_str()),
            (Exemption::RedirectOff | Exemption::NoSidecar, Some(mark), _) => {
                format!("{}: {mark}", exemption.as_str())
            }
            _ => exemption.as_str().to_owned(),
        }
    }
}
