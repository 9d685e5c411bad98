//! Field and label selectors, as far as an agent uses them.

use serde_json::Value;

/// A conjunction of requirements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    fields: Vec<Requirement>,
    labels: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Equals(String),
    Differs(String),
    Exists,
    Missing,
}

/// A selector that the server does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadSelector(pub(super) String);

impl Selector {
    pub(super) fn parse(fields: Option<&str>, labels: Option<&str>) -> Result<Self, BadSelector> {
        let fields = requirements(fields)?;
        for one in &fields {
            // A real API server refuses every other field of a pod or namespace as well.
            let known = matches!(
                one.key.as_str(),
                "metadata.name" | "metadata.namespace" | "spec.nodeName" | "status.phase"
            );
            if !known || matches!(one.test, Test::Exists | Test::Missing) {
                return Err(BadSelector(format!("field label not supported: {}", one.key)));
            }
        }
        Ok(Self { fields, labels: requirements(labels)? })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.fields.iter().all(|one| {
            let value = one.key.split('.').fold(object, |value, part| &value[part]);
            one.holds(value.as_str().or(Some("")))
        }) && self
            .labels
            .iter()
            .all(|one| one.holds(object["metadata"]["labels"][&one.key].as_str()))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::Equals(wanted) => value == Some(wanted),
            Test::Differs(unwanted) => value != Some(unwanted),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
        }
    }
}

fn requirements(text: Option<&str>) -> Result<Vec<Requirement>, BadSelector> {
    text.unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(requirement)
        .collect()
}

fn requirement(part: &str) -> Result<Requirement, BadSelector> {
    let (key, test) = if let Some((key, value)) = part.split_once("!=") {
        (key, Test::Differs(value.trim().to_owned()))
    } else if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        (key, Test::Equals(value.trim().to_owned()))
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Test::Missing)
    } else {
        (part, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains([' ', '(', ')']) {
        return Err(BadSelector(format!("unable to parse requirement: {part}")));
    }
    Ok(Requirement { key: key.to_owned(), test })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_match_as_the_api_server_s_do() {
        let pod = json!({
            "metadata": {"name": "a", "labels": {"app": "web", "holdfast.dev/hold": "enabled"}},
            "spec": {"nodeName": "node1"},
        });
        let cases = [
            (Some("spec.nodeName=node1"), None, true),
            (Some("spec.nodeName==node2"), None, false),
            (Some("spec.nodeName!=node2,metadata.name=a"), None, true),
            (Some("spec.nodeName="), None, false),
            (Some("status.phase="), None, true),
            (None, Some("app=web"), true),
            (None, Some("app!=web"), false),
            (None, Some("holdfast.dev/hold"), true),
            (None, Some("!holdfast.dev/hold"), false),
            (None, Some("tier!=db"), true),
        ];
        for (fields, labels, expected) in cases {
            let selector = Selector::parse(fields, labels).unwrap();
            assert_eq!(selector.matches(&pod), expected, "{fields:?} {labels:?}");
        }
    }

    #[test]
    fn what_a_real_server_refuses_is_refused() {
        assert!(Selector::parse(Some("spec.bogus=1"), None).is_err());
        assert!(Selector::parse(None, Some("app in (a)")).is_err());
        assert!(Selector::parse(None, Some("=x")).is_err());
    }
}
