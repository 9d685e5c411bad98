//! First-hand readiness: asking a pod's proxy from inside the pod's network namespace.

mod counts;
mod http;
mod interval;
pub(crate) mod listener;
mod probe;
mod round;

pub use self::{
    counts::{ProbeCounts, ProbeResult},
    probe::{FindProcess, ProbeEvent, ProbeRun, ProbeTarget, Prober},
};

#[cfg(test)]
pub(crate) mod sandbox;
