//! Values of a profile that a pod's own spec can tell better.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    super::{
        ContainerRole, ContainerSpec, ContainerView, PodView, ReadyCheck, settings::ValueError,
    },
    document::scalar_at,
    short::{self, ShortOrLong},
};

/// Names a text of the pod: the key of an annotation, or the name of a variable, and the path
/// within it if it holds a document. Written `key` or `key#path.to.value`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Reference {
    /// The key or the name.
    pub key: String,
    /// The path, its steps joined by dots.
    pub path: Option<String>,
}

/// Where a number can stand in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// An annotation of the pod.
    Annotation(Reference),
    /// A variable of the proxy's container.
    Env(Reference),
    /// The value of an argument of the proxy's container, with one dash or two.
    Arg(String),
    /// A variable of a setup container.
    SetupEnv(Reference),
    /// The value of an argument of a setup container.
    SetupArg(String),
    /// A named port of the proxy's container.
    Port(String),
    /// Its startup or readiness probe, if it is a GET on the path of the check.
    Probe,
    /// Its `runAsUser`.
    RunAsUser,
}

/// A number, and where the pod can tell another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Number {
    /// What holds if the pod tells nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<u32>,
    /// Where to look, in this order; the first that tells a number counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Source>,
}

/// The parts of a pod that tell about one proxy in it.
#[derive(Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub(super) pod: &'a PodView,
    /// The container; `None` if the pod has none of that name.
    pub(super) proxy: Option<&'a ContainerView>,
    pub(super) setup_patterns: &'a [String],
}

// === impl Reference ===

impl From<String> for Reference {
    fn from(text: String) -> Self {
        match text.split_once('#') {
            Some((key, path)) => Self { key: key.to_owned(), path: Some(path.to_owned()) },
            None => Self { key: text, path: None },
        }
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl FromStr for Reference {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        self.path.iter().try_for_each(|path| write!(f, "#{path}"))
    }
}

impl Reference {
    /// The text, given what stands under the key. A document that cannot be read tells nothing.
    pub(super) fn text(&self, value: Option<&String>) -> Option<String> {
        let value = value?;
        match &self.path {
            None => Some(value.clone()),
            Some(path) => scalar_at(value, path).ok().flatten(),
        }
    }
}

// === impl Number ===

impl ShortOrLong for Number {
    const EXPECTED: &str = "a number, or a mapping with default and from";

    fn long<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

impl FromStr for Number {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { default: Some(text.parse()?), from: Vec::new() })
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        short::deserialize(deserializer)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.default, &*self.from) {
            (Some(default), []) => serializer.serialize_u32(default),
            _ => Self::serialize(self, serializer),
        }
    }
}

impl Number {
    /// The port that the pod tells, or the default.
    pub(super) fn port(&self, evidence: Evidence<'_>) -> Option<u16> {
        let told = told_ports(&self.from, evidence, None).first().copied();
        told.or_else(|| self.default.and_then(as_port))
    }

    /// The user id that the pod tells, or the default.
    ///
    /// Root is nobody's mark: a proxy that runs as root, as Istio's does in TPROXY mode, shares that
    /// uid with any application, which must not pass for it.
    pub(super) fn uid(&self, evidence: Evidence<'_>) -> Option<u32> {
        let told = self.from.iter().find_map(|source| source.number(evidence));
        told.or(self.default).filter(|uid| *uid != 0)
    }
}

/// The ports that the pod tells, of the first source that tells any.
pub(super) fn told_ports(
    sources: &[Source],
    evidence: Evidence<'_>,
    path: Option<&str>,
) -> Vec<u16> {
    let mut told = sources.iter().map(|source| source.ports(evidence, path));
    told.find(|ports| !ports.is_empty()).unwrap_or_default()
}

/// A number as a port, if it can be one.
pub(super) fn as_port(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

// === impl Source ===

impl Source {
    fn ports(&self, evidence: Evidence<'_>, path: Option<&str>) -> Vec<u16> {
        match self {
            Self::Port(name) => {
                evidence.spec().and_then(|spec| spec.ports.get(name)).copied().into_iter().collect()
            }
            Self::Probe => evidence.probed(path).into_iter().collect(),
            _ => self.text(evidence).map(|text| ports_in(&text)).unwrap_or_default(),
        }
    }

    fn number(&self, evidence: Evidence<'_>) -> Option<u32> {
        match self {
            Self::RunAsUser => evidence.spec()?.run_as_user,
            _ => self.text(evidence)?.parse().ok(),
        }
    }

    fn text(&self, evidence: Evidence<'_>) -> Option<String> {
        match self {
            Self::Annotation(reference) => {
                reference.text(evidence.pod.annotations.get(&reference.key))
            }
            Self::Env(reference) => reference.text(evidence.spec()?.env.get(&reference.key)),
            Self::Arg(name) => argument(&evidence.spec()?.args, name)?.map(str::to_owned),
            Self::SetupEnv(reference) => evidence
                .setup()
                .find_map(|container| reference.text(container.spec.env.get(&reference.key))),
            Self::SetupArg(name) => evidence
                .setup()
                .find_map(|container| argument(&container.spec.args, name).flatten())
                .map(str::to_owned),
            Self::Port(_) | Self::Probe | Self::RunAsUser => None,
        }
    }
}

// === impl Evidence ===

impl<'a> Evidence<'a> {
    /// What the proxy's container says about itself.
    pub(super) fn spec(self) -> Option<&'a ContainerSpec> {
        self.proxy.map(|proxy| &proxy.spec)
    }

    /// The setup containers. They end before an application starts; one of such a name that does
    /// not is an application.
    pub(super) fn setup(self) -> impl Iterator<Item = &'a ContainerView> {
        self.pod.containers.iter().filter(move |container| {
            container.role == ContainerRole::Init
                && self
                    .setup_patterns
                    .iter()
                    .any(|pattern| super::matches(pattern, &container.name))
        })
    }

    /// The port of a probe with this path.
    fn probed(self, path: Option<&str>) -> Option<u16> {
        self.spec()?.probes.iter().find_map(|probe| match probe {
            ReadyCheck::Http { port, path: probed } if path == Some(probed) => Some(*port),
            _ => None,
        })
    }
}

/// The value of the argument with this name: `--name value`, `--name=value`, with one dash or two
/// as Go's programs take them. `Some(None)`: it is there, without a value.
pub(super) fn argument<'a>(args: &'a [String], name: &str) -> Option<Option<&'a str>> {
    let bare = name.trim_start_matches('-');
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let Some(text) = arg.strip_prefix('-') else {
            continue;
        };
        let text = text.strip_prefix('-').unwrap_or(text);
        match text.split_once('=') {
            Some((name, value)) if name == bare => return Some(Some(value)),
            None if text == bare => {
                let value = args.peek().filter(|next| !next.starts_with('-'));
                return Some(value.map(|value| value.as_str()));
            }
            _ => {}
        }
    }
    None
}

/// The ports in `4140`, `127.0.0.1:4140` or a list of these with commas.
pub(super) fn ports_in(text: &str) -> Vec<u16> {
    let numbers = text.split(',').map(|item| item.rsplit(':').next().unwrap_or(item).trim());
    let ports: Result<Vec<u16>, ValueError> =
        super::super::settings::port_list(&numbers.collect::<Vec<_>>().join(","));
    ports.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_their_programs_do() {
        let args = ["/daprd", "--dapr-http-port", "3600", "-x=5", "--flag", "--last"];
        let args: Vec<_> = args.map(str::to_owned).into();
        for (name, expected) in [
            ("--dapr-http-port", Some(Some("3600"))),
            ("-dapr-http-port", Some(Some("3600"))),
            ("--x", Some(Some("5"))),
            ("--flag", Some(None)),
            ("--last", Some(None)),
            ("--daprd", None),
            ("3600", None),
        ] {
            assert_eq!(argument(&args, name), expected, "{name}");
        }
    }

    #[test]
    fn ports_are_found_in_addresses() {
        for (text, expected) in [
            ("4140", &[4140][..]),
            ("127.0.0.1:4140,[::1]:4140", &[4140]),
            ("localhost:1, localhost:2", &[1, 2]),
            ("0", &[]),
            ("unix:/run/x", &[]),
            ("", &[]),
        ] {
            assert_eq!(ports_in(text), expected, "{text}");
        }
    }

    #[test]
    fn a_reference_is_written_as_it_is_read() {
        for text in ["kuma.io/sidecar-uid", "proxy.istio.io/config#a.b"] {
            assert_eq!(Reference::from(text.to_owned()).to_string(), text);
        }
    }
}
