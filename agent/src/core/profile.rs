//! Meshes and other side-cars: how to know them, when they are ready, where they listen.
//!
//! A profile is data. The ones that come with holdfast stand in `profile/builtin.yaml` in the form
//! in which users write their own, and the same code reads both.

mod condition;
mod detect;
mod document;
mod proxy;
mod schema;
mod short;
mod source;
mod table;
mod wish;

pub use self::{
    condition::{Condition, Expected, Mark},
    detect::{Clue, Detection, Unused},
    schema::{CheckKind, CheckSpec, Dns, PortSpec, Profile},
    source::{Number, Reference, Source},
    table::{Profiles, ProfilesError},
    wish::Wish,
};

/// Whether a name is the pattern, or begins with what stands before its trailing `*`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}
