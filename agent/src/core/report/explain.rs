//! What a report says, in sentences: for people who have never read this source.
//!
//! The only place where facts become explanations. The commands lay them out, JSON carries them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{OrderReport, PodReport, PodState, ProxyReport, SettingReport};
use crate::core::{CloseReason, Exemption, Mode, OpenReason, Origin};

mod next;
mod proxy;

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

    /// What becomes of its connects now.
    fn now_in_words(&self) -> String {
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
    fn in_few_words(&self) -> String {
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
