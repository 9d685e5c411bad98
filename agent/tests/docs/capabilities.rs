//! docs/security.md explains the capabilities that the manifest gives.

use std::{collections::BTreeSet, path::Path};

use crate::files;

/// Those of the agent's container.
pub(crate) fn given() -> BTreeSet<String> {
    let manifest = files::read(Path::new("deploy/holdfast.yaml"));
    let (_, rest) = manifest.split_once("drop: [ALL]").unwrap();
    let (list, _) = rest.split_once("seccompProfile").unwrap();
    let items = list.lines().filter_map(|line| line.trim().strip_prefix("- "));
    items.map(|item| format!("CAP_{item}")).collect()
}

/// Those with a row of their own.
pub(crate) fn explained() -> BTreeSet<String> {
    let document = files::read(Path::new("docs/security.md"));
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let first = rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()));
    first.filter(|name| name.starts_with("CAP_")).collect()
}
