//! An episode in words: what happened at a start, and how it went out.

use super::{ContainerSpan, Episode};
use crate::core::{CloseReason, OpenReason, Outcome, connections, in_words};

impl Episode {
    /// What happened, from the closing to the end, as far as it has come. Without its time.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut parts = vec![self.closed_in_words()];
        parts.extend(self.touched_in_words());
        parts.extend(self.opened_in_words());
        if let Some(error) = &self.error {
            parts.push(format!("the programs could not be worked: {error}"));
        }
        parts.extend(self.outcomes_in_words());
        parts.join("; ")
    }

    fn closed_in_words(&self) -> String {
        match self.reason {
            Some(CloseReason::Start) => "the pod started".to_owned(),
            Some(CloseReason::NotReady) => {
                format!("{} was not ready when the agent came", self.proxy_name())
            }
            Some(CloseReason::ProxyDied) => format!("{} had ended", self.proxy_name()),
            Some(CloseReason::NobodyListens) => {
                format!("{} did not listen any more", self.proxy_name())
            }
            Some(CloseReason::Operator) => "the operator closed the gate".to_owned(),
            None => "a connection came before it was known what the pod is".to_owned(),
        }
    }

    fn touched_in_words(&self) -> Vec<String> {
        let mut parts = Vec::new();
        let longest = match (self.held, self.outcomes.is_empty()) {
            (_, true) => String::new(),
            (1, false) => format!(" for {}", in_words(self.longest)),
            (_, false) => format!(", the longest for {}", in_words(self.longest)),
        };
        if self.held > 0 {
            parts.push(format!("{} waited{longest}", connections(self.held)));
        }
        match self.by_sentry {
            0 => {}
            all if all == self.held => parts.push("at the sentry until the agent came".to_owned()),
            some => parts.push(format!("{some} of them at the sentry until the agent came")),
        }
        if self.refused > 0 {
            parts.push(format!("{} failed at once", connections(self.refused)));
        }
        if self.observed > 0 {
            parts.push(format!("{} would have waited", connections(self.observed)));
        }
        if parts.is_empty() {
            parts.push("nobody had to wait".to_owned());
        }
        parts
    }

    fn opened_in_words(&self) -> Vec<String> {
        let proxy = self.proxy_name();
        let timeout = in_words(self.timeout);
        let mut parts = Vec::new();
        if self.refuses_at.is_some() {
            parts.push(format!(
                "{proxy} was not ready within {timeout}, and connections failed from then on"
            ));
        }
        parts.extend(match self.open_reason {
            Some(OpenReason::ProbeReady | OpenReason::KubeReady) => {
                Some(match self.ready_after() {
                    Some(after) if self.began_at_sentry().is_some() => {
                        format!("{proxy} was ready {} after the first of them", in_words(after))
                    }
                    Some(after) if self.containers.iter().any(|container| container.is_proxy) => {
                        format!("{proxy} was ready {} after its start", in_words(after))
                    }
                    Some(after) => format!("{proxy} was ready {} later", in_words(after)),
                    None => format!("{proxy} was ready"),
                })
            }
            Some(OpenReason::Deadline) if self.reason == Some(CloseReason::Operator) => {
                Some("the time of the order passed".to_owned())
            }
            Some(OpenReason::Deadline) => Some(format!(
                "{proxy} was NOT ready within {timeout}, and what waited went on without it"
            )),
            Some(OpenReason::Exempt(exemption)) => {
                Some(format!("then it was not to be held any more: {}", exemption.as_str()))
            }
            None if self.ended_at.is_none() => Some("it goes on".to_owned()),
            None => None,
        });
        parts
    }

    /// How those that waited ended; nothing if all of them went well.
    fn outcomes_in_words(&self) -> Option<String> {
        let well = |outcome: &Outcome| matches!(outcome, Outcome::Connected | Outcome::QuerySent);
        match (self.outcomes.len(), self.outcomes.keys().all(well)) {
            (0, _) => None,
            (_, true) => Some("all of them went through".to_owned()),
            _ => {
                let ends = self.outcomes.iter();
                let ends = ends.map(|(outcome, count)| format!("{count} {}", outcome.as_str()));
                Some(ends.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn proxy_name(&self) -> &str {
        let container = self.containers.iter().find(|container| container.is_proxy);
        match container {
            Some(ContainerSpan { name, .. }) => name,
            None if self.proxy.is_empty() => "its proxy",
            None => &self.proxy,
        }
    }
}
