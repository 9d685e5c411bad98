//! What a report says, in sentences: for people who have never read this source.
//!
//! The only place where facts become explanations. The commands lay them out, JSON carries them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{OrderReport, PodReport, PodState, ProxyReport, SettingReport};
use crate::core::{Exemption, Mode, Origin};

mod next;
mod proxy;
mod state;

/// What a sentence of an explanation is about. In the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// What becomes of its connects now.
    State,
    /// Whether it is to be held, and who decided that.
    Hold,
    /// Its proxy, and how it is known.
    Proxy,
    /// What has to be there before its gate opens.
    Ready,
    /// What was seen of that last.
    Seen,
    /// Which of its containers wait.
    Container,
    /// A setting that somebody chose.
    Setting,
    /// What the operator has ordered.
    Order,
    /// What is wrong.
    Problem,
    /// What to do about it.
    Next,
}

/// A sentence or two of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What it is about.
    pub topic: Topic,
    /// In words.
    pub text: String,
    /// The object and its label or annotation, the option, or the container that it rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The command that does it; the text leads up to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

// === impl Reason ===

impl Reason {
    /// A sentence that rests on what stands beside it.
    pub(super) fn new(topic: Topic, text: String) -> Self {
        Self { topic, text, source: None, command: None }
    }
}

// === impl Topic ===

impl Topic {
    /// As a heading.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State => "now",
            Self::Hold => "why",
            Self::Proxy => "proxy",
            Self::Ready => "ready when",
            Self::Seen => "seen last",
            Self::Container => "containers",
            Self::Setting => "settings",
            Self::Order => "order",
            Self::Problem => "wrong",
            Self::Next => "what to do",
        }
    }
}

// === impl PodReport ===

impl PodReport {
    /// The same, with the sentences that its facts come to.
    #[must_use]
    pub fn explained(mut self) -> Self {
        let mut reasons = Vec::new();
        let mut tell = |topic, text, source| {
            reasons.push(Reason { topic, text, source, command: None });
        };
        tell(Topic::State, self.now_in_words(), None);
        if let Some((text, source)) = self.choice() {
            tell(Topic::Hold, text, source);
        }
        if let Some((text, source)) = self.exemption_in_words() {
            tell(Topic::Hold, text, source);
        }
        if let Some(text) = self.observed_in_words() {
            tell(Topic::Hold, text, None);
        }
        self.tell_proxy(&mut tell);
        for setting in self.settings.iter().flatten().filter(|setting| setting.is_chosen()) {
            let SettingReport { key, value, origin: _, source } = setting;
            tell(Topic::Setting, format!("{key} is {value}: {source}."), Some(source.clone()));
        }
        if let Some(order) = self.order {
            tell(Topic::Order, order.in_words(), None);
        }
        for problem in &self.problems {
            tell(Topic::Problem, format!("{problem}."), None);
        }
        for text in self.further_problems() {
            tell(Topic::Problem, text, None);
        }
        for (text, command) in self.hints() {
            reasons.push(Reason { topic: Topic::Next, text, source: None, command });
        }
        self.why = self.in_few_words();
        self.reasons = reasons;
        self
    }

    /// Who decided whether to hold it.
    fn choice(&self) -> Option<(String, Option<String>)> {
        let Some(hold) = self.setting("hold") else {
            let unknown = self.exemption.is_none() && self.state != PodState::Failed;
            return unknown.then(|| {
                let text = "The API server has not told of this pod yet. Until it does, what it dials \
                            at a port of any known proxy waits, in case the pod is one to hold.";
                (text.to_owned(), None)
            });
        };
        let SettingReport { origin, source, .. } = hold;
        let namespace = self.namespace();
        let but = match self.exemption {
            Some(_) => "; but this pod is left alone all the same",
            None => "",
        };
        let text = match (self.wanted, origin) {
            (true, Origin::Config) => {
                format!("The agent holds all pods unless they say no: {source}{but}.")
            }
            (true, _) => format!("Holding is enabled by {source}{but}."),
            (false, Origin::Default) => format!(
                "Nobody chose: neither this pod nor namespace {namespace} has the label \
                 holdfast.dev/hold=enabled, and the default is disabled."
            ),
            (false, Origin::Config) => format!(
                "Neither this pod nor namespace {namespace} has the label holdfast.dev/hold=enabled, \
                 and the agent's default is disabled: {source}."
            ),
            (false, Origin::Pod) => {
                format!("Holding is disabled by {source}, which wins over its namespace.")
            }
            (false, _) => format!("Holding is disabled by {source}."),
        };
        Some((text, Some(source.clone())))
    }

    /// Why it is left alone, unless that is just nobody's wish.
    fn exemption_in_words(&self) -> Option<(String, Option<String>)> {
        let namespace = self.namespace();
        let profile = |what: &str| match &self.unused {
            Some(unused) => (what.replace("{}", &unused.profile), Some(unused.mark.clone())),
            None => (what.replace("{}", "its mesh"), None),
        };
        Some(match self.exemption? {
            Exemption::NotEnabled => return None,
            Exemption::NoProxy => match &self.unused {
                Some(unused) => (
                    format!(
                        "It has a container by the name of {}'s proxy, but {}: a name alone is \
                         nobody's proxy.",
                        unused.profile, unused.mark
                    ),
                    Some(unused.mark.clone()),
                ),
                None => (
                    "It has no container of a proxy that holdfast knows, so there is nothing to wait \
                     for."
                        .to_owned(),
                    None,
                ),
            },
            Exemption::RedirectOff => {
                let (text, mark) = profile("It has the proxy of {}, but the mesh redirects nothing to it");
                (ended(text, mark.as_deref()), mark)
            }
            Exemption::NoSidecar => {
                let (text, mark) = profile(
                    "For {} this is no pod with a side-car, but a gateway or one that is served from \
                     outside",
                );
                (ended(text, mark.as_deref()), mark)
            }
            Exemption::HostNetwork => (
                "It uses the node's own network (hostNetwork: true): no mesh redirects it, and a hold \
                 would hit the node."
                    .to_owned(),
                Some("hostNetwork of the pod".to_owned()),
            ),
            Exemption::Terminating => (
                "It is being deleted: its proxy is draining, and not ready means something else now."
                    .to_owned(),
                Some("deletionTimestamp of the pod".to_owned()),
            ),
            Exemption::Finished => {
                ("All its containers have ended: nothing runs in it.".to_owned(), None)
            }
            Exemption::ControlPlane => (
                format!(
                    "Pods of namespace {namespace} are never held: a node, and a mesh's control plane, \
                     must be able to start."
                ),
                Some(format!("namespace {namespace}")),
            ),
            Exemption::Agent => {
                ("It is the agent's own pod, which opens the others' gates.".to_owned(), None)
            }
            Exemption::Operator => {
                ("The operator has opened its gate, whatever its settings say.".to_owned(), None)
            }
            Exemption::Deleted => ("The API server has no such pod any more.".to_owned(), None),
        })
    }

    /// That it is observed, and by whose wish.
    fn observed_in_words(&self) -> Option<String> {
        self.observed.then(|| match self.watched_until {
            Some(until) => {
                format!(
                    "Its starts are observed until {until}, because holdfast diagnose was asked to."
                )
            }
            None => "Its starts are observed: on this node that is done with all pods of a known \
                     proxy that nobody enabled (observe is enabled)."
                .to_owned(),
        })
    }

    /// The proxy's container, or what to call it as long as it has no name.
    pub(super) fn proxy_name(&self) -> &str {
        match &self.proxy {
            Some(ProxyReport { container, .. }) if !container.is_empty() => container,
            _ => "its proxy",
        }
    }

    pub(super) fn namespace(&self) -> &str {
        self.pod.name.as_ref().map_or("", |name| &*name.namespace)
    }

    /// What its closed gate does.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.observed {
            return Mode::Observe;
        }
        let mode = self.setting("mode").and_then(|setting| setting.value.parse().ok());
        mode.unwrap_or_default()
    }

    /// How long its connects wait at most, in words.
    #[must_use]
    pub fn timeout(&self) -> String {
        let timeout = self.setting("timeout");
        timeout.map_or_else(|| "its time".to_owned(), |setting| setting.value.clone())
    }

    pub(super) fn ports_in_words(&self) -> String {
        match &self.proxy {
            Some(proxy) => proxy::ports_in_words(&proxy.ports, "and"),
            None => "its ports".to_owned(),
        }
    }
}

// === impl SettingReport ===

impl SettingReport {
    /// Whether it is one that an explanation names: the switch has its own sentence, and what nobody
    /// chose is what the documents say.
    fn is_chosen(&self) -> bool {
        self.origin != Origin::Default && self.key != "hold"
    }
}

// === impl OrderReport ===

impl OrderReport {
    fn in_words(self) -> String {
        match self {
            Self::Open { until: None } => {
                "The operator has ordered its gate open, until taken back.".to_owned()
            }
            Self::Open { until: Some(until) } => {
                format!("The operator has ordered its gate open, until {until}.")
            }
            Self::Closed { until } => {
                format!("The operator has ordered its gate closed, until {until} at most.")
            }
        }
    }
}

/// A sentence, with what it rests on.
fn ended(mut text: String, mark: Option<&str>) -> String {
    if let Some(mark) = mark {
        let _ = write!(text, ": {mark}");
    }
    text.push('.');
    text
}

#[cfg(test)]
mod tests;
