//! First-hand readiness: asking a pod's proxy from inside the pod's network namespace.

mod http;
mod listener;
mod probe;

pub use self::probe::{ProbeEvent, ProbeTarget, Prober};
