//! The agent on a whole node: real cgroups, namespaces, nat rules, Envoy and API server.
//!
//! Needs root, and what `cargo xtask setup` installs; `cargo xtask test` does both. Without them
//! the tests fail, they do not skip.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod admin;
mod check;
mod cleanup;
mod cli;
mod clients;
mod cluster;
mod common;
mod deadline;
mod dns;
mod e2e;
mod enablement;
mod exempt;
mod explain;
mod explicit;
mod flood;
mod health;
mod hold;
mod kernel_log;
mod labels;
mod lifecycle;
mod memory;
mod meshes;
mod metrics;
mod observe;
mod page;
mod privilege;
mod proxy_death;
mod rights;
mod rules;
mod sentry;
mod settings;
mod upgrade;
