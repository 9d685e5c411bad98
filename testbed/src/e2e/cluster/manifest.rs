//! The manifest: every document of it, with the image that is asked for.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use kube::{ResourceExt as _, api::DynamicObject};
use serde_json::{Value, json};

/// Why the manifest cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("failed to read the manifest {path}: {source}; name it with --manifest")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no YAML.
    #[error("manifest {path}: {source}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// One of its documents is no object.
    #[error("manifest {path}, document {number}: {source}")]
    Object {
        /// The file.
        path: PathBuf,
        /// Which, counted from 1.
        number: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// One of its documents does not say what it is.
    #[error("manifest {path}, document {number}: apiVersion, kind or metadata.name is missing")]
    Nameless {
        /// The file.
        path: PathBuf,
        /// Which, counted from 1.
        number: usize,
    },
    /// There is no agent in it.
    #[error("manifest {path} has {count} DaemonSets, and one is needed: the agent's")]
    DaemonSets {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
}

/// The documents of the manifest, in their order. With `image` all containers have that image.
pub(super) fn read(path: &Path, image: Option<&str>) -> Result<Vec<DynamicObject>, ManifestError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
    parse(path, &text, image)
}

fn parse(
    path: &Path,
    text: &str,
    image: Option<&str>,
) -> Result<Vec<DynamicObject>, ManifestError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|source| {
        ManifestError::Yaml { path: path.to_owned(), source: Box::new(source) }
    })?;
    let mut objects = Vec::new();
    // Templates leave documents behind in which nothing is.
    for (index, mut document) in documents.into_iter().enumerate().filter(|(_, one)| !one.is_null())
    {
        if let Some(image) = image {
            set_image(&mut document, image);
        }
        let number = index + 1;
        let object: DynamicObject = serde_json::from_value(document)
            .map_err(|source| ManifestError::Object { path: path.to_owned(), number, source })?;
        if object.types.is_none() || object.metadata.name.is_none() {
            return Err(ManifestError::Nameless { path: path.to_owned(), number });
        }
        objects.push(object);
    }
    let count = objects.iter().filter(|object| is_daemonset(object)).count();
    if count != 1 {
        return Err(ManifestError::DaemonSets { path: path.to_owned(), count });
    }
    Ok(objects)
}

pub(super) fn is_daemonset(object: &DynamicObject) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == "DaemonSet")
}

/// Kind and name, as a person would say it.
pub(super) fn title(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    match &object.metadata.namespace {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

fn set_image(document: &mut Value, image: &str) {
    for list in ["initContainers", "containers"] {
        let list = document.pointer_mut(&format!("/spec/template/spec/{list}"));
        for container in list.and_then(Value::as_array_mut).into_iter().flatten() {
            container["image"] = json!(image);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
# a comment first
apiVersion: v1
kind: Namespace
metadata: {name: holdfast}
---
---
apiVersion: v1
kind: ConfigMap
metadata: {name: holdfast, namespace: holdfast}
data:
  config.yaml: |
    hold: enabled
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: holdfast, namespace: holdfast, annotations: {a: "true"}}
spec:
  template:
    spec:
      hostPID: true
      initContainers: [{name: first, image: "holdfast:1"}]
      containers: [{name: agent, image: "holdfast:1", ports: [{containerPort: 8686}]}]
"#;

    fn parsed(text: &str, image: Option<&str>) -> Result<Vec<DynamicObject>, ManifestError> {
        parse(Path::new("m.yaml"), text, image)
    }

    #[test]
    fn every_document_is_there_as_it_was_written() {
        let all = parsed(MANIFEST, None).unwrap();
        let titles: Vec<String> = all.iter().map(title).collect();
        assert_eq!(
            titles,
            ["Namespace holdfast", "ConfigMap holdfast/holdfast", "DaemonSet holdfast/holdfast"]
        );
        assert_eq!(all[1].data["data"]["config.yaml"], "hold: enabled\n");
        assert_eq!(all[2].annotations()["a"], "true");
        let pod = &all[2].data["spec"]["template"]["spec"];
        assert_eq!(pod["hostPID"], true);
        assert_eq!(pod["containers"][0]["ports"][0]["containerPort"], 8686);
        assert_eq!(pod["containers"][0]["image"], "holdfast:1");
    }

    #[test]
    fn an_image_is_all_that_changes() {
        let mut all = parsed(MANIFEST, Some("mine:2")).unwrap();
        for list in ["initContainers", "containers"] {
            let container = &mut all[2].data["spec"]["template"]["spec"][list][0];
            assert_eq!(container["image"], "mine:2");
            container["image"] = json!("holdfast:1");
        }
        assert_eq!(all, parsed(MANIFEST, None).unwrap());
    }

    #[test]
    fn what_is_no_manifest_is_told_with_its_place() {
        for (text, expected) in [
            ("kind: [", "manifest m.yaml: "),
            ("kind: Namespace", "manifest m.yaml, document 1: apiVersion, kind or"),
            ("apiVersion: v1\nkind: Namespace", "manifest m.yaml, document 1: apiVersion, kind or"),
            ("- a", "manifest m.yaml, document 1: invalid type"),
            (
                "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}",
                "manifest m.yaml has 0 DaemonSets, and one is needed: the agent's",
            ),
        ] {
            let error = parsed(text, None).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
