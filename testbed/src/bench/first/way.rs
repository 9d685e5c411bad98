//! What is done about a proxy that is not ready yet: holdfast, what people use instead, and nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// The application dies of its first connect, and kubelet starts it again.
    Nothing,
    /// A postStart hook of the proxy's container, until whose end kubelet starts no other one.
    PostStart,
    /// The proxy is a native sidecar, and kubelet starts the application after its startup probe.
    NativeSidecar,
    /// The application's command is a shell loop in front of the application.
    StartCommand,
    /// The application's command is `linkerd-await`.
    LinkerdAwait,
    /// Consul's dataplane, which answers its postStart hook when its proxy is ready.
    Consul,
    /// holdfast in mode `retry`.
    Retry,
    /// holdfast.
    Hold,
    /// An application that knows the instant of readiness.
    Ideal,
}

/// Who asks the proxy whether it is ready, in the place of the application's connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nobody: the application boots and dials.
    Nobody,
    /// A process of its own, before kubelet starts the application; first at this time after the
    /// proxy's container, or at a random one within the pause.
    Before { pause: Duration, first: First },
    /// The application's own container, before the application boots.
    Inside { pause: Duration },
    /// The application itself, which is told while it boots.
    Beside,
}

/// When somebody asks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// At once.
    AtOnce,
    /// After one pause.
    AfterPause,
    /// By a clock that ticks since before the pod's start.
    AnyTime,
}

// === impl Way ===

impl Way {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 9] = [
        Self::Nothing,
        Self::PostStart,
        Self::NativeSidecar,
        Self::StartCommand,
        Self::LinkerdAwait,
        Self::Consul,
        Self::Retry,
        Self::Hold,
        Self::Ideal,
    ];

    /// As people read it.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::PostStart => "postStart loop, 500 ms",
            Self::NativeSidecar => "native sidecar, probe 1 s",
            Self::StartCommand => "start-command loop, 1 s",
            Self::LinkerdAwait => "linkerd-await, 1 s",
            Self::Consul => "consul's hook, 50 ms (model)",
            Self::Retry => "holdfast, mode retry",
            Self::Hold => "holdfast, mode hold",
            Self::Ideal => "ideal",
        }
    }

    /// What is played, and what of it is a model.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Nothing => {
                "the application ends when its connect fails. *Model*: kubelet notices within 1 s (uniform; its relist) and starts it again, \
                 the next time 10 s after its end at the earliest, then 20 s and so on (1 s, then 2 s with the feature gate \
                 `ReduceDefaultCrashLoopBackOffDecay`, alpha since Kubernetes 1.33 and off)"
            }
            Self::PostStart => {
                "Istio's `holdApplicationUntilProxyStarts`: a hook in the proxy's container pauses 500 ms and asks, again and again, as \
                 `pilot-agent wait` does; the application's container is started when it ends. *Model*: kubelet starts it at once, and the runtime \
                 takes no longer than the testbed"
            }
            Self::NativeSidecar => {
                "the proxy has a startup probe with a period of 1 s; the application's container is started when it succeeds. *Model*: a \
                 process asks in kubelet's place, by a ticker that has begun at a random moment before (kubelet's does when it first syncs the \
                 pod); kubelet starts what comes next at once, and the runtime takes no longer than the testbed"
            }
            Self::StartCommand => {
                "`until curl -fs localhost:15021/healthz/ready; do sleep 1; done; exec app`, without the time that curl takes to start"
            }
            Self::LinkerdAwait => {
                "asks, pauses 1 s when it was not ready, and becomes the application; the same algorithm against this proxy's endpoint"
            }
            Self::Consul => {
                "Consul's hook as it is commonly described: as the postStart loop, but asks at once and pauses 50 ms. *Model*: no source says \
                 so of consul-dataplane itself; and as for the postStart loop"
            }
            Self::Retry => {
                "the SYN is held, and the kernel's own retransmission goes through when the gate has opened"
            }
            Self::Hold => "the SYN is held and sent again when the gate has opened",
            Self::Ideal => {
                "the application boots at once, sleeps on a pipe, and dials when the observer writes into it at the first answer that says ready: \
                 a connect at the instant of readiness. What it includes is the observer's last question, one wake-up and the connect; somebody \
                 who learns of readiness in another way can be ahead of it by as much"
            }
        }
    }

    pub(super) const fn waits(self) -> Waits {
        const SECOND: Duration = Duration::from_secs(1);
        match self {
            Self::Nothing | Self::Retry | Self::Hold => Waits::Nobody,
            Self::PostStart => {
                // https://github.com/istio/istio/blob/master/pilot/cmd/pilot-agent/app/wait.go
                Waits::Before { pause: Duration::from_millis(500), first: First::AfterPause }
            }
            Self::NativeSidecar => {
                // https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/prober/worker.go:
                // the ticker begins with the pod's first sync, and no probe counts before the
                // container is known to run.
                Waits::Before { pause: SECOND, first: First::AnyTime }
            }
            // https://github.com/linkerd/linkerd-await/blob/main/src/main.rs: await_ready
            Self::StartCommand | Self::LinkerdAwait => Waits::Inside { pause: SECOND },
            Self::Consul => {
                Waits::Before { pause: Duration::from_millis(50), first: First::AtOnce }
            }
            Self::Ideal => Waits::Beside,
        }
    }

    /// The mode of a pod that holdfast minds.
    pub(super) const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Retry => Some("retry"),
            Self::Hold => Some("hold"),
            Self::Nothing
            | Self::PostStart
            | Self::NativeSidecar
            | Self::StartCommand
            | Self::LinkerdAwait
            | Self::Consul
            | Self::Ideal => None,
        }
    }
}
