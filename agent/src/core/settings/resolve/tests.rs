use proptest::prelude::*;

use super::*;
use crate::{
    cluster::fixtures,
    core::{Choices, Detection},
};

const CONFIG: &str = "kubernetes.io/metadata.name";

fn namespace(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> NamespaceView {
    let mut labels = map(labels);
    labels.insert(CONFIG.to_owned(), "shop".to_owned());
    NamespaceView { name: "shop".to_owned(), labels, annotations: map(annotations) }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> PodView {
    let mut pod = fixtures::pod("istio-classic");
    pod.labels.extend(map(labels));
    pod.annotations.extend(map(annotations));
    pod
}

fn told(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn resolved(pod: &PodView, namespace: &NamespaceView) -> (Settings, Vec<String>) {
    let (settings, problems) = resolve(pod, namespace, &Defaults::default(), &Profiles::builtin());
    (settings, told(&problems))
}

#[test]
fn without_a_word_the_defaults_hold() {
    let (settings, problems) = resolved(&pod(&[], &[]), &namespace(&[], &[]));
    assert_eq!(settings, Settings::default_for_unknown(&Defaults::default()));
    assert!(!settings.hold.value);
    assert_eq!(settings.timeout.value, Duration::from_secs(60));
    assert!(problems.is_empty());
}

#[test]
fn the_pod_wins_over_its_mesh_over_the_namespace_over_its_mesh_over_the_config() {
    use Origin::{Config, Namespace, NamespaceMesh, Pod, PodMesh};
    let defaults = Defaults::default().with(Choices { hold: Some(true), ..Choices::default() });
    let linkerd = || fixtures::pod("linkerd-native");
    let wish = "config.linkerd.io/proxy-await";
    let hold = "holdfast.dev/hold";
    // From the lowest: each row adds what wins over the rows before it.
    let rows: [(&[&str], bool, Origin); 6] = [
        (&[], true, Config),
        (&["namespace's mesh"], false, NamespaceMesh),
        (&["namespace's mesh", "namespace"], true, Namespace),
        (&["namespace", "pod's mesh"], false, PodMesh),
        (&["namespace", "pod's mesh", "pod"], true, Pod),
        // The same on both: the injector has copied it.
        (&["namespace's mesh", "namespace", "pod's mesh"], true, Namespace),
    ];
    for (who, value, origin) in rows {
        let (mut pod, mut namespace) = (linkerd(), namespace(&[], &[]));
        for who in who {
            let (all, key, value) = match *who {
                "namespace's mesh" => (&mut namespace.annotations, wish, "disabled"),
                "namespace" => (&mut namespace.labels, hold, "enabled"),
                "pod's mesh" => (&mut pod.annotations, wish, "disabled"),
                _ => (&mut pod.labels, hold, "enabled"),
            };
            all.insert(key.to_owned(), value.to_owned());
        }
        let (settings, _) = resolve(&pod, &namespace, &defaults, &Profiles::builtin());
        assert_eq!(settings.hold, Chosen { value, origin }, "{who:?}");
    }
}

#[test]
fn every_setting_is_taken_from_the_pod_before_its_namespace() {
    let below = [
        ("holdfast.dev/mode", "refuse"),
        ("holdfast.dev/errno", "EAGAIN"),
        ("holdfast.dev/timeout", "5s"),
        ("holdfast.dev/on-timeout", "refuse"),
        ("holdfast.dev/guard", "enabled"),
        ("holdfast.dev/proxy", "istio"),
        ("holdfast.dev/ready", "kube"),
        ("holdfast.dev/ports", "1"),
    ];
    let above = [
        ("holdfast.dev/mode", "retry"),
        ("holdfast.dev/errno", "ETIMEDOUT"),
        ("holdfast.dev/timeout", "90s"),
        ("holdfast.dev/on-timeout", "open"),
        ("holdfast.dev/guard", "disabled"),
        ("holdfast.dev/proxy", "envoy-2"),
        ("holdfast.dev/ready", "tcp://:9"),
        ("holdfast.dev/ports", "2,3"),
    ];
    let inherited = resolved(&pod(&[], &[]), &namespace(&[], &below)).0;
    let own = resolved(&pod(&[], &above), &namespace(&[], &below)).0;
    for (settings, origin, mode, errno, seconds, on_timeout, guard, proxy, ready, ports) in [
        (
            inherited,
            Origin::Namespace,
            Mode::Refuse,
            RefuseErrno::Again,
            5,
            OnTimeout::Refuse,
            true,
            "istio",
            ReadyCheck::Kube,
            vec![1],
        ),
        (
            own,
            Origin::Pod,
            Mode::Retry,
            RefuseErrno::TimedOut,
            90,
            OnTimeout::Open,
            false,
            "envoy-2",
            ReadyCheck::Tcp { port: 9 },
            vec![2, 3],
        ),
    ] {
        fn by<T>(origin: Origin, value: T) -> Chosen<T> {
            Chosen { value, origin }
        }
        let expected = Settings {
            hold: Defaults::default().hold,
            mode: by(origin, mode),
            errno: by(origin, errno),
            timeout: by(origin, Duration::from_secs(seconds)),
            on_timeout: by(origin, on_timeout),
            guard: by(origin, guard),
            proxy: Some(by(origin, proxy.to_owned())),
            ready: Some(by(origin, ready)),
            ports: Some(by(origin, ports)),
        };
        assert_eq!(settings, expected);
    }
}

#[test]
fn a_bad_value_falls_to_the_next_level_and_says_to_which() {
    let long = "9".repeat(10_000);
    for (annotations, below, expected) in [
        (
            ("holdfast.dev/timeout", "-5s"),
            ("holdfast.dev/timeout", "7s"),
            "holdfast.dev/timeout: \"-5s\": it must be a duration from 1s to 1h, such as 90s or \
             2m; used instead: 7s (namespace)",
        ),
        (
            ("holdfast.dev/timeout", long.as_str()),
            ("holdfast.dev/timeout", "2h"),
            &format!(
                "holdfast.dev/timeout: \"{}…\": it must be a duration from 1s to 1h, such as 90s \
                 or 2m; used instead: 1m (default)",
                "9".repeat(64)
            ),
        ),
        (
            ("holdfast.dev/ports", "80,65536"),
            ("holdfast.dev/ports", "0"),
            "holdfast.dev/ports: \"80,65536\": it must be ports from 1 to 65535, with commas \
             between them; it is ignored",
        ),
        (
            ("holdfast.dev/ports", "1,2,3,4,5,6,7,8,9"),
            ("holdfast.dev/ports", "80"),
            "holdfast.dev/ports: \"1,2,3,4,5,6,7,8,9\": only 8 ports can be held; used instead: \
             1,2,3,4,5,6,7,8 (pod)",
        ),
        (
            ("holdfast.dev/mode", "hold\n\u{1b}[2J"),
            ("holdfast.dev/mode", "observe"),
            "holdfast.dev/mode: \"hold\\n\\u{1b}[2J\": it must be hold, retry, refuse or observe; \
             used instead: observe (namespace)",
        ),
        (
            ("holdfast.dev/hold", "enabled"),
            ("holdfast.dev/mode", "hold"),
            "holdfast.dev/hold: \"enabled\": it is an annotation, but counts only as a label; it \
             is ignored",
        ),
        (
            ("holdfast.dev/time-out", "5s"),
            ("holdfast.dev/mode", "hold"),
            "holdfast.dev/time-out: \"5s\": holdfast has no such setting; it has hold, mode, \
             errno, timeout, on-timeout, guard, proxy, ready, ports; it is ignored",
        ),
    ] {
        let (_, problems) = resolved(&pod(&[], &[annotations]), &namespace(&[], &[below]));
        assert_eq!(problems, [expected]);
    }
    let (settings, problems) =
        resolved(&pod(&[("holdfast.dev/mode", "refuse")], &[]), &namespace(&[], &[]));
    assert_eq!(settings.mode.value, Mode::Hold);
    assert_eq!(
        problems,
        ["holdfast.dev/mode: \"refuse\": it is a label, but counts only as an annotation; it is \
          ignored"]
    );
    let (settings, problems) = resolved(
        &pod(&[("holdfast.dev/hold", "yes")], &[]),
        &namespace(&[("holdfast.dev/hold", "enabled")], &[]),
    );
    assert_eq!(settings.hold, Chosen { value: true, origin: Origin::Namespace });
    assert_eq!(
        problems,
        ["holdfast.dev/hold: \"yes\": it must be enabled or disabled; used instead: enabled \
          (namespace)"]
    );
}

#[test]
fn a_namespaces_mistakes_are_told_apart_from_its_pods() {
    let namespace = namespace(&[("holdfast.dev/hold", "on")], &[("holdfast.dev/guard", "on")]);
    assert!(resolved(&pod(&[], &[]), &namespace).1.is_empty());
    assert_eq!(
        told(&namespace_problems(&namespace)),
        [
            "holdfast.dev/hold: \"on\": on the namespace: it must be enabled or disabled; it is \
             ignored",
            "holdfast.dev/guard: \"on\": on the namespace: it must be enabled or disabled; it is \
             ignored",
        ]
    );
}

#[test]
fn a_flood_of_keys_is_told_in_part() {
    let mut pod = pod(&[], &[]);
    for number in 0..1_000 {
        pod.annotations.insert(format!("holdfast.dev/x{number}"), "x".to_owned());
    }
    assert_eq!(resolved(&pod, &namespace(&[], &[])).1.len(), MAX_PROBLEMS);
}

#[test]
fn the_meshes_own_keys_count_where_the_mesh_reads_them() {
    let istio = "proxy.istio.io/config";
    let on = Some(true);
    for (fixture, key, value, on_pod, on_namespace) in [
        ("istio-classic", istio, r#"{ "holdApplicationUntilProxyStarts": true }"#, on, None),
        ("istio-classic", istio, "hold_application_until_proxy_starts: true", on, None),
        ("istio-classic", istio, "concurrency: 2", None, None),
        ("istio-classic", istio, "holdApplicationUntilProxyStarts: false", Some(false), None),
        ("linkerd-native", "config.linkerd.io/proxy-await", "enabled", on, on),
        ("kuma-native", "kuma.io/wait-for-dataplane-ready", "true", on, None),
        ("fsm", "flomesh.io/hold-application-until-proxy-starts", "Yes", on, on),
        // Not a word to a pod of another mesh.
        ("istio-classic", "kuma.io/wait-for-dataplane-ready", "true", None, None),
        ("plain", "config.linkerd.io/proxy-await", "enabled", None, None),
    ] {
        let pairs = [(key, value)];
        let bare = fixtures::pod(fixture);
        let mut annotated = bare.clone();
        annotated.annotations.extend(map(&pairs));
        let annotated = resolved(&annotated, &namespace(&[], &[]));
        let inherited = resolved(&bare, &namespace(&[], &pairs));
        for (settings, expected, origin) in [
            (annotated.0, on_pod, Origin::PodMesh),
            (inherited.0, on_namespace, Origin::NamespaceMesh),
        ] {
            let found = (settings.hold.origin == origin).then_some(settings.hold.value);
            assert_eq!(found, expected, "{fixture} {key} {value} {origin:?}");
        }
        assert!(annotated.1.is_empty(), "{:?}", annotated.1);
    }
    // The fixture asks for it itself.
    let (settings, _) = resolved(&fixtures::pod("istio-dns"), &namespace(&[], &[]));
    assert_eq!(settings.hold, Chosen { value: true, origin: Origin::PodMesh });
    let defaults =
        Defaults::default().with(Choices { mesh_wishes: Some(false), ..Choices::default() });
    let pod = fixtures::pod("istio-dns");
    let (settings, _) = resolve(&pod, &namespace(&[], &[]), &defaults, &Profiles::builtin());
    assert_eq!(settings.hold.origin, Origin::Default);
}

#[test]
fn a_wish_that_cannot_be_read_is_told_and_counts_as_none() {
    let deep = format!("a: {}", "[".repeat(2_000));
    for (value, reason) in [
        (deep.as_str(), "it is not a YAML or JSON mapping of at most 32 KiB"),
        ("{", "it is not a YAML or JSON mapping of at most 32 KiB"),
        ("holdApplicationUntilProxyStarts: maybe", "it must be one of true, false"),
    ] {
        let pod = pod(&[], &[("proxy.istio.io/config", value)]);
        let (settings, problems) = resolved(&pod, &namespace(&[], &[]));
        assert_eq!(settings.hold.origin, Origin::Default);
        assert!(problems[0].contains(reason), "{problems:?}");
    }
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        "[-0-9a-z:/.,*&!{}\\[\\]\" \n\t\u{0}]{0,60}",
        "[0-9]{1,30}(s|m|h|ms|y)( ?[0-9]{1,30}(s|m|h))*",
        "(http|tcp)://:[0-9]{1,6}(/[!-~]{0,8})?",
        "[0-9]{1,6}(,[0-9]{1,6}){0,20}",
        Just("1s".repeat(5_000)),
        Just("x".repeat(10_000)),
        Just("-1s".to_owned()),
        Just("18446744073709551616s".to_owned()),
        Just("enabled".to_owned()),
        Just("istio-proxy".to_owned()),
        Just("cart".to_owned()),
        Just("dapr".to_owned()),
    ]
}

fn any_annotations() -> impl Strategy<Value = BTreeMap<String, String>> {
    let keys = prop::sample::select(vec![
        "holdfast.dev/hold",
        "holdfast.dev/mode",
        "holdfast.dev/errno",
        "holdfast.dev/timeout",
        "holdfast.dev/on-timeout",
        "holdfast.dev/guard",
        "holdfast.dev/proxy",
        "holdfast.dev/ready",
        "holdfast.dev/ports",
        "holdfast.dev/",
        "holdfast.dev/nothing",
        "proxy.istio.io/config",
        "sidecar.istio.io/interceptionMode",
    ]);
    prop::collection::btree_map(keys.prop_map(str::to_owned), any_value(), 0..8)
}

proptest! {
    #[test]
    fn whatever_tenants_write_the_settings_are_within_their_bounds(
        labels in any_annotations(),
        annotations in any_annotations(),
        below in any_annotations(),
    ) {
        let mut pod = pod(&[], &[]);
        pod.labels.extend(labels);
        pod.annotations.extend(annotations);
        let mut namespace = namespace(&[], &[]);
        namespace.annotations.extend(below);
        let profiles = Profiles::builtin();
        let (settings, problems) = resolve(&pod, &namespace, &Defaults::default(), &profiles);
        let timeout = settings.timeout.value;
        prop_assert!((Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&timeout));
        if let Some(ports) = &settings.ports {
            prop_assert!((1..=MAX_PORTS).contains(&ports.value.len()));
            prop_assert!(!ports.value.contains(&0));
        }
        let (detection, more) = profiles.detect(&pod, &settings);
        if let Detection::Proxy(proxy) = &detection {
            prop_assert!(!proxy.ready.is_empty());
            prop_assert!((1..=MAX_PORTS).contains(&proxy.ports.len()));
            prop_assert!(pod.container(&proxy.container).is_some());
        }
        for problem in problems.iter().chain(&more).chain(&namespace_problems(&namespace)) {
            let line = problem.to_string();
            prop_assert!(!line.chars().any(char::is_control));
            prop_assert!(line.chars().count() < 1_500);
        }
    }
}
