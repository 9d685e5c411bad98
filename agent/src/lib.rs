//! holdfast: a per-node agent that keeps a pod's outbound connect() waiting in the kernel until
//! the pod's service-mesh proxy is ready.
//!
//! `main -> app -> reconcile -> {cluster, node, bpf, readiness, health} -> {netns, clock} -> core`:
//! see docs/architecture.md.

pub mod admin;
pub mod app;
pub mod awaited;
pub mod bpf;
#[cfg(test)]
mod captured_log;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod config;
pub mod core;
pub mod exit;
pub mod exporter;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod health;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod netns;
pub mod node;
pub mod page;
pub mod preflight;
pub mod readiness;
pub mod reconcile;
pub mod request;
pub mod sentry;
mod signals;
pub mod status;
pub mod telemetry;
pub mod wait;
pub mod worker;
