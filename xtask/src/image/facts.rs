//! What the image says about itself: from the package's manifest and the checkout.

use std::{env, process::Command};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::linked::GLIBC_LICENSE;
use crate::workspace::Workspace;

/// The package whose binary is shipped.
pub(crate) const PACKAGE: &str = "holdfast";

/// Seconds since 1970 that stand in for the commit's date, see reproducible-builds.org.
pub(crate) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The package, the commit and its date.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) version: String,
    description: String,
    license: String,
    repository: Option<String>,
    /// The commit, marked when the checkout differs from it; `None` outside of git.
    pub(crate) revision: Option<String>,
    /// Every timestamp in the image, so that the same sources give the same bytes.
    pub(crate) created: Timestamp,
}

// === impl Facts ===

impl Facts {
    pub(crate) fn gather(workspace: &Workspace) -> Result<Self> {
        let output = workspace
            .cargo()
            .args(["metadata", "--no-deps", "--format-version=1"])
            .output()
            .context("run cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", output.status);
        let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        let commit = git(workspace, &["log", "-1", "--format=%H %ct"]);
        // New files count as well: cargo may well build them.
        let changes = git(workspace, &["status", "--porcelain"]);
        let epoch = env::var(SOURCE_DATE_EPOCH).ok();
        Self::of(&metadata, commit.as_deref(), changes.as_deref(), epoch.as_deref())
    }

    fn of(
        metadata: &Value,
        commit: Option<&str>,
        changes: Option<&str>,
        epoch: Option<&str>,
    ) -> Result<Self> {
        let package = metadata["packages"]
            .as_array()
            .and_then(|packages| packages.iter().find(|package| package["name"] == PACKAGE))
            .with_context(|| format!("the workspace has no package {PACKAGE}"))?;
        let field = |key: &str| package[key].as_str().map(str::to_owned);
        let required =
            |key| field(key).with_context(|| format!("the manifest of {PACKAGE} has no {key}"));
        let (hash, date) = commit.and_then(|commit| commit.split_once(' ')).unzip();
        let dirty = if changes.is_some_and(|changes| !changes.is_empty()) { "-dirty" } else { "" };
        let seconds = epoch.or(date).with_context(|| {
            format!(
                "git tells no commit to take the image's date from: set {SOURCE_DATE_EPOCH} to \
                 seconds since 1970"
            )
        })?;
        let created = seconds
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .with_context(|| format!("{SOURCE_DATE_EPOCH}: no date is {seconds:?}"))?;
        Ok(Self {
            version: required("version")?,
            description: required("description")?,
            license: required("license")?,
            repository: field("repository"),
            revision: hash.map(|hash| format!("{hash}{dirty}")),
            created,
        })
    }

    /// The image's name as a manifest's `holdfast:VERSION` resolves to, for a runtime that imports
    /// it under the name it is given.
    pub(crate) fn reference(&self) -> String {
        format!("docker.io/library/{PACKAGE}:{}", self.version)
    }

    /// The annotations that OCI's image-spec predefines, as labels.
    pub(crate) fn labels(&self) -> Vec<(&'static str, String)> {
        let Self { version, description, license, repository, revision, created } = self;
        // The package's own choice, and that of the C library inside.
        let licenses = format!("({license}) AND {GLIBC_LICENSE}");
        [
            ("org.opencontainers.image.title", Some(PACKAGE.to_owned())),
            ("org.opencontainers.image.description", Some(description.clone())),
            ("org.opencontainers.image.version", Some(version.clone())),
            ("org.opencontainers.image.revision", revision.clone()),
            ("org.opencontainers.image.source", repository.clone()),
            ("org.opencontainers.image.licenses", Some(licenses)),
            ("org.opencontainers.image.created", Some(created.to_string())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

/// What git answers about the checkout; `None` where there is no git or no repository.
fn git(workspace: &Workspace, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(&workspace.root).output().ok()?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata() -> Value {
        json!({ "packages": [
            { "name": "testbed", "version": "9.9.9" },
            { "name": "holdfast", "version": "1.2.3", "description": "Holds",
              "license": "MIT OR Apache-2.0", "repository": null },
        ]})
    }

    fn label(facts: &Facts, name: &str) -> Option<String> {
        let key = format!("org.opencontainers.image.{name}");
        facts.labels().into_iter().find(|(label, _)| *label == key).map(|(_, value)| value)
    }

    #[test]
    fn the_labels_are_the_packages_and_the_commits() {
        let facts = Facts::of(&metadata(), Some("abc 1700000000"), Some(""), None).unwrap();
        assert_eq!(facts.reference(), "docker.io/library/holdfast:1.2.3");
        assert_eq!(label(&facts, "version").as_deref(), Some("1.2.3"));
        assert_eq!(label(&facts, "description").as_deref(), Some("Holds"));
        let licenses = label(&facts, "licenses");
        let expected = "(MIT OR Apache-2.0) AND LGPL-2.1-or-later";
        assert_eq!(licenses.as_deref(), Some(expected));
        assert_eq!(label(&facts, "revision").as_deref(), Some("abc"));
        assert_eq!(label(&facts, "created").as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(label(&facts, "source"), None, "there is none to tell");
    }

    #[test]
    fn a_changed_checkout_is_not_its_commit() {
        let facts = Facts::of(&metadata(), Some("abc 1"), Some(" M src/main.rs"), None).unwrap();
        assert_eq!(label(&facts, "revision").as_deref(), Some("abc-dirty"));
    }

    #[test]
    fn outside_of_git_the_date_has_to_be_given() {
        let error = Facts::of(&metadata(), None, None, None).unwrap_err().to_string();
        assert!(error.contains(SOURCE_DATE_EPOCH), "{error}");
        let facts = Facts::of(&metadata(), None, None, Some("1")).unwrap();
        assert_eq!(label(&facts, "created").as_deref(), Some("1970-01-01T00:00:01Z"));
        assert_eq!(label(&facts, "revision"), None);
        assert!(Facts::of(&metadata(), None, None, Some("yesterday")).is_err());
    }
}
