//! What a client asks for, in the words of the API's authorisation, and what it may ask for.

use serde::Deserialize;
use serde_json::{Value, json};

/// One request as authorisation sees it. Paths that lead to no resource, such as `/version`, are
/// not among these: every account may read them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// `get`, `list`, `watch`, `create`, `patch` or `delete`.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The plural name, with `/status` or the like behind it for a subresource.
    pub resource: String,
    /// The namespace; `None` for all of them and for cluster-wide resources.
    pub namespace: Option<String>,
    /// The object's name, if the request names one.
    pub name: Option<String>,
}

/// A rule of a ClusterRole or of a Role.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// API groups.
    pub api_groups: Vec<String>,
    /// Resources, subresources as `pods/status`.
    pub resources: Vec<String>,
    /// Verbs.
    pub verbs: Vec<String>,
    /// Names of objects; none: all.
    #[serde(default)]
    pub resource_names: Vec<String>,
    /// A Role's namespace; `None` for a ClusterRole.
    #[serde(skip)]
    pub namespace: Option<String>,
}

impl Rule {
    /// Whether it grants this. Wildcards are granted nothing by: no role of ours has any.
    pub fn allows(&self, access: &Access) -> bool {
        let Self { api_groups, resources, verbs, resource_names, namespace } = self;
        let Access { verb, group, resource, namespace: asked_in, name } = access;
        verbs.contains(verb)
            && api_groups.contains(group)
            && resources.contains(resource)
            && (namespace.is_none() || namespace == asked_in)
            && (resource_names.is_empty()
                || name.as_ref().is_some_and(|name| resource_names.contains(name)))
    }

    /// The rule in its smallest pieces: one group, resource, verb and name each.
    pub fn pieces(&self) -> Vec<Self> {
        let Self { api_groups, resources, verbs, resource_names, namespace } = self;
        let names: Vec<Vec<String>> = match resource_names.is_empty() {
            true => vec![Vec::new()],
            false => resource_names.iter().map(|name| vec![name.clone()]).collect(),
        };
        let mut pieces = Vec::new();
        for group in api_groups {
            for resource in resources {
                for verb in verbs {
                    pieces.extend(names.iter().map(|names| Self {
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        verbs: vec![verb.clone()],
                        resource_names: names.clone(),
                        namespace: namespace.clone(),
                    }));
                }
            }
        }
        pieces
    }
}

/// The group and the plural name by which a client asks what it may do itself.
pub(super) const REVIEWS: (&str, &str) = ("authorization.k8s.io", "selfsubjectaccessreviews");

/// A server's answer to a SelfSubjectAccessReview; `granted`: `None` if everything is. `None` if it
/// asks for nothing that is a resource.
pub(super) fn review(mut review: Value, granted: Option<&[Rule]>) -> Option<Value> {
    let attributes = review.pointer("/spec/resourceAttributes")?;
    let text = |key: &str| attributes[key].as_str().filter(|text| !text.is_empty());
    let access = Access {
        verb: text("verb")?.to_owned(),
        group: text("group").unwrap_or_default().to_owned(),
        resource: match (text("resource")?, text("subresource")) {
            (resource, None) => resource.to_owned(),
            (resource, Some(subresource)) => format!("{resource}/{subresource}"),
        },
        namespace: text("namespace").map(str::to_owned),
        name: text("name").map(str::to_owned),
    };
    let allowed = granted.is_none_or(|rules| rules.iter().any(|rule| rule.allows(&access)));
    review["status"] = json!({ "allowed": allowed });
    Some(review)
}

impl Access {
    /// A real server's words for a refusal.
    pub(super) fn refusal(&self) -> String {
        let Self { verb, group, resource, namespace, .. } = self;
        let place = match namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        format!(
            "{resource} is forbidden: User \"system:serviceaccount:holdfast:holdfast\" cannot \
             {verb} resource \"{resource}\" in API group \"{group}\" {place}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(verb: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Access {
        Access {
            verb: verb.to_owned(),
            group: "apps".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }
    }

    fn rule(names: &[&str], namespace: Option<&str>) -> Rule {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        Rule {
            api_groups: owned(&["apps"]),
            resources: owned(&["daemonsets", "daemonsets/status"]),
            verbs: owned(&["get", "patch"]),
            resource_names: owned(names),
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let everywhere = rule(&[], None);
        assert!(everywhere.allows(&access("get", "daemonsets", Some("a"), Some("x"))));
        assert!(everywhere.allows(&access("patch", "daemonsets/status", None, None)));
        assert!(!everywhere.allows(&access("list", "daemonsets", None, None)));
        assert!(!everywhere.allows(&access("get", "deployments", None, Some("x"))));
        let narrow = rule(&["x"], Some("a"));
        assert!(narrow.allows(&access("get", "daemonsets", Some("a"), Some("x"))));
        assert!(!narrow.allows(&access("get", "daemonsets", Some("b"), Some("x"))));
        assert!(!narrow.allows(&access("get", "daemonsets", Some("a"), Some("y"))));
        assert!(!narrow.allows(&access("get", "daemonsets", None, Some("x"))));
    }

    #[test]
    fn a_review_says_what_a_request_would_have_met() {
        let ask = |verb: &str, name: &str| {
            json!({"spec": {"resourceAttributes": {
                "verb": verb, "group": "apps", "resource": "daemonsets", "namespace": "a", "name": name
            }}})
        };
        let narrow = [rule(&["x"], Some("a"))];
        for (verb, name, allowed) in [("get", "x", true), ("get", "y", false), ("list", "x", false)]
        {
            let answer = review(ask(verb, name), Some(&narrow)).unwrap();
            assert_eq!(answer["status"]["allowed"], allowed, "{verb} {name}");
            assert_eq!(answer["spec"], ask(verb, name)["spec"]);
        }
        assert_eq!(review(ask("list", "y"), None).unwrap()["status"]["allowed"], true);
        assert_eq!(review(json!({"spec": {"nonResourceAttributes": {}}}), None), None);
    }

    #[test]
    fn a_rule_s_pieces_allow_the_same() {
        let whole = rule(&["x", "y"], Some("a"));
        let pieces = whole.pieces();
        assert_eq!(pieces.len(), 8);
        for verb in ["get", "patch", "list"] {
            for name in ["x", "y", "z"] {
                let access = access(verb, "daemonsets", Some("a"), Some(name));
                let by_pieces = pieces.iter().filter(|piece| piece.allows(&access)).count();
                assert_eq!(by_pieces, usize::from(whole.allows(&access)), "{access:?}");
            }
        }
    }
}
