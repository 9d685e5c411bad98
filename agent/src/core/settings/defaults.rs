//! What applies where neither a pod nor its namespace says anything.

use std::time::Duration;

use super::{Chosen, Mode, OnTimeout, Origin, RefuseErrno};

/// How long a connect is held at most: as long as Istio's own hold waits (`pilot-agent wait`,
/// `--timeoutSeconds`), and far below the time after which an operator would look for an error
/// elsewhere.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the open gate stays attached: it costs every packet of the pod a little.
const GUARD: bool = false;

/// What applies where neither a pod nor its namespace says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Whether pods are held.
    pub hold: Chosen<bool>,
    /// What a closed gate does.
    pub mode: Chosen<Mode>,
    /// What connect() fails with where it is refused.
    pub errno: Chosen<RefuseErrno>,
    /// How long a connect is held at most.
    pub timeout: Chosen<Duration>,
    /// What becomes of it then.
    pub on_timeout: Chosen<OnTimeout>,
    /// Whether the open gate stays attached.
    pub guard: Chosen<bool>,
    /// Whether the meshes' own annotations, such as Istio's `holdApplicationUntilProxyStarts`,
    /// count as if they were holdfast's.
    pub mesh_wishes: bool,
    /// Whether pods with a proxy that nobody enabled are observed: what would have been held is
    /// noted, and nothing is held.
    pub observe: Chosen<bool>,
}

/// What an operator chose in one place, such as the config file; `None`: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// See [`Defaults::hold`].
    pub hold: Option<bool>,
    /// See [`Defaults::mode`].
    pub mode: Option<Mode>,
    /// See [`Defaults::errno`].
    pub errno: Option<RefuseErrno>,
    /// See [`Defaults::timeout`].
    pub timeout: Option<Duration>,
    /// See [`Defaults::on_timeout`].
    pub on_timeout: Option<OnTimeout>,
    /// See [`Defaults::guard`].
    pub guard: Option<bool>,
    /// See [`Defaults::mesh_wishes`].
    pub mesh_wishes: Option<bool>,
    /// See [`Defaults::observe`].
    pub observe: Option<bool>,
}

// === impl Defaults ===

impl Default for Defaults {
    fn default() -> Self {
        const fn by_default<T>(value: T) -> Chosen<T> {
            Chosen { value, origin: Origin::Default }
        }
        Self {
            // Opt-in: whoever installs the agent changes nothing by that alone.
            hold: by_default(false),
            mode: by_default(Mode::Hold),
            errno: by_default(RefuseErrno::ConnRefused),
            timeout: by_default(TIMEOUT),
            on_timeout: by_default(OnTimeout::Open),
            guard: by_default(GUARD),
            mesh_wishes: true,
            observe: by_default(false),
        }
    }
}

impl Defaults {
    /// These, but for what was chosen.
    #[must_use]
    pub fn with(self, choices: Choices) -> Self {
        fn or<T>(choice: Option<T>, default: Chosen<T>) -> Chosen<T> {
            choice.map_or(default, |value| Chosen { value, origin: Origin::Config })
        }
        let Choices { hold, mode, errno, timeout, on_timeout, guard, mesh_wishes, observe } =
            choices;
        Self {
            hold: or(hold, self.hold),
            mode: or(mode, self.mode),
            errno: or(errno, self.errno),
            timeout: or(timeout, self.timeout),
            on_timeout: or(on_timeout, self.on_timeout),
            guard: or(guard, self.guard),
            mesh_wishes: mesh_wishes.unwrap_or(self.mesh_wishes),
            observe: or(observe, self.observe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_last_wins_and_the_rest_stays() {
        let file = Choices {
            hold: Some(true),
            timeout: Some(Duration::from_secs(5)),
            mesh_wishes: Some(false),
            ..Choices::default()
        };
        let flags = Choices { timeout: Some(Duration::from_secs(9)), ..Choices::default() };
        let defaults = Defaults::default().with(file).with(flags);
        let by_config = |value| Chosen { value, origin: Origin::Config };
        assert_eq!(defaults.hold, Chosen { value: true, origin: Origin::Config });
        assert_eq!(defaults.timeout, by_config(Duration::from_secs(9)));
        assert_eq!(defaults.mode, Chosen { value: Mode::Hold, origin: Origin::Default });
        assert!(!defaults.mesh_wishes);
    }
}
