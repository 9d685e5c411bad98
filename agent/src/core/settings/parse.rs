//! Reading what users write. The same spelling everywhere: on pods, on namespaces, in the config
//! file, in profiles and in flags.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use agent_ebpf::gate::MAX_PORTS;
use hyper::http::uri::PathAndQuery;

use super::{Mode, OnTimeout, ReadyCheck, RefuseErrno};

/// Shortest and longest time for which a connect may be held.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// The longest path of a readiness endpoint. It goes into every request.
const MAX_PATH: usize = 256;

/// The longest name of a container (RFC 1123, a DNS label), and so of a profile.
const MAX_NAME: usize = 63;

/// How much of a value is repeated in a message, in characters.
const MAX_SHOWN: usize = 64;

/// Which rule a value breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// See the message.
    #[error("it must be enabled or disabled")]
    Switch,
    /// See the message.
    #[error("it must be hold, retry, refuse or observe")]
    Mode,
    /// See the message.
    #[error("it must be ECONNREFUSED, EAGAIN or ETIMEDOUT")]
    Errno,
    /// See the message.
    #[error("it must be a duration from 1s to 1h, such as 90s or 2m")]
    Timeout,
    /// See the message.
    #[error("it must be open or refuse")]
    OnTimeout,
    /// See the message.
    #[error("it must be a profile's or a container's name")]
    Name,
    /// See the message.
    #[error("it must be like http://:15021/healthz/ready, tcp://:5432 or kube")]
    Ready,
    /// See the message.
    #[error("it must be ports from 1 to 65535, with commas between them")]
    Ports,
    /// See the message.
    #[error("only {MAX_PORTS} ports can be held")]
    TooManyPorts,
}

/// Reads `enabled` or `disabled`.
///
/// # Errors
///
/// On anything else.
pub fn switch(text: &str) -> Result<bool, ValueError> {
    match text {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => Err(ValueError::Switch),
    }
}

/// Reads the time for which a connect is held at most.
///
/// # Errors
///
/// If it is not a duration, or not between one second and one hour.
pub fn hold_timeout(text: &str) -> Result<Duration, ValueError> {
    humantime::parse_duration(text)
        .ok()
        .filter(|timeout| TIMEOUTS.contains(timeout))
        .ok_or(ValueError::Timeout)
}

impl FromStr for Mode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let modes = [Self::Hold, Self::Retry, Self::Refuse, Self::Observe];
        modes.into_iter().find(|mode| mode.as_str() == text).ok_or(ValueError::Mode)
    }
}

impl FromStr for OnTimeout {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        [Self::Open, Self::Refuse]
            .into_iter()
            .find(|on_timeout| on_timeout.as_str() == text)
            .ok_or(ValueError::OnTimeout)
    }
}

impl FromStr for RefuseErrno {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        [Self::ConnRefused, Self::Again, Self::TimedOut]
            .into_iter()
            .find(|errno| errno.as_str() == text)
            .ok_or(ValueError::Errno)
    }
}

impl FromStr for ReadyCheck {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let check = if text == "kube" {
            Some(Self::Kube)
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            rest.strip_prefix(':').and_then(port).map(|port| Self::Tcp { port })
        } else {
            text.strip_prefix("http://").and_then(http)
        };
        check.ok_or(ValueError::Ready)
    }
}

/// Whether a request can be made for it, and for all of it: a fragment is not sent.
fn is_request_target(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    plain && PathAndQuery::try_from(path).is_ok_and(|target| target.as_str() == path)
}

/// Reads what stands behind `http://`. No host: a pod is asked on its own loopback only.
fn http(rest: &str) -> Option<ReadyCheck> {
    let rest = rest.strip_prefix(':')?;
    let slash = rest.find('/')?;
    let (number, path) = rest.split_at(slash);
    let plain = path.len() <= MAX_PATH && is_request_target(path);
    let port = port(number).filter(|_| plain)?;
    Some(ReadyCheck::Http { port, path: path.to_owned() })
}

/// Reads a port. Digits only, unlike [`u16::from_str`], which takes a sign.
pub(super) fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// Reads ports with commas between them; each counts once, in the order of their first mention.
pub(in super::super) fn port_list(text: &str) -> Result<Vec<u16>, ValueError> {
    let mut ports = Vec::new();
    for item in text.split(',') {
        let port = port(item.trim()).ok_or(ValueError::Ports)?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// Reads the name of a container or a profile.
pub(in super::super) fn name(text: &str) -> Result<String, ValueError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let valid = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(plain);
    if valid { Ok(text.to_owned()) } else { Err(ValueError::Name) }
}

/// A value as it is safe in a log line: short, on one line, and without anything that a terminal
/// would obey.
pub(in super::super) fn shown(value: &str) -> String {
    let mut shown = String::new();
    for character in value.chars().take(MAX_SHOWN) {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    if value.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ready_checks_have_one_spelling_each() {
        for text in ["kube", "tcp://:5432", "http://:15021/healthz/ready", "http://:1/?a=b"] {
            assert_eq!(text.parse::<ReadyCheck>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "Kube",
            "tcp://5432",
            "tcp://:0",
            "tcp://:65536",
            "tcp://:+80",
            "tcp://:80/",
            "http://:15021",
            "http://15021/ready",
            "http://10.0.0.1:80/ready",
            "http://:/ready",
            "http://:80/a b",
            "http://:80/\r\nHost: x",
            "http://:80/ü",
            "http://:80/a>b",
            "http://:80/a#b",
            "https://:443/",
        ] {
            assert_eq!(text.parse::<ReadyCheck>(), Err(ValueError::Ready), "{text:?}");
        }
        let long = format!("http://:80/{}", "x".repeat(MAX_PATH));
        assert_eq!(long.parse::<ReadyCheck>(), Err(ValueError::Ready));
    }

    #[test]
    fn timeouts_are_between_a_second_and_an_hour() {
        for (text, seconds) in [("1s", 1), ("90s", 90), ("1m 30s", 90), ("1h", 3600)] {
            assert_eq!(hold_timeout(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        let many = "1s".repeat(5_000);
        for text in [
            "",
            "60",
            "-5s",
            "999ms",
            "3601s",
            "1h1ns",
            "99999999999999999999y",
            "18446744073709551615s 18446744073709551615s",
            many.as_str(),
        ] {
            assert_eq!(hold_timeout(text), Err(ValueError::Timeout), "{text:.40}");
        }
    }

    #[test]
    fn port_lists_are_all_valid_or_none() {
        assert_eq!(port_list("3500, 50001,3500"), Ok(vec![3500, 50001]));
        for text in ["", ",", "0", "65536", "-1", "80,", "80;81", "http", "８０"] {
            assert_eq!(port_list(text), Err(ValueError::Ports), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_harmless() {
        assert_eq!(shown("5 \"minutes\""), "5 \"minutes\"");
        assert_eq!(shown("a\nb\u{1b}[31m\u{202e}"), "a\\nb\\u{1b}[31m\\u{202e}");
        assert_eq!(shown(&"ä".repeat(65)), format!("{}…", "ä".repeat(64)));
        assert_eq!(shown(&"ä".repeat(64)), "ä".repeat(64));
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_parser(text in ".{0,200}") {
            // Whatever is accepted is within its bounds.
            if let Ok(timeout) = hold_timeout(&text) {
                prop_assert!(TIMEOUTS.contains(&timeout));
            }
            if let Ok(ports) = port_list(&text) {
                prop_assert!(!ports.is_empty() && !ports.contains(&0));
            }
            if let Ok(check) = text.parse::<ReadyCheck>() {
                prop_assert_eq!(check.to_string().parse(), Ok(check));
            }
            if let Ok(name) = name(&text) {
                prop_assert_eq!(name, text.clone());
            }
            let line = shown(&text);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }
}
