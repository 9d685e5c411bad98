//! Labels and annotations of pods and namespaces: one a line, as `PLACE KEY=VALUE`.

use std::{collections::BTreeMap, time::Duration};

use agent_ebpf::gate::MAX_PORTS;

use super::PROFILES;
use crate::core::{
    ContainerRole, ContainerSpec, ContainerView, Defaults, Key, NamespaceView, PodName, PodUid,
    PodView, Problem, ReadyCheck, Rules, Settings, resolve,
};

/// The most problems of one object that are told, and the longest of their texts: a tenant is not to
/// fill the log with them. 64 characters of a value are shown, each as ten bytes at most
/// (`\u{10ffff}`); the sentences around them have the rest.
const MAX_PROBLEMS: usize = 16;
const MAX_TEXT: usize = 2048;

/// The times that one connect can be held.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut pod = plain_pod("istio-proxy");
    let mut namespace = NamespaceView {
        name: "shop".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    };
    for line in text.lines() {
        let Some((place, (key, value))) =
            line.split_once(' ').and_then(|(place, rest)| Some((place, rest.split_once('=')?)))
        else {
            continue;
        };
        let map = match place {
            "pod-label" => &mut pod.labels,
            "pod" => &mut pod.annotations,
            "namespace-label" => &mut namespace.labels,
            "namespace" => &mut namespace.annotations,
            _ => continue,
        };
        map.insert(key.to_owned(), value.replace("\\n", "\n"));
    }
    let rules = Rules { defaults: Defaults::default(), profiles: PROFILES.clone(), own_pod: None };
    let (settings, problems) = resolve(&pod, &namespace, &rules.defaults, &rules.profiles);
    assert_settings(&settings);
    assert_problems(&problems);
    assert_told(&pod, &settings, &problems);
    let judgement = rules.judge(&pod, Some(&namespace)).expect("the namespace is known");
    assert_eq!(judgement.settings.as_ref(), Some(&settings));
    for problem in judgement.problems.iter().chain(&judgement.namespace_problems) {
        assert_problem(problem);
    }
    if let Ok(plan) = &judgement.plan {
        assert_settings(&plan.settings);
        super::pod::assert_checks(&plan.proxy.ready);
        assert!(plan.proxy.ports.len() <= MAX_PORTS && !plan.proxy.ports.contains(&0));
    }
}

/// A value of the pod's own that cannot be read leaves what would be without it, and is told.
fn assert_told(pod: &PodView, settings: &Settings, problems: &[Problem]) {
    let key = Key::Timeout.to_string();
    let Some(value) = pod.annotations.get(&key) else { return };
    let is_read = humantime::parse_duration(value)
        .is_ok_and(|timeout| (SHORTEST..=LONGEST).contains(&timeout));
    if is_read {
        assert_eq!(settings.timeout.origin, crate::core::Origin::Pod);
    } else {
        assert_ne!(settings.timeout.origin, crate::core::Origin::Pod);
        let is_told = problems.iter().any(|problem| problem.key == key);
        assert!(is_told || problems.len() == MAX_PROBLEMS, "{value:?} is not told of");
    }
}

/// Whatever somebody wrote: no hold without an end, nothing without bounds.
pub(super) fn assert_settings(settings: &Settings) {
    let Settings { hold: _, mode: _, errno: _, timeout, on_timeout: _, guard: _, .. } = settings;
    assert!((SHORTEST..=LONGEST).contains(&timeout.value), "{timeout:?}");
    if let Some(name) = &settings.proxy {
        assert!((1..=63).contains(&name.value.len()), "{name:?}");
        super::assert_one_line(&name.value);
    }
    if let Some(check) = &settings.ready {
        super::pod::assert_checks(std::slice::from_ref(&check.value));
        assert_eq!(check.value.to_string().parse::<ReadyCheck>(), Ok(check.value.clone()));
    }
    if let Some(ports) = &settings.ports {
        let ports = &ports.value;
        assert!((1..=MAX_PORTS).contains(&ports.len()) && !ports.contains(&0), "{ports:?}");
    }
}

fn assert_problems(problems: &[Problem]) {
    assert!(problems.len() <= MAX_PROBLEMS);
    problems.iter().for_each(assert_problem);
}

pub(super) fn assert_problem(problem: &Problem) {
    let Problem { key, value, reason } = problem;
    for text in [key, value, reason] {
        super::assert_one_line(text);
        assert!(text.len() <= MAX_TEXT, "{} bytes: {text:.80}", text.len());
    }
}

/// A pod with an application and this container beside it, marked as Istio marks its own.
pub(super) fn plain_pod(proxy: &str) -> PodView {
    let container = |name: &str| ContainerView {
        name: name.to_owned(),
        role: ContainerRole::App,
        spec: ContainerSpec::default(),
        id: None,
        ready: false,
    };
    let mark = ("sidecar.istio.io/status".to_owned(), "{}".to_owned());
    PodView {
        uid: PodUid::new("0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11"),
        name: PodName::new("shop", "cart"),
        workload: None,
        labels: BTreeMap::new(),
        annotations: [mark].into(),
        host_network: false,
        terminating: false,
        finished: false,
        containers: vec![container("app"), container(proxy)],
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let defaults = Defaults::default();
    let each = Key::ALL.into_iter().flat_map(|key| {
        let place = if key.is_label() { "-label" } else { "" };
        let values = key.about().split('`').skip(1).step_by(2);
        values.map(move |value| format!("pod{place} {key}={value}\nnamespace{place} {key}={value}"))
    });
    let meshes = "pod-label holdfast.dev/hold=enabled\n\
                  pod proxy.istio.io/config={\"holdApplicationUntilProxyStarts\":true}\n\
                  namespace config.linkerd.io/proxy-await=enabled\n\
                  pod holdfast.dev/proxy=app\npod holdfast.dev/ready=tcp://:80\n\
                  pod holdfast.dev/ports=3500,50001";
    let wrong = format!(
        "pod holdfast.dev/timeout={:?}0\\nx\npod-label holdfast.dev/guard=yes\npod holdfast.dev/=1",
        defaults.timeout.value
    );
    each.chain([meshes.to_owned(), wrong]).map(String::into_bytes).collect()
}
