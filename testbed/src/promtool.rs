//! Prometheus' own opinion of metrics and alert rules.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// Names promtool when it is neither in `PATH` nor where `cargo xtask setup` puts it.
const PROMTOOL_VARIABLE: &str = "HOLDFAST_PROMTOOL";

/// A promtool that waits for its arguments, such as `check rules FILE`.
pub fn promtool() -> Result<Command> {
    let named = env::var_os(PROMTOOL_VARIABLE).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|directory| directory.join("promtool"));
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/prometheus/promtool");
    named
        .into_iter()
        .chain(in_path)
        .chain([unpacked])
        .find(|program| program.is_file())
        .map(Command::new)
        .with_context(|| {
            format!("no promtool: run `cargo xtask setup`, or set {PROMTOOL_VARIABLE}")
        })
}
