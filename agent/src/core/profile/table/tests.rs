use super::*;

const MINIMAL: &str = "{name: own, containers: [a], ready: [kube], ports: [80]}";

fn profile(text: &str) -> Profile {
    serde_saphyr::from_str(text).unwrap()
}

fn with(own: &str) -> Result<Profiles, String> {
    Profiles::with(vec![profile(own)]).map_err(|error| error.to_string())
}

#[test]
fn ports_of_builtin_profiles_come_before_a_users_own() {
    let builtin = Profiles::builtin().default_ports();
    // The room that a sentry has for others.
    assert!(builtin.len() < agent_ebpf::sentry::MAX_SENTRY_PORTS, "{builtin:?}");
    let mut own = Profiles::builtin().get("istio").unwrap().clone();
    own.name = "own".to_owned();
    own.ports[0].default = Some(7);
    let with_own = Profiles::with(vec![own]).unwrap().default_ports();
    assert_eq!(with_own[..builtin.len()], builtin);
    assert_eq!(with_own.last(), Some(&7));
}

#[test]
fn the_builtin_table_is_valid_by_the_rules_for_everybody() {
    let builtin = Profiles::builtin();
    let names: Vec<_> = builtin.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(
        names,
        ["istio", "linkerd", "kuma", "consul", "osm", "fsm", "dapr", "cloud-sql-proxy"]
    );
    // Given as if they were a user's, they are checked, and take their own place.
    assert_eq!(Profiles::with(builtin.0.clone()), Ok(builtin));
}

#[test]
fn every_mesh_with_a_redirect_says_how_to_leave_destinations_out() {
    for profile in Profiles::builtin().iter().filter(|profile| profile.redirects) {
        assert!(profile.exclusion_hint.is_some(), "{}", profile.name);
        assert!(!profile.setup_containers.is_empty(), "{}", profile.name);
        assert!(!profile.marks.is_empty(), "{}", profile.name);
    }
}

#[test]
fn a_control_plane_is_known_by_its_namespace() {
    let own = "{name: own, containers: [a], ready: [kube], ports: [80], \
               control-plane-namespaces: [own-system]}";
    let profiles = with(own).unwrap();
    for namespace in ["istio-system", "linkerd", "kuma-system", "dapr-system", "own-system"] {
        assert!(profiles.is_control_plane(namespace), "{namespace}");
    }
    assert!(!profiles.is_control_plane("shop"));
    assert!(!Profiles::builtin().is_control_plane("own-system"));
}

#[test]
fn a_pod_of_which_nothing_is_known_could_have_any_mesh() {
    let proxy = Profiles::builtin().unknown_pod();
    assert_eq!((&*proxy.ports, proxy.dns_port), (&[15001, 4140][..], Some(15053)));
    assert!(proxy.kube_ready && proxy.redirects && proxy.uid.is_none());
    let checks: Vec<_> = proxy.ready.iter().map(ToString::to_string).collect();
    assert_eq!(
        checks,
        [
            "http://:15021/healthz/ready",
            "http://:15020/healthz/ready",
            "http://:4191/ready",
            "http://:9902/ready",
            "http://:9901/ready",
            "http://:19000/ready",
            "http://:15000/ready",
        ],
        "that somebody listens says nothing where it is not known which mesh it is"
    );
    for (container, setup) in [
        ("istio-init", true),
        ("linkerd-network-validator", true),
        ("consul-connect-inject-init-web", true),
        ("fsm-init", true),
        ("migrate", false),
        ("", false),
    ] {
        assert_eq!(proxy.is_setup(container), setup, "{container}");
    }
}

#[test]
fn an_unknown_pod_is_held_at_as_many_ports_as_can_be() {
    let own = "{name: own, containers: [a], ready: [kube], ports: [1, 2, 3, 4, 5, 6, 7, 8]}";
    assert_eq!(with(own).unwrap().unknown_pod().ports, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn profiles_that_can_never_work_are_refused() {
    assert!(with(MINIMAL).is_ok());
    for (text, reason) in [
        (
            "{name: 'a b', containers: [a], ready: [kube], ports: [80]}",
            "profiles[0] (a b): name: it must be a profile's or a container's name",
        ),
        (
            "{name: own, containers: [], ready: [kube], ports: [80]}",
            "profiles[0] (own): containers: there must be one at least",
        ),
        (
            "{name: own, containers: ['*a'], ready: [kube], ports: [80]}",
            "profiles[0] (own): containers: it must be containers' names; one * may stand at their \
             end",
        ),
        (
            "{name: own, containers: ['*'], ready: [kube], ports: [80]}",
            "profiles[0] (own): containers: it must be containers' names; one * may stand at their \
             end",
        ),
        (
            "{name: own, containers: [a], ready: [], ports: [80]}",
            "profiles[0] (own): ready: there must be one at least",
        ),
        (
            "{name: own, containers: [a], ready: [{check: kube, port-from: [probe]}], ports: [80]}",
            "profiles[0] (own): ready: port-from needs a check with a port",
        ),
        (
            "{name: own, containers: [a], ready: [kube], kube-ready: false, ports: [80]}",
            "profiles[0] (own): ready: with kube-ready: false, kube alone would never open the gate",
        ),
        (
            "{name: own, containers: [a], ready: [kube], ports: []}",
            "profiles[0] (own): ports: there must be one at least",
        ),
        (
            "{name: own, containers: [a], ready: [kube], ports: [1, 2, 3, 4, 5, 6, 7, 8, 9]}",
            "profiles[0] (own): ports: only 8 can be held",
        ),
        (
            "{name: own, containers: [a], ready: [kube], ports: [0]}",
            "profiles[0] (own): ports: it must be a port from 1 to 65535",
        ),
        (
            "{name: own, containers: [a], ready: [kube], ports: [{from: []}]}",
            "profiles[0] (own): ports: there must be a default, or something to take it from",
        ),
        (
            "{name: own, containers: [a], ready: [kube], ports: [80], dns: {port: 65536}}",
            "profiles[0] (own): dns: it must be a port from 1 to 65535",
        ),
        (
            "{name: own, containers: [a], ready: [kube], ports: [80], marks: [{label: ''}]}",
            "profiles[0] (own): marks: a mark has no name",
        ),
        (
            "{name: own, containers: [a], ready: [kube], ports: [80], \
             hold-wishes: [{annotation: a, enabled: [Yes], disabled: []}]}",
            "profiles[0] (own): hold-wishes: it must have an annotation, and values in lower case",
        ),
    ] {
        assert_eq!(with(text).unwrap_err(), reason, "{text}");
    }
    let also_asked =
        "{name: own, containers: [a], ready: [kube, tcp], kube-ready: false, ports: [80]}";
    assert!(with(also_asked).is_ok());
    let twice = vec![profile(MINIMAL), profile(MINIMAL)];
    let error = Profiles::with(twice).unwrap_err().to_string();
    assert_eq!(error, "profiles[1] (own): name: another profile has it");
}
