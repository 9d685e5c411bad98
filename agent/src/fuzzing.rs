//! What the fuzzers run: one target for each place where bytes come in that somebody else has
//! written. `cargo xtask fuzz` has libFuzzer look for inputs that break one; the tests below run the
//! same functions on the seeds, on what is made of them at random, and on what has broken them once.
//!
//! A target panics if a promise is broken, so each asserts more than that nothing panics.

use std::sync::LazyLock;

use crate::core::Profiles;

mod admin;
mod bundle;
mod cgroup;
mod config;
mod note;
mod pod;
mod probe;
mod replay;
mod ring;
mod settings;
mod terminal;

/// One place where foreign bytes come in.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What `cargo xtask fuzz` calls it.
    pub name: &'static str,
    /// Takes bytes in and panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs from which a fuzzer starts: of each kind that is taken in one at least.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target { name: "admin", run: admin::run, seeds: admin::seeds },
    Target { name: "bundle", run: bundle::run, seeds: bundle::seeds },
    Target { name: "cgroup", run: cgroup::run, seeds: cgroup::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "note", run: note::run, seeds: note::seeds },
    Target { name: "pod", run: pod::run, seeds: pod::seeds },
    Target { name: "probe", run: probe::run, seeds: probe::seeds },
    Target { name: "query", run: replay::run_query, seeds: replay::query_seeds },
    Target { name: "ring", run: ring::run, seeds: ring::seeds },
    Target { name: "settings", run: settings::run, seeds: settings::seeds },
    Target { name: "syn", run: replay::run_syn, seeds: replay::syn_seeds },
    Target { name: "terminal", run: terminal::run, seeds: terminal::seeds },
];

/// Read once: their text is many times as long as most inputs.
static PROFILES: LazyLock<Profiles> = LazyLock::new(Profiles::builtin);

/// The target with this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Fails on a text that would be more than one line, or do something to a terminal.
fn assert_one_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[cfg(test)]
mod tests;
