use super::*;
use crate::core::{PodName, PodRef, PodUid, Stamp};

fn pod(namespace: &str, name: &str) -> PodReport {
    let pod = PodRef::new(PodUid::new("4d0b6cfa"), Some(PodName::new(namespace, name)));
    PodReport::new(pod, PodState::Exempt, Stamp::default())
}

fn commands(report: &PodReport) -> Vec<&str> {
    report.reasons.iter().filter_map(|reason| reason.command.as_deref()).collect()
}

#[test]
fn a_command_has_only_names_that_a_shell_takes_as_they_are() {
    let long = "x".repeat(64);
    for (namespace, name, expected) in [
        ("shop", "cart-7d9f", "holdfast gate auto shop/cart-7d9f"),
        ("shop", "cart.v1", "holdfast gate auto shop/cart.v1"),
        ("shop", "cart;reboot", "holdfast gate auto NAMESPACE/POD"),
        ("shop", "$(reboot)", "holdfast gate auto NAMESPACE/POD"),
        ("shop", "", "holdfast gate auto NAMESPACE/POD"),
        ("-n", "cart", "holdfast gate auto NAMESPACE/POD"),
        ("shop", &long, "holdfast gate auto NAMESPACE/POD"),
    ] {
        let pod = PodReport { exemption: Some(Exemption::Operator), ..pod(namespace, name) };
        assert_eq!(commands(&pod.explained()), [expected], "{namespace}/{name}");
    }
}

#[test]
fn a_pod_of_which_nothing_is_known_is_explained_as_well() {
    for state in PodState::ALL {
        let report = PodReport { state, ..pod("shop", "cart") }.explained();
        assert!(!report.reasons.is_empty(), "{state:?}");
        for Reason { text, .. } in &report.reasons {
            assert!(!text.is_empty() && !text.contains("  "), "{state:?}: {text}");
        }
        assert!(state == PodState::Exempt || !report.why.is_empty(), "{state:?}");
    }
}

#[test]
fn a_sentence_names_what_it_rests_on() {
    assert_eq!(ended("It has none".to_owned(), Some("label a=b")), "It has none: label a=b.");
    assert_eq!(ended("It has none".to_owned(), None), "It has none.");
    assert_eq!(proxy::ports_in_words(&[], "and"), "its ports");
    assert_eq!(proxy::ports_in_words(&[15001], "and"), "port 15001");
    assert_eq!(proxy::ports_in_words(&[1, 2, 3], "or"), "ports 1, 2 or 3");
}
