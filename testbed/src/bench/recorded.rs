//! A pod as a real API server has sent it.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Recording;

/// Where it is.
pub(super) const NAMESPACE: &str = "shop";

/// A pod of a mesh, and running.
pub(super) fn pod() -> Result<Value> {
    let events = Recording::Classic.events()?;
    let running = |event: &&Value| {
        let pod = &event["object"];
        pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running"
    };
    let event = events.iter().rfind(running).context("no pod runs in the recording")?;
    Ok(event["object"].clone())
}
