//! What a profile says.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    super::{ReadyCheck, settings::ValueError},
    condition::{Condition, Mark},
    short::{self, ShortOrLong},
    source::{Number, Source},
    wish::Wish,
};

/// A mesh, or a side-car that applications connect to themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Names of the proxy's container, in `containers` or as a native sidecar in `initContainers`;
    /// a trailing `*` stands for any ending.
    pub containers: Vec<String>,
    /// What the injector leaves on a pod: at least one must be there. Containers with common names,
    /// such as `envoy`, are told apart by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
    /// Pods with one of these have such a container for another purpose, as gateways do, or need
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_this_kind: Vec<Mark>,
    /// Init containers that set the redirect up or check it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup_containers: Vec<String>,
    /// Whether the pod's connections are redirected to `ports`, or the application dials them.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub redirects: bool,
    /// When the proxy takes connections at these ports at all.
    #[serde(default, skip_serializing_if = "Condition::is_empty")]
    pub active: Condition,
    /// The user it runs as, if no application runs as the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Number>,
    /// How to learn that it is ready: the first that says so counts.
    pub ready: Vec<CheckSpec>,
    /// Whether kubelet's word that the container is ready means it, too.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub kube_ready: bool,
    /// The loopback ports at which it takes the application's connections.
    pub ports: Vec<PortSpec>,
    /// The loopback port at which it takes captured DNS queries, and when they are captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Namespaces whose pods are never held, because readiness depends on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control_plane_namespaces: Vec<String>,
    /// The mesh's own annotations that ask for what holdfast does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hold_wishes: Vec<Wish>,
    /// What to tell the owner of an init container that needs the network before the proxy is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusion_hint: Option<String>,
}

/// A check, and where the pod can tell another port for it. Short form: the check alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
pub struct CheckSpec {
    /// The check.
    pub check: CheckKind,
    /// Where its port can stand; the first that tells one counts. A check whose port the pod tells
    /// replaces those on the same path whose port it does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_from: Vec<Source>,
    /// When the endpoint is there: at least one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Mark>,
}

/// A check in a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CheckKind {
    /// As users write it.
    Check(ReadyCheck),
    /// `tcp`: somebody listens at the ports of the profile.
    Listening,
}

/// A port. Short form: the number alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
pub struct PortSpec {
    /// What holds if the pod tells nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<u32>,
    /// Where the pod can tell another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Source>,
    /// The proxy opens a port for each argument like this one (`*` stands for any text): the one
    /// that the argument names in `?port=`, else the next number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
}

/// The capture of DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The port.
    pub port: Number,
    /// At least one of these must be there; always, if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Mark>,
    /// None of these may be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<Mark>,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_yes(value: &bool) -> bool {
    *value
}

// === impl CheckKind ===

impl FromStr for CheckKind {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "tcp" { Ok(Self::Listening) } else { text.parse().map(Self::Check) }
    }
}

impl TryFrom<String> for CheckKind {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<CheckKind> for String {
    fn from(kind: CheckKind) -> Self {
        kind.to_string()
    }
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(check) => check.fmt(f),
            Self::Listening => f.write_str("tcp"),
        }
    }
}

// === impl CheckSpec ===

impl ShortOrLong for CheckSpec {
    const EXPECTED: &str = "a check such as http://:15021/healthz/ready, or a mapping with check";

    fn long<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

impl FromStr for CheckSpec {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Ok(Self { check: text.parse()?, port_from: Vec::new(), when: Vec::new() })
    }
}

impl<'de> Deserialize<'de> for CheckSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        short::deserialize(deserializer)
    }
}

impl Serialize for CheckSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.port_from.is_empty() && self.when.is_empty() {
            self.check.serialize(serializer)
        } else {
            Self::serialize(self, serializer)
        }
    }
}

// === impl PortSpec ===

impl ShortOrLong for PortSpec {
    const EXPECTED: &str = "a port, or a mapping with default, from and each";

    fn long<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

impl FromStr for PortSpec {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { default: Some(text.parse()?), ..Self::default() })
    }
}

impl<'de> Deserialize<'de> for PortSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        short::deserialize(deserializer)
    }
}

impl Serialize for PortSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.default, &*self.from, &self.each) {
            (Some(default), [], None) => serializer.serialize_u32(default),
            _ => Self::serialize(self, serializer),
        }
    }
}
