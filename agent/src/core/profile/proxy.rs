//! What a profile comes to in a certain pod.

use super::{
    super::{ContainerView, ReadyCheck},
    CheckKind, Dns, PortSpec, Profile,
    source::{Evidence, as_port, ports_in, told_ports},
    table::is_long_running,
};

// === impl Profile ===

impl Profile {
    /// The ports at which the proxy takes connections in this pod.
    pub(super) fn ports_in(&self, evidence: Evidence<'_>) -> Vec<u16> {
        let mut ports = Vec::new();
        for port in self.ports.iter().flat_map(|spec| spec.ports(evidence)) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// The user that the proxy alone runs as. One that it shares with another container, because
    /// both have it from the pod, would let the application pass for the proxy.
    pub(super) fn uid_in(&self, evidence: Evidence<'_>) -> Option<u32> {
        let uid = self.uid.as_ref()?.uid(evidence)?;
        let is_other = |container: &&ContainerView| {
            is_long_running(container.role)
                && evidence.proxy.is_none_or(|proxy| proxy.name != container.name)
        };
        let mut others = evidence.pod.containers.iter().filter(is_other);
        (!others.any(|other| other.spec.run_as_user == Some(uid))).then_some(uid)
    }

    /// The checks in this pod; never none.
    pub(super) fn checks_in(&self, evidence: Evidence<'_>, ports: &[u16]) -> Vec<ReadyCheck> {
        let listening = ports.first().map(|port| ReadyCheck::Tcp { port: *port });
        let mut checks = Vec::new();
        for spec in &self.ready {
            if !spec.when.is_empty() && !spec.when.iter().any(|mark| mark.is_on(evidence)) {
                continue;
            }
            let told = |path| told_ports(&spec.port_from, evidence, path).first().copied();
            let (check, is_told) = match &spec.check {
                CheckKind::Listening => (listening.clone(), true),
                CheckKind::Check(ReadyCheck::Kube) => (Some(ReadyCheck::Kube), true),
                CheckKind::Check(ReadyCheck::Tcp { port }) => {
                    let told = told(None);
                    (Some(ReadyCheck::Tcp { port: told.unwrap_or(*port) }), told.is_some())
                }
                CheckKind::Check(ReadyCheck::Http { port, path }) => {
                    let told = told(Some(path));
                    let (port, path) = (told.unwrap_or(*port), path.clone());
                    (Some(ReadyCheck::Http { port, path }), told.is_some())
                }
            };
            checks.extend(check.map(|check| (check, is_told)));
        }
        // Another program of the pod may answer at a port that is not the proxy's here.
        let told_paths: Vec<String> = checks
            .iter()
            .filter(|(_, is_told)| *is_told)
            .filter_map(|(check, _)| path_of(check).map(str::to_owned))
            .collect();
        let mut kept = Vec::new();
        for (check, is_told) in checks {
            let displaced = !is_told
                && path_of(&check).is_some_and(|path| told_paths.iter().any(|p| p == path));
            if !displaced && !kept.contains(&check) {
                kept.push(check);
            }
        }
        if kept.is_empty() {
            kept.extend(listening);
        }
        kept
    }
}

fn path_of(check: &ReadyCheck) -> Option<&str> {
    match check {
        ReadyCheck::Http { path, .. } => Some(path),
        ReadyCheck::Tcp { .. } | ReadyCheck::Kube => None,
    }
}

// === impl PortSpec ===

impl PortSpec {
    fn ports(&self, evidence: Evidence<'_>) -> Vec<u16> {
        let mut base = told_ports(&self.from, evidence, None);
        if base.is_empty() {
            base.extend(self.default.and_then(as_port));
        }
        let Some(pattern) = &self.each else {
            return base;
        };
        let mut next = base.first().copied();
        let mut ports = Vec::new();
        let mut instances = 0_usize;
        let args = evidence.spec().map_or(&[][..], |spec| &spec.args);
        for arg in args.iter().filter(|arg| !arg.starts_with('-') && is_like(pattern, arg)) {
            instances += 1;
            let query = arg.split_once('?').map_or("", |(_, query)| query);
            let parameter = |name: &str| {
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
            };
            if let Some(port) = parameter("port") {
                ports.extend(ports_in(port));
            } else if parameter("unix-socket").or(parameter("unix-socket-path")).is_none()
                && let Some(port) = next
            {
                ports.push(port);
                next = port.checked_add(1);
            }
        }
        if instances == 0 { base } else { ports }
    }
}

/// Whether a text is like the pattern, in which `*` stands for any text.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|beginning| text.strip_prefix(beginning)) else {
        return false;
    };
    let mut ending = None;
    for part in parts {
        // The leftmost match of each part leaves most for those that follow.
        if let Some(part) = ending.replace(part) {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
    }
    ending.map_or(rest.is_empty(), |ending| rest.ends_with(ending))
}

// === impl Dns ===

impl Dns {
    /// The port at which captured queries arrive in this pod, if they are captured.
    pub(super) fn port_in(&self, evidence: Evidence<'_>) -> Option<u16> {
        let Self { port, when, unless } = self;
        let captured = (when.is_empty() || when.iter().any(|mark| mark.is_on(evidence)))
            && !unless.iter().any(|mark| mark.is_on(evidence));
        captured.then(|| port.port(evidence)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("*:*:*", "project:region:instance", true),
            ("*:*:*", "project:region:instance?port=5", true),
            ("*:*:*", "::", true),
            ("*:*:*", "a:b", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("a*b", "a", false),
            ("a*b*c", "abbc", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }
}
