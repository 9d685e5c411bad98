//! The node's page, in a browser and as text.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod browser;
mod scene;
mod text;
