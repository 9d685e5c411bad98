use super::*;
use crate::{
    cluster::fixtures,
    core::{ContainerRole, Defaults},
};

fn settings() -> Settings {
    Settings::default_for_unknown(&Defaults::default())
}

fn by_pod<T>(value: T) -> Option<Chosen<T>> {
    Some(Chosen { value, origin: Origin::Pod })
}

fn named(name: &str) -> Settings {
    Settings { proxy: by_pod(name.to_owned()), ..settings() }
}

fn with(pod: &PodView, settings: &Settings) -> (Detection, Vec<String>) {
    let (detection, problems) = Profiles::builtin().detect(pod, settings);
    (detection, problems.iter().map(ToString::to_string).collect())
}

fn proxy(pod: &PodView, settings: &Settings) -> Proxy {
    let (detection, problems) = with(pod, settings);
    assert!(problems.is_empty(), "{problems:?}");
    let Detection::Proxy(proxy) = detection else { panic!("{detection:?}") };
    proxy
}

/// The containers, marks and all, of two pods in one.
fn both(one: &str, other: &str) -> PodView {
    let (mut pod, other) = (fixtures::pod(one), fixtures::pod(other));
    pod.labels.extend(other.labels);
    pod.annotations.extend(other.annotations);
    pod.containers.extend(other.containers.into_iter().filter(|c| c.name != "cart"));
    pod
}

#[test]
fn of_two_proxies_the_one_that_redirects_everything_counts() {
    for (one, other) in [("dapr", "istio-classic"), ("istio-classic", "dapr")] {
        assert_eq!(proxy(&both(one, other), &settings()).profile, "istio", "{one} {other}");
    }
    // Where the mesh leaves the pod alone the other one is worth waiting for.
    assert_eq!(proxy(&both("istio-none", "dapr"), &settings()).profile, "dapr");
    // What is wrong with one that does not count is nobody's business.
    let mut pod = both("istio-classic", "cloud-sql-proxy");
    let sql = pod.containers.iter_mut().find(|c| c.name == "cloud-sql-proxy").unwrap();
    sql.spec.args.clear();
    assert_eq!(proxy(&pod, &settings()).profile, "istio");
}

#[test]
fn a_name_alone_proves_nothing_where_marks_are_known() {
    for (fixture, mark) in
        [("osm", "osm-proxy-uuid"), ("fsm", "fsm-proxy-uuid"), ("dapr", "dapr.io/sidecar-injected")]
    {
        let mut pod = fixtures::pod(fixture);
        assert!(pod.labels.remove(mark).is_some());
        assert_eq!(with(&pod, &settings()).0, Detection::None, "{fixture}");
        // Who names it knows better.
        assert_eq!(proxy(&pod, &named(fixture)).profile, fixture);
    }
}

#[test]
fn an_init_container_that_ends_is_nobodys_proxy() {
    let mut pod = fixtures::pod("istio-native");
    for container in &mut pod.containers {
        if container.name == "istio-proxy" {
            container.role = ContainerRole::Init;
        }
    }
    assert_eq!(with(&pod, &settings()).0, Detection::None);
    let (detection, problems) = with(&pod, &named("istio-proxy"));
    assert_eq!(detection, Detection::None);
    assert_eq!(
        problems,
        ["holdfast.dev/proxy: \"istio-proxy\": there is no profile and no running container of \
          this name; the proxy is looked for by its marks"]
    );
}

#[test]
fn a_profile_or_a_container_can_be_named() {
    let pod = both("dapr", "istio-classic");
    for name in ["dapr", "daprd"] {
        assert_eq!(proxy(&pod, &named(name)).profile, "dapr", "{name}");
    }
    let own =
        Settings { ready: by_pod(ReadyCheck::Kube), ports: by_pod(vec![6000]), ..named("cart") };
    let own = proxy(&pod, &own);
    assert_eq!((own.profile.as_str(), own.ports.as_slice()), ("cart", &[6000][..]));
    assert_eq!((own.ready.as_slice(), own.kube_ready), (&[ReadyCheck::Kube][..], true));
    assert!(!own.redirects && own.uid.is_none());
}

#[test]
fn a_bad_name_is_told_and_the_proxy_is_found_all_the_same() {
    let pod = fixtures::pod("istio-classic");
    for (name, reason) in [
        ("nobody", "there is no profile and no running container of this name"),
        ("istio-init", "there is no profile and no running container of this name"),
        ("dapr", "the pod has no container of this profile"),
        ("cart", "a container without a profile needs holdfast.dev/ready and holdfast.dev/ports"),
    ] {
        let (detection, problems) = with(&pod, &named(name));
        assert_eq!(detection.proxy().map(|proxy| proxy.profile.as_str()), Some("istio"), "{name}");
        let expected = format!(
            "holdfast.dev/proxy: \"{name}\": {reason}; the proxy is looked for by its marks"
        );
        assert_eq!(problems, [expected]);
    }
    // A namespace names one for those of its pods that have it.
    let chosen = Chosen { value: "dapr".to_owned(), origin: Origin::Namespace };
    assert_eq!(proxy(&pod, &Settings { proxy: Some(chosen), ..settings() }).profile, "istio");
}

#[test]
fn kubelets_word_on_a_container_that_it_does_not_ask_is_none() {
    let mut pod = fixtures::pod("istio-classic");
    assert!(proxy(&pod, &settings()).kube_ready);
    for container in &mut pod.containers {
        container.spec.is_probed = false;
    }
    assert!(!proxy(&pod, &settings()).kube_ready);
    // Whoever names it as the check knows what it means for this container.
    let chosen = Settings { ready: by_pod(ReadyCheck::Kube), ..settings() };
    assert!(proxy(&pod, &chosen).kube_ready);
}

#[test]
fn checks_and_ports_that_the_pod_names_replace_the_profiles() {
    let pod = fixtures::pod("istio-dns");
    let check = ReadyCheck::Tcp { port: 15001 };
    let overridden =
        Settings { ready: by_pod(check.clone()), ports: by_pod(vec![15001, 15002]), ..settings() };
    let overridden = proxy(&pod, &overridden);
    assert_eq!(overridden.ready, [check]);
    assert_eq!(overridden.ports, [15001, 15002]);
    assert!(!overridden.kube_ready, "kubelet asks something else");
    assert!(overridden.redirects);
    assert_eq!(overridden.dns_port, Some(15053));
}

#[test]
fn ports_make_a_proxy_without_a_redirect_one_that_is_dialled() {
    let pod = fixtures::pod("consul-upstreams");
    let proxy = proxy(&pod, &Settings { ports: by_pod(vec![1234]), ..settings() });
    assert_eq!(proxy.ports, [1234]);
    assert!(!proxy.redirects);
    assert_eq!(proxy.dns_port, None);
}

#[test]
fn settings_that_no_proxy_uses_are_told() {
    let useless =
        Settings { ready: by_pod(ReadyCheck::Kube), ports: by_pod(vec![80, 81]), ..settings() };
    let (detection, problems) = with(&fixtures::pod("plain"), &useless);
    assert_eq!(detection, Detection::None);
    let reason = "no proxy is known in this pod; holdfast.dev/proxy can name its container";
    assert_eq!(
        problems,
        [
            format!("holdfast.dev/ports: \"80,81\": {reason}"),
            format!("holdfast.dev/ready: \"kube\": {reason}"),
        ]
    );
}

#[test]
fn a_proxy_whose_port_nothing_tells_is_not_held_for() {
    let mut pod = fixtures::pod("cloud-sql-proxy");
    let args = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
    pod.containers[0].spec.args = args(&["project:region:db"]);
    let (detection, problems) = with(&pod, &settings());
    assert_eq!(detection, Detection::None);
    assert_eq!(
        problems,
        ["holdfast.dev/ports: \"\": the pod does not tell at which port cloud-sql-proxy listens; \
          this annotation can"]
    );
    for (spec, expected) in [
        (&["a:b:c?port=6000"][..], &[6000][..]),
        (&["-p", "6000", "a:b:c", "a:b:d"], &[6000, 6001]),
        (&["--port=65535", "a:b:c", "a:b:d"], &[65535]),
        (&["--port", "6000", "a:b:c?unix-socket=/s", "a:b:d"], &[6000]),
        (&["-instances=a:b:c=tcp:5432,a:b:d=tcp:0.0.0.0:5433"], &[5432, 5433]),
    ] {
        pod.containers[0].spec.args = args(spec);
        assert_eq!(proxy(&pod, &settings()).ports, expected, "{spec:?}");
    }
    let many: Vec<_> =
        (0..9).map(|number| format!("a:b:{number}?port={}", 6000 + number)).collect();
    pod.containers[0].spec.args = many;
    let (detection, problems) = with(&pod, &settings());
    assert_eq!(detection.proxy().unwrap().ports, [6000, 6001, 6002, 6003, 6004, 6005, 6006, 6007]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    pod.containers[0].spec.args = args(&["--unix-socket=/cloudsql", "a:b:c"]);
    let off = Detection::RedirectOff {
        profile: "cloud-sql-proxy".to_owned(),
        mark: "argument --unix-socket".to_owned(),
    };
    assert_eq!(with(&pod, &settings()), (off, vec![]));
}

#[test]
fn a_user_that_the_application_runs_as_too_is_no_mark_of_the_proxy() {
    let mut pod = fixtures::pod("linkerd-native");
    let set = |pod: &mut PodView, name: &str, user: u32| {
        let container = pod.containers.iter_mut().find(|c| c.name == name).unwrap();
        container.spec.run_as_user = Some(user);
    };
    // Both have it from the pod.
    set(&mut pod, "linkerd-proxy", 1000);
    set(&mut pod, "cart", 1000);
    assert_eq!(proxy(&pod, &settings()).uid, None);
    set(&mut pod, "cart", 1001);
    assert_eq!(proxy(&pod, &settings()).uid, Some(1000));
    // Setup containers are over before an application starts.
    set(&mut pod, "linkerd-init", 1000);
    assert_eq!(proxy(&pod, &settings()).uid, Some(1000));
}

#[test]
fn only_an_init_container_sets_up() {
    let mut pod = fixtures::pod("osm");
    assert_eq!(proxy(&pod, &settings()).setup_containers, ["osm-init"]);
    for role in [ContainerRole::App, ContainerRole::Sidecar, ContainerRole::Ephemeral] {
        pod.containers.iter_mut().find(|c| c.name == "osm-init").unwrap().role = role;
        let proxy = proxy(&pod, &settings());
        assert_eq!(proxy.setup_containers, <[String; 0]>::default(), "{role:?}");
        assert!(!proxy.is_setup("osm-init"), "{role:?}");
    }
}

#[test]
fn without_probes_the_fallback_endpoint_is_asked_as_well() {
    let mut pod = fixtures::pod("istio-classic");
    let container = pod.containers.iter_mut().find(|c| c.name == "istio-proxy").unwrap();
    // sidecar status port "0": the injector leaves the probes out.
    container.spec.probes.clear();
    let checks: Vec<_> = proxy(&pod, &settings()).ready.iter().map(ToString::to_string).collect();
    assert_eq!(checks, ["http://:15021/healthz/ready", "http://:15020/healthz/ready"]);
}

#[test]
fn dns_is_held_only_where_the_mesh_captures_it() {
    let dns = |pod: &PodView| proxy(pod, &settings()).dns_port;
    let set = |pod: &mut PodView, container: &str, name: &str, value: &str| {
        let container = pod.containers.iter_mut().find(|c| c.name == container).unwrap();
        container.spec.env.insert(name.to_owned(), value.to_owned());
    };
    let mut istio = fixtures::pod("istio-dns");
    for (value, expected) in
        [("true", Some(15053)), ("1", Some(15053)), ("false", None), ("", None), ("yes", None)]
    {
        set(&mut istio, "istio-proxy", "ISTIO_META_DNS_CAPTURE", value);
        assert_eq!(dns(&istio), expected, "{value}");
    }
    let mut kuma = fixtures::pod("kuma-classic");
    kuma.annotations.insert("kuma.io/builtin-dns-port".to_owned(), "25053".to_owned());
    assert_eq!(dns(&kuma), Some(25053));
    set(&mut kuma, "kuma-sidecar", "KUMA_DNS_ENABLED", "false");
    assert_eq!(dns(&kuma), None);
    let mut kuma = fixtures::pod("kuma-native");
    let config = kuma.annotations.get_mut("traffic.kuma.io/transparent-proxy-config").unwrap();
    *config =
        config.replace("    enabled: true\n    port: 15053", "    enabled: false\n    port: 0");
    assert_eq!(dns(&kuma), None);
    let mut consul = fixtures::pod("consul");
    consul
        .containers
        .iter_mut()
        .for_each(|c| c.spec.args.retain(|arg| !arg.contains("dns-bind-port")));
    assert_eq!(dns(&consul), None);
}

#[test]
fn a_users_profile_works_like_a_builtin_one() {
    let own: Vec<Profile> = serde_saphyr::from_str(
        "- name: gatekeeper\n  containers: [gate*]\n  ready:\n  - check: http://:9/readyz\n    \
         port-from: [probe]\n  ports:\n  - default: 1\n    from:\n    - arg: --listen\n  \
         uid: {from: [run-as-user]}\n",
    )
    .unwrap();
    let mut pod = fixtures::pod("own-proxy");
    pod.annotations.clear();
    let (detection, _) = Profiles::with(own).unwrap().detect(&pod, &settings());
    let proxy = detection.proxy().unwrap();
    assert_eq!(proxy.profile, "gatekeeper");
    assert_eq!(proxy.ports, [6000, 6001]);
    assert_eq!(proxy.uid, Some(4100));
    assert_eq!(proxy.ready, [ReadyCheck::Http { port: 6099, path: "/readyz".to_owned() }]);
    assert!(proxy.kube_ready && proxy.redirects);
}
