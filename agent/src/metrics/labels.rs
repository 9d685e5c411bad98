//! What tells the series of one metric apart.

use std::{fmt::Write as _, sync::Arc};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::core::{AgentState, CloseReason, Exemption, OpenReason, Outcome};

/// A label's value that does not come from this agent. The encoder writes values as they are; without
/// the escapes of the text format one could end its line and begin another.
#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text(pub(super) Arc<str>);

/// Series of a namespace.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfNamespace {
    pub(super) namespace: Text,
}

/// Series of a namespace, by how a hold ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfOutcome {
    pub(super) namespace: Text,
    pub(super) outcome: &'static str,
}

/// Series of a pod. A StatefulSet's has the same name as the one before it; its uid tells them apart.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfPod {
    pub(super) namespace: Text,
    pub(super) pod: Text,
    pub(super) uid: Text,
}

/// Series by a word of the agent's own.
macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $label:ident })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub(super) struct $name {
            pub(super) $label: &'static str,
        }
    )*};
}

words! {
    /// Series by state.
    OfState { state }
    /// Series by reason.
    OfReason { reason }
    /// Series by kind.
    OfKind { kind }
    /// Series by result.
    OfResult { result }
    /// Series by what is watched.
    OfResource { resource }
    /// Series by map.
    OfMap { map }
}

/// Of which build the agent is.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfBuild {
    pub(super) version: &'static str,
}

/// On which kernel it runs.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct OfKernel {
    pub(super) release: Text,
}

// === impl Text ===

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        for part in self.0.split_inclusive(['\\', '"', '\n']) {
            let (plain, special) = match part.char_indices().next_back() {
                Some((at, last @ ('\\' | '"' | '\n'))) => (&part[..at], Some(last)),
                _ => (part, None),
            };
            encoder.write_str(plain)?;
            match special {
                Some('\n') => encoder.write_str("\\n")?,
                Some(special) => {
                    encoder.write_char('\\')?;
                    encoder.write_char(special)?;
                }
                None => {}
            }
        }
        Ok(())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// As its JSON has it.
pub(super) const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Connected => "connected",
        Outcome::Refused => "refused",
        Outcome::TimedOut => "timed-out",
        Outcome::ClosedByApplication => "closed-by-application",
        Outcome::StillConnecting => "still-connecting",
        Outcome::QuerySent => "query-sent",
        Outcome::QueryExpired => "query-expired",
    }
}

/// Why a gate opened. Of a pod that is not to be held it does not matter why, unless a person wants it so.
pub(super) const fn opened(reason: OpenReason) -> &'static str {
    match reason {
        OpenReason::ProbeReady => "probe-ready",
        OpenReason::KubeReady => "kube-ready",
        OpenReason::Deadline => "deadline",
        OpenReason::Exempt(Exemption::Operator) => "operator",
        OpenReason::Exempt(_) => "exempt",
    }
}

/// All of them.
pub(super) const OPENED: [&str; 5] =
    ["probe-ready", "kube-ready", "deadline", "operator", "exempt"];

/// As its JSON has it.
pub(super) const fn closed(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Start => "start",
        CloseReason::NotReady => "not-ready",
        CloseReason::ProxyDied => "proxy-died",
        CloseReason::NobodyListens => "nobody-listens",
        CloseReason::Operator => "operator",
    }
}

/// All of them.
pub(super) const CLOSED: [&str; 5] =
    ["start", "not-ready", "proxy-died", "nobody-listens", "operator"];

/// As its JSON has it.
pub(super) const fn state(state: AgentState) -> &'static str {
    match state {
        AgentState::Starting => "starting",
        AgentState::StandingBy => "standing-by",
        AgentState::Working => "working",
        AgentState::Stuck => "stuck",
    }
}

/// All of them.
pub(super) const STATES: [AgentState; 4] =
    [AgentState::Starting, AgentState::StandingBy, AgentState::Working, AgentState::Stuck];

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::text::encode,
        metrics::{family::Family, gauge::Gauge},
        registry::Registry,
    };
    use serde::Serialize;

    use super::*;

    fn json(value: impl Serialize) -> String {
        serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn words_are_those_of_the_reports() {
        for one in Outcome::ALL {
            assert_eq!(outcome(one), json(one));
        }
        for one in STATES {
            assert_eq!(state(one), json(one));
        }
        for reason in CloseReason::ALL {
            assert_eq!(closed(reason), json(reason));
            assert!(CLOSED.contains(&closed(reason)));
        }
        for reason in [OpenReason::ProbeReady, OpenReason::KubeReady, OpenReason::Deadline] {
            assert_eq!(opened(reason), json(reason));
            assert!(OPENED.contains(&opened(reason)));
        }
    }

    #[test]
    fn no_value_ends_its_line() {
        for (text, written) in [
            ("shop", "shop"),
            ("", ""),
            ("a\"} 1\nb{c=\"", "a\\\"} 1\\nb{c=\\\""),
            ("\\", "\\\\"),
            ("\u{e9}\n\n", "\u{e9}\\n\\n"),
        ] {
            let family = Family::<OfNamespace, Gauge>::default();
            family.get_or_create(&OfNamespace { namespace: text.into() }).set(1);
            let mut registry = Registry::default();
            registry.register("x", "About", family);
            let mut exposed = String::new();
            encode(&mut exposed, &registry).unwrap();
            let expected = format!("x{{namespace=\"{written}\"}} 1");
            assert_eq!(exposed.lines().nth(2), Some(&*expected));
        }
    }
}
