//! Every case of the table explains itself, and so do the bad ends.

use std::{collections::BTreeSet, time::Duration};

use holdfast::{
    command::{explain, terminal::Style},
    core::{
        Exemption, Finding, Monotonic, Order, Origin, PodReport, PodState, Reason, SettingReport,
        Topic,
    },
};
use unicode_width::UnicodeWidthStr as _;

use crate::{
    cases::{self, Case},
    scene::{self, Given, Known, Step},
};

/// Columns that a terminal has at least.
const WIDTH: usize = 100;

pub(crate) fn text_of(known: &Known) -> String {
    explain::text(&known.pod, &known.episodes, known.now, Style::PLAIN)
}

/// The sentences about this.
fn about(pod: &PodReport, topic: Topic) -> String {
    let reasons = pod.reasons.iter().filter(|reason| reason.topic == topic);
    reasons.map(|reason| reason.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// What an explanation must say of an exemption.
fn named(pod: &PodReport, exemption: Exemption) -> &str {
    match exemption {
        Exemption::NotEnabled => match pod.setting("hold") {
            Some(SettingReport { origin: Origin::Default, .. }) | None => {
                "holdfast.dev/hold=enabled"
            }
            Some(SettingReport { source, .. }) => source,
        },
        Exemption::NoProxy => "proxy",
        Exemption::RedirectOff => "redirects nothing",
        Exemption::NoSidecar => "no pod with a side-car",
        Exemption::HostNetwork => "hostNetwork",
        Exemption::Terminating => "being deleted",
        Exemption::Finished => "have ended",
        Exemption::ControlPlane => "never held",
        Exemption::Agent => "agent's own",
        Exemption::Operator => "operator",
        Exemption::Deleted => "no such pod",
    }
}

/// What no person writes: how the compiler shows a value, or a text that was left empty.
fn is_of_a_machine(text: &str) -> bool {
    ["Some(", "None", "::", "{", "}", "\\n", "  ", "()", "..", " ,", " .", ": .", "\"\""]
        .iter()
        .any(|mark| text.contains(mark))
}

fn check(name: &str, known: &Known) {
    let Known { pod, .. } = known;
    let text = text_of(known);
    for line in text.lines() {
        assert!(line.width() <= WIDTH, "{name}: {line}");
        assert_eq!(line, line.trim_end(), "{name}");
    }
    assert!(!pod.why.is_empty() && !is_of_a_machine(&pod.why), "{name}: {}", pod.why);
    assert!(!about(pod, Topic::State).is_empty(), "{name}");
    assert!(!about(pod, Topic::Hold).is_empty(), "{name}: {text}");
    for Reason { topic: _, text: sentence, source, command } in &pod.reasons {
        let wrong = is_of_a_machine(sentence) || sentence.contains("[]");
        assert!(!wrong, "{name}: {sentence}");
        assert!(source.as_ref().is_none_or(|source| !source.is_empty()), "{name}: {sentence}");
        // What leads up to a command gets its colon where it is shown.
        assert_eq!(sentence.ends_with('.'), command.is_none(), "{name}: {sentence}");
        assert!(sentence.starts_with(|c: char| !c.is_whitespace()), "{name}: {sentence}");
    }
    if let Some(exemption) = pod.exemption {
        let (why, expected) = (about(pod, Topic::Hold), named(pod, exemption));
        assert!(why.contains(expected), "{name}: {why}");
        assert!(!about(pod, Topic::Next).is_empty(), "{name}: {text}");
    }
    let json = serde_json::to_string(pod).unwrap();
    assert_eq!(&serde_json::from_str::<PodReport>(&json).unwrap(), pod, "{name}");
}

/// The settings that a pod's own annotations have.
fn annotated(given: &Given) -> Vec<String> {
    let annotations = &given.change["metadata"]["annotations"];
    let keys = annotations.as_object().into_iter().flat_map(|all| all.keys());
    keys.filter(|key| key.starts_with("holdfast.dev/")).cloned().collect()
}

#[test]
fn every_case_of_the_table_has_an_explanation_that_names_what_decided() {
    let mut exemptions = BTreeSet::new();
    for Case { name, given, steps, .. } in cases::all() {
        let Some(known) = scene::known(&given, &steps) else { continue };
        check(name, &known);
        exemptions.extend(known.pod.exemption.map(Exemption::as_str));
        let text = text_of(&known);
        let is_told = steps.iter().any(|step| matches!(step, Step::Told));
        if is_told && known.pod.exemption.is_none() {
            let decided = known.pod.setting("hold").unwrap();
            assert!(about(&known.pod, Topic::Hold).contains(&decided.source), "{name}: {text}");
            assert!(!about(&known.pod, Topic::Proxy).is_empty(), "{name}: {text}");
            assert!(!about(&known.pod, Topic::Container).is_empty(), "{name}: {text}");
            for key in annotated(&given) {
                assert!(text.contains(&key), "{name}: {key} in\n{text}");
            }
        }
    }
    // The operator orders nothing in the table.
    assert!(exemptions.len() >= 9, "{exemptions:?}");
}

/// A pod of Istio in an enabled namespace whose application waits.
fn waits() -> (Given, Vec<Step>) {
    let given = cases::pod("istio-classic");
    let steps = cases::starts(&["cart", "istio-proxy"]);
    let refused = Finding::NobodyListens { ports: vec![15001] };
    (given, cases::then(steps, [Step::Found(refused), Step::Held("cart")]))
}

pub(crate) fn after(more: impl IntoIterator<Item = Step>) -> Known {
    let (given, steps) = waits();
    scene::known(&given, &cases::then(steps, more)).unwrap()
}

pub(crate) fn seconds(seconds: u64) -> Step {
    Step::Wait(Duration::from_secs(seconds))
}

#[test]
fn who_waits_is_told_with_what_was_seen_and_what_to_do() {
    let known = after([seconds(4)]);
    check("waits", &known);
    let text = text_of(&known);
    for part in [
        "closed for 4s, 1 connection waiting now",
        "cart (app, pid 4711) connects to 203.0.113.9:443, for 4.01 s so far",
        "go on in 56.0 s at the latest",
        "Nobody listens on port 15001. So it has been for 4s.",
        "kubectl -n shop logs cart-a1e091e9d-trhlq -c istio-proxy",
        "holdfast gate open shop/cart-a1e091e9d-trhlq",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(known.pod.why, "istio-proxy is not ready: nobody listens on port 15001");
}

#[test]
fn a_hold_that_went_well_tells_what_opened_it() {
    let check_of = "http://:15021/healthz/ready".parse().unwrap();
    let known = after([
        seconds(4),
        Step::Found(Finding::Ready { check: check_of }),
        Step::Probe(true),
        Step::Connected,
        seconds(5),
    ]);
    check("opened", &known);
    let text = text_of(&known);
    assert_eq!(known.pod.state, PodState::Open);
    for part in [
        "istio-proxy is ready (http://:15021/healthz/ready says ready)",
        "1 connection waited for 4.0",
        "istio-proxy was ready 4.0",
        "all of them went through",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(about(&known.pod, Topic::Next).is_empty(), "{text}");
}

#[test]
fn a_hold_that_went_badly_tells_why_and_what_to_do() {
    let given_up = after([seconds(70)]);
    check("given up", &given_up);
    assert_eq!(given_up.pod.state, PodState::GivenUp);
    let text = text_of(&given_up);
    for part in ["was not ready within 1m", "holdfast.dev/timeout", "NOT ready"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }

    let failed = after([Step::Fails("bpf_link_create: Operation not permitted")]);
    check("failed", &failed);
    let text = text_of(&failed);
    for part in ["NOT held", "bpf_link_create: Operation not permitted", "holdfast check"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(failed.pod.why.contains("Operation not permitted"), "{}", failed.pod.why);

    let around = after([Step::Probe(true), Step::Counted(0, 7), seconds(5)]);
    check("not redirected", &around);
    assert!(text_of(&around).contains("connections leave without it"), "{}", text_of(&around));

    let given = cases::pod("istio-classic");
    let steps = cases::then(cases::starts(&["migrate"]), [Step::InitPasses("migrate")]);
    let early = scene::known(&given, &steps).unwrap();
    check("init container", &early);
    let text = text_of(&early);
    for part in ["Init container migrate has reached", "excludeOutboundPorts"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn the_operators_order_is_told_and_how_to_take_it_back() {
    let until = Monotonic(30_000_000_000);
    let closed = after([Step::Ordered(Order::Closed { until })]);
    check("ordered closed", &closed);
    let text = text_of(&closed);
    for part in ["ordered its gate closed", "holdfast gate auto shop/cart-a1e091e9d-trhlq"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }

    let passed = after([Step::Ordered(Order::Closed { until }), seconds(90)]);
    check("an order that has passed", &passed);
    assert!(passed.pod.order.is_none());
    assert!(!text_of(&passed).contains("ordered its gate closed"), "{}", text_of(&passed));

    let open = after([Step::Ordered(Order::Open { until: None }), seconds(5)]);
    check("ordered open", &open);
    let text = text_of(&open);
    for part in ["The operator has opened its gate", "holdfast gate auto"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn what_a_tenant_writes_does_not_act_on_a_terminal_nor_in_a_shell() {
    let (mut given, steps) = waits();
    let bad = "\u{1b}[2J\u{202e}$(reboot)";
    given.change = serde_json::json!({"metadata": {
        "name": format!("cart;{bad}"),
        "annotations": {"holdfast.dev/timeout": bad, "holdfast.dev/x": bad},
    }});
    let known = scene::known(&given, &steps).unwrap();
    let text = text_of(&known);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
    let commands = known.pod.reasons.iter().filter_map(|reason| reason.command.as_ref());
    let commands: Vec<_> = commands.collect();
    assert!(!commands.is_empty(), "{text}");
    assert!(commands.iter().all(|command| !command.contains("reboot")), "{commands:?}");
}
