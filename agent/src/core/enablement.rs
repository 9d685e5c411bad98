//! Whether a pod is to be held at all: the label on its namespace, or its own, which wins.

use std::collections::BTreeMap;

/// The label that switches holding on or off, on a namespace or on a pod.
pub const HOLD_LABEL: &str = "holdfast.dev/hold";

/// A value of [`HOLD_LABEL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// `enabled`.
    Enabled,
    /// `disabled`.
    Disabled,
}

impl Hold {
    /// Reads the label; `Err` carries a value that is neither `enabled` nor `disabled`.
    ///
    /// # Errors
    ///
    /// The value, if it is none of the two.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Result<Option<Self>, &str> {
        match labels.get(HOLD_LABEL).map(String::as_str) {
            None => Ok(None),
            Some("enabled") => Ok(Some(Self::Enabled)),
            Some("disabled") => Ok(Some(Self::Disabled)),
            Some(other) => Err(other),
        }
    }
}

/// Whether a pod is enabled: its own label if it has a valid one, else its namespace's; without
/// either it is not. An invalid value counts as none, so it can neither enable nor disable.
#[must_use]
pub fn is_enabled(pod: &BTreeMap<String, String>, namespace: &BTreeMap<String, String>) -> bool {
    let own = Hold::from_labels(pod).unwrap_or_default();
    let inherited = Hold::from_labels(namespace).unwrap_or_default();
    own.or(inherited) == Some(Hold::Enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: Option<&str>) -> BTreeMap<String, String> {
        value.map(|value| (HOLD_LABEL.to_owned(), value.to_owned())).into_iter().collect()
    }

    #[test]
    fn the_pods_own_label_wins_over_its_namespaces() {
        let (on, off, bogus) = (Some("enabled"), Some("disabled"), Some("bogus"));
        for (pod, namespace, expected) in [
            (None, None, false),
            (None, on, true),
            (None, off, false),
            (on, None, true),
            (on, off, true),
            (off, on, false),
            (bogus, on, true),
            (bogus, None, false),
            (None, bogus, false),
            (on, bogus, true),
        ] {
            assert_eq!(
                is_enabled(&labels(pod), &labels(namespace)),
                expected,
                "pod {pod:?}, namespace {namespace:?}"
            );
        }
    }
}
