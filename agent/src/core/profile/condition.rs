//! Marks that a pod carries, and conditions made of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::source::{Evidence, Reference, argument};

/// Something that a pod carries: a key, or a key with a certain value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// An annotation of the pod.
    Annotation(Expected),
    /// A label of the pod.
    Label(Expected),
    /// A variable of the proxy's container.
    Env(Expected),
    /// An argument of the proxy's container.
    Arg(Expected),
}

/// What is to stand there. Written `key`, `key=value` or `key#path=value`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Expected {
    /// Where.
    pub reference: Reference,
    /// What; `None`: anything but an explicit no.
    pub value: Option<String>,
}

/// When something holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Condition {
    /// At least one of these must be there; always, if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Mark>,
    /// None of these may be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<Mark>,
}

/// Why a condition does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unmet {
    /// None of `when` is there.
    Missing(Vec<Mark>),
    /// This one of `unless` is.
    Present(Mark),
}

// === impl Expected ===

impl From<String> for Expected {
    fn from(text: String) -> Self {
        match text.split_once('=') {
            Some((reference, value)) => {
                Self { reference: reference.to_owned().into(), value: Some(value.to_owned()) }
            }
            None => Self { reference: text.into(), value: None },
        }
    }
}

impl From<Expected> for String {
    fn from(expected: Expected) -> Self {
        expected.to_string()
    }
}

impl FromStr for Expected {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.to_owned().into())
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference.fmt(f)?;
        self.value.iter().try_for_each(|value| write!(f, "={value}"))
    }
}

impl Expected {
    fn is_met_by(&self, found: &str) -> bool {
        match &self.value {
            None => truth(found) != Some(false),
            Some(value) => match truth(value) {
                // Programs in Go take "1", "t" and "TRUE" for true as well.
                Some(truth_value) => truth(found) == Some(truth_value),
                None => value.eq_ignore_ascii_case(found),
            },
        }
    }
}

/// What `strconv.ParseBool` makes of a text.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

// === impl Mark ===

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation(expected) => write!(f, "annotation {expected}"),
            Self::Label(expected) => write!(f, "label {expected}"),
            Self::Env(expected) => write!(f, "env {expected}"),
            Self::Arg(expected) => write!(f, "argument {expected}"),
        }
    }
}

impl Mark {
    pub(super) fn is_on(&self, evidence: Evidence<'_>) -> bool {
        let (expected, found) = match self {
            Self::Annotation(expected) => {
                (expected, evidence.pod.annotations.get(&expected.reference.key))
            }
            Self::Label(expected) => (expected, evidence.pod.labels.get(&expected.reference.key)),
            Self::Env(expected) => {
                (expected, evidence.spec().and_then(|spec| spec.env.get(&expected.reference.key)))
            }
            Self::Arg(expected) => {
                let found =
                    evidence.spec().and_then(|spec| argument(&spec.args, &expected.reference.key));
                // A flag without a value is one that is set.
                return found.is_some_and(|value| expected.is_met_by(value.unwrap_or("true")));
            }
        };
        expected.reference.text(found).is_some_and(|found| expected.is_met_by(&found))
    }

    /// Whether it names nothing, and so can never be there.
    pub(super) const fn is_nameless(&self) -> bool {
        let (Self::Annotation(expected)
        | Self::Label(expected)
        | Self::Env(expected)
        | Self::Arg(expected)) = self;
        expected.reference.key.is_empty()
    }
}

// === impl Condition ===

impl Condition {
    pub(super) fn is_empty(&self) -> bool {
        self.when.is_empty() && self.unless.is_empty()
    }

    pub(super) fn check(&self, evidence: Evidence<'_>) -> Result<(), Unmet> {
        if let Some(mark) = self.unless.iter().find(|mark| mark.is_on(evidence)) {
            return Err(Unmet::Present(mark.clone()));
        }
        if !self.when.is_empty() && !self.when.iter().any(|mark| mark.is_on(evidence)) {
            return Err(Unmet::Missing(self.when.clone()));
        }
        Ok(())
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present(mark) => mark.fmt(f),
            Self::Missing(marks) => {
                f.write_str("no ")?;
                for (position, mark) in marks.iter().enumerate() {
                    if position > 0 {
                        f.write_str(" or ")?;
                    }
                    mark.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}
