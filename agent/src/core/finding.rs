//! What a probe has found out last: the reason why a gate is still closed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ReadyCheck;

/// What the last round of a pod's probe came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Finding {
    /// No process of the pod is to be found.
    NoProcess,
    /// The pod's process is in the node's own network namespace, where nobody is asked.
    HostNetwork,
    /// The pod's network namespace could not be entered.
    Unreachable {
        /// Why.
        error: String,
    },
    /// These ports, which must have a listener before anybody is asked, have none.
    NobodyListens {
        /// The ports, in the order of the profile; never empty.
        ports: Vec<u16>,
    },
    /// Every port has a listener, and kubelet's word, which is all there is to go by, is missing.
    KubeletSilent {
        /// The ports.
        ports: Vec<u16>,
    },
    /// The endpoint's port refused the connection.
    Refused {
        /// The endpoint.
        check: ReadyCheck,
    },
    /// The endpoint did not answer in time.
    Silent {
        /// The endpoint.
        check: ReadyCheck,
        /// How long it was waited for, in ms.
        within_ms: u64,
    },
    /// The endpoint's answer is not one that means ready.
    Answered {
        /// The endpoint.
        check: ReadyCheck,
        /// The HTTP status.
        status: u16,
    },
    /// What answers at the endpoint does not speak HTTP, or ended the connection.
    Failed {
        /// The endpoint.
        check: ReadyCheck,
        /// What went wrong.
        error: String,
    },
    /// The proxy is ready.
    Ready {
        /// By what it is known.
        check: ReadyCheck,
    },
}

// === impl Finding ===

impl Finding {
    /// The check that says ready, if one does.
    #[must_use]
    pub const fn ready(&self) -> Option<&ReadyCheck> {
        match self {
            Self::Ready { check } => Some(check),
            _ => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProcess => f.write_str("no process in the pod yet"),
            Self::HostNetwork => f.write_str("the pod is in the node's own network namespace"),
            Self::Unreachable { error } => {
                write!(f, "the pod's network namespace cannot be entered: {error}")
            }
            Self::NobodyListens { ports } => write!(f, "nobody listens on {}", Ports(ports)),
            Self::KubeletSilent { ports } if ports.is_empty() => {
                f.write_str("kubelet has not said ready")
            }
            Self::KubeletSilent { ports } => {
                write!(f, "somebody listens on {}, but kubelet has not said ready", Ports(ports))
            }
            Self::Refused { check } => write!(f, "{check}: connection refused"),
            Self::Silent { check, within_ms } => {
                write!(f, "{check}: no answer within {within_ms} ms")
            }
            Self::Answered { check, status } => write!(f, "{check} answered {status}"),
            Self::Failed { check, error } => write!(f, "{check}: {error}"),
            Self::Ready { check: ReadyCheck::Kube } => f.write_str("kubelet says ready"),
            Self::Ready { check: ReadyCheck::Tcp { port } } => {
                write!(f, "somebody listens on port {port}")
            }
            Self::Ready { check } => write!(f, "{check} says ready"),
        }
    }
}

/// Ports in words.
struct Ports<'a>(&'a [u16]);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "port " } else { "ports " })?;
        for (index, port) in self.0.iter().enumerate() {
            let separator = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " and ",
                _ => ", ",
            };
            write!(f, "{separator}{port}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> ReadyCheck {
        ReadyCheck::Http { port: 15021, path: "/healthz/ready".to_owned() }
    }

    #[test]
    fn findings_are_words_and_come_back_from_json() {
        for (finding, words) in [
            (Finding::NoProcess, "no process in the pod yet"),
            (Finding::HostNetwork, "the pod is in the node's own network namespace"),
            (
                Finding::Unreachable { error: "Operation not permitted (os error 1)".to_owned() },
                "the pod's network namespace cannot be entered: Operation not permitted (os error 1)",
            ),
            (Finding::NobodyListens { ports: vec![15001] }, "nobody listens on port 15001"),
            (
                Finding::NobodyListens { ports: vec![15001, 15006, 15053] },
                "nobody listens on ports 15001, 15006 and 15053",
            ),
            (Finding::KubeletSilent { ports: Vec::new() }, "kubelet has not said ready"),
            (
                Finding::KubeletSilent { ports: vec![3500] },
                "somebody listens on port 3500, but kubelet has not said ready",
            ),
            (
                Finding::KubeletSilent { ports: vec![3500, 50001] },
                "somebody listens on ports 3500 and 50001, but kubelet has not said ready",
            ),
            (Finding::Refused { check: http() }, "http://:15021/healthz/ready: connection refused"),
            (
                Finding::Silent { check: http(), within_ms: 500 },
                "http://:15021/healthz/ready: no answer within 500 ms",
            ),
            (
                Finding::Answered { check: http(), status: 503 },
                "http://:15021/healthz/ready answered 503",
            ),
            (
                Finding::Failed { check: http(), error: "invalid HTTP version parsed".to_owned() },
                "http://:15021/healthz/ready: invalid HTTP version parsed",
            ),
            (Finding::Ready { check: http() }, "http://:15021/healthz/ready says ready"),
            (
                Finding::Ready { check: ReadyCheck::Tcp { port: 5432 } },
                "somebody listens on port 5432",
            ),
            (Finding::Ready { check: ReadyCheck::Kube }, "kubelet says ready"),
        ] {
            assert_eq!(finding.to_string(), words);
            let json = serde_json::to_string(&finding).unwrap();
            assert_eq!(serde_json::from_str::<Finding>(&json).unwrap(), finding, "{json}");
        }
    }

    #[test]
    fn programs_read_the_kind_and_the_check_as_users_write_it() {
        let json = serde_json::to_value(Finding::Silent { check: http(), within_ms: 500 }).unwrap();
        let expected = serde_json::json!({
            "kind": "silent", "check": "http://:15021/healthz/ready", "within-ms": 500
        });
        assert_eq!(json, expected);
        let unknown = r#"{"kind": "ready", "check": "ftp://:21/"}"#;
        assert!(serde_json::from_str::<Finding>(unknown).is_err());
    }
}
