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
