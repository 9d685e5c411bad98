//! First-hand readiness: asking a pod's proxy from inside the pod's network namespace.

mod http;
mod listener;
mod probe;
mod round;

pub use self::probe::{ProbeEvent, ProbeRun, ProbeTarget, Prober};

#[cfg(test)]
mod sandbox;
