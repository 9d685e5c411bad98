//! The programs on the running kernel, driven through the agent's own handle to them.
//!
//! Needs root and nothing else: no iptables, no proxy, no API. `cargo xtask kernels` runs this very
//! binary on every supported kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod awaited;
mod away;
mod bpffs;
mod cost;
mod exempt;
mod guard;
mod hold;
mod lines;
mod parts;
mod pins;
mod pod;
mod query;
mod refuse;
mod sentry;
mod sockopt;
mod v6;
mod voice;
