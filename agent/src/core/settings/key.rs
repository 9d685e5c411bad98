//! The names of the settings.

use std::fmt;

/// What all labels and annotations of holdfast begin with.
pub const PREFIX: &str = "holdfast.dev/";

/// A setting that users write on a pod or on a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Whether to hold at all. A label, so that selectors can list who is held.
    Hold,
    /// What a closed gate does.
    Mode,
    /// What connect() fails with where it is refused.
    Errno,
    /// How long a connect is held at most.
    Timeout,
    /// What becomes of it then.
    OnTimeout,
    /// Whether the open gate stays attached.
    Guard,
    /// Which profile or container.
    Proxy,
    /// How to learn that the proxy is ready.
    Ready,
    /// Which loopback ports to hold.
    Ports,
}

// === impl Key ===

impl Key {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Hold,
        Self::Mode,
        Self::Errno,
        Self::Timeout,
        Self::OnTimeout,
        Self::Guard,
        Self::Proxy,
        Self::Ready,
        Self::Ports,
    ];

    /// The name without [`PREFIX`], as in the config file.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Mode => "mode",
            Self::Errno => "errno",
            Self::Timeout => "timeout",
            Self::OnTimeout => "on-timeout",
            Self::Guard => "guard",
            Self::Proxy => "proxy",
            Self::Ready => "ready",
            Self::Ports => "ports",
        }
    }

    /// Whether it is written as a label; the others are annotations.
    #[must_use]
    pub const fn is_label(self) -> bool {
        matches!(self, Self::Hold)
    }

    /// What its values mean, in Markdown, for docs/configuration.md. What stands in backquotes is a
    /// value of it.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Hold => "`enabled`, `disabled`: whether the pod is held at all",
            Self::Mode => {
                "`hold`: connect() waits, and its SYN is sent again when the proxy is ready · \
                 `retry`: it waits, and the kernel's own retransmission goes through (up to 500 ms \
                 later) · `refuse`: it fails at once · `observe`: nothing waits, the log says what \
                 would have"
            }
            Self::Errno => {
                "`ECONNREFUSED`, `EAGAIN`, `ETIMEDOUT`: what connect() fails with where it is refused"
            }
            Self::Timeout => {
                "a duration from `1s` to `1h`, such as `90s` or `2m`: how long one connect is held \
                 at most"
            }
            Self::OnTimeout => {
                "`open`: after the timeout it goes through, as without holdfast · `refuse`: it fails \
                 until the proxy is ready"
            }
            Self::Guard => {
                "`enabled`: the open gate stays attached, so that a proxy's death in mid-life refuses \
                 nobody but for the microseconds in which its listener closes; it costs 3% of a \
                 pod's rate of connections and requests \
                 ([measured](architecture.md#what-a-guarded-gate-costs)) · `disabled`: an open gate \
                 is taken off the pod"
            }
            Self::Proxy => {
                "the name of a profile, such as `istio`, or of a container (then with the keys for \
                 readiness and ports)"
            }
            Self::Ready => {
                "`http://:15021/healthz/ready` (200 or another 2xx means ready; asked on the pod's \
                 own loopback), `tcp://:5432` (somebody listens), `kube` (kubelet's word alone)"
            }
            Self::Ports => {
                "loopback ports with commas between them, such as `3500,50001`, 8 at most: connects to \
                 these are held"
            }
        }
    }

    /// The key with this full name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let short = name.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|key| key.short() == short)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use agent_ebpf::gate::MAX_PORTS;

    use super::{
        super::{Mode, OnTimeout, ReadyCheck, RefuseErrno, hold_timeout, name, port_list, switch},
        *,
    };

    /// What stands in backquotes.
    fn values(key: Key) -> BTreeSet<&'static str> {
        key.about().split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn every_value_that_is_explained_is_one() {
        for key in Key::ALL {
            assert!(!values(key).is_empty(), "{key}");
            for value in values(key) {
                let is_read = match key {
                    Key::Hold | Key::Guard => switch(value).is_ok(),
                    Key::Mode => value.parse::<Mode>().is_ok(),
                    Key::Errno => value.parse::<RefuseErrno>().is_ok(),
                    Key::Timeout => hold_timeout(value).is_ok(),
                    Key::OnTimeout => value.parse::<OnTimeout>().is_ok(),
                    Key::Proxy => name(value).is_ok(),
                    Key::Ready => value.parse::<ReadyCheck>().is_ok(),
                    Key::Ports => port_list(value).is_ok(),
                };
                assert!(is_read, "{key}: {value}");
            }
        }
    }

    #[test]
    fn every_value_is_explained() {
        let modes = [Mode::Hold, Mode::Retry, Mode::Refuse, Mode::Observe].map(Mode::as_str);
        assert_eq!(values(Key::Mode), BTreeSet::from(modes));
        let errnos = [RefuseErrno::ConnRefused, RefuseErrno::Again, RefuseErrno::TimedOut];
        assert_eq!(values(Key::Errno), errnos.map(RefuseErrno::as_str).into());
        let on_timeout = [OnTimeout::Open, OnTimeout::Refuse].map(OnTimeout::as_str);
        assert_eq!(values(Key::OnTimeout), BTreeSet::from(on_timeout));
        assert!(Key::Ports.about().contains(&format!("{MAX_PORTS} at most")));
    }
}
