//! A mesh's own annotation that asks for what holdfast does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    super::{Problem, settings::shown},
    document::scalar_at,
    source::Reference,
};

/// An annotation of a mesh that asks to hold the application until the proxy is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Wish {
    /// Where it stands.
    pub annotation: Reference,
    /// The values that ask for it, in lower case.
    pub enabled: Vec<String>,
    /// The values that ask not to.
    pub disabled: Vec<String>,
    /// Whether the mesh reads it on namespaces as well as on pods.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_namespace: bool,
}

impl Wish {
    /// What it asks for, if it is there.
    pub(super) fn read(
        &self,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<bool>, Problem> {
        let Some(annotation) = annotations.get(&self.annotation.key) else {
            return Ok(None);
        };
        let problem = |value: &str, reason: String| Problem {
            key: self.annotation.to_string(),
            value: shown(value),
            reason: format!("{reason}; it is ignored"),
        };
        let value = match &self.annotation.path {
            None => annotation.clone(),
            Some(path) => match scalar_at(annotation, path) {
                Ok(Some(value)) => value,
                Ok(None) => return Ok(None),
                Err(error) => return Err(problem(annotation, error.to_string())),
            },
        };
        let lower = value.to_ascii_lowercase();
        if self.enabled.contains(&lower) {
            Ok(Some(true))
        } else if self.disabled.contains(&lower) {
            Ok(Some(false))
        } else {
            let known = [&*self.enabled, &*self.disabled].concat().join(", ");
            Err(problem(&value, format!("it must be one of {known}")))
        }
    }
}
