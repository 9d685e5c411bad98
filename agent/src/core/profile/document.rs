//! Looking something up in an annotation that holds a whole document, YAML or JSON.

use serde_json::Value;

/// The longest document that is looked into, in bytes. Kuma's and Consul's have less than one KiB,
/// Istio's a few; the API server allows 256 KiB for all annotations of an object together.
const MAX_LEN: usize = 32 * 1024;

/// The deepest nesting.
const MAX_DEPTH: usize = 32;

/// Why nothing can be looked up.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it is not a YAML or JSON mapping of at most {} KiB", MAX_LEN / 1024)]
pub(super) struct NotADocument;

/// The scalar at `path`, its steps joined by dots, as text; `None` if there is none.
///
/// The text comes from a tenant: references within the document are refused, because they can make
/// a short text stand for a very large one.
pub(super) fn scalar_at(text: &str, path: &str) -> Result<Option<String>, NotADocument> {
    if text.len() > MAX_LEN {
        return Err(NotADocument);
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
        },
        with_snippet: false,
    };
    let document: Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|_| NotADocument)?;
    if !document.is_object() {
        return Err(NotADocument);
    }
    let found = path.split('.').try_fold(&document, |value, step| value.get(step));
    Ok(match found {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Bool(truth)) => Some(truth.to_string()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scalars_are_found_in_yaml_and_json() {
        let yaml = "redirect:\n  dns:\n    enabled: true\n    port: 15053\n";
        let json = r#"{ "holdApplicationUntilProxyStarts": true, "ProxyUserID": "5995" }"#;
        for (text, path, expected) in [
            (yaml, "redirect.dns.enabled", Some("true")),
            (yaml, "redirect.dns.port", Some("15053")),
            (yaml, "redirect.dns", None),
            (yaml, "redirect.dns.port.x", None),
            (yaml, "", None),
            (json, "holdApplicationUntilProxyStarts", Some("true")),
            (json, "ProxyUserID", Some("5995")),
            (json, "proxyUserID", None),
        ] {
            assert_eq!(scalar_at(text, path), Ok(expected.map(str::to_owned)), "{path}");
        }
    }

    #[test]
    fn what_is_no_mapping_or_too_much_is_refused() {
        let nested = format!("a: {}{}", "[".repeat(1_000), "]".repeat(1_000));
        let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b]\n";
        let long = format!("a: {}", "x".repeat(MAX_LEN));
        for text in ["", "true", "[1]", "{", "a: b: c", "\u{0}", &nested, bomb, &long] {
            assert_eq!(scalar_at(text, "a"), Err(NotADocument), "{text:.20}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "[\\[\\]{}:,&*#!|>'\"\\- \n\ta-c\\PC]{0,300}") {
            if let Ok(Some(found)) = scalar_at(&text, "a") {
                prop_assert!(found.len() <= text.len() + 32);
            }
        }
    }
}
