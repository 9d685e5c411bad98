//! The moments of a pod's life: which container dials, and when.

use std::thread;

use testbed::{
    Agent, Mesh, PROXY, Pod, PodSpec, Process, RestartPolicy, apps, backend_v4, backend_v6, bpf,
};

use crate::common::{
    LATE, SOON, assert_released, dials, enabled_node, events, eventually, idle, known_pod, lines,
    start_agent, wait_for, wait_for_all,
};

const REACHES: &str = "init container reaches for the mesh before its proxy exists";

/// Asserts that these clients wait until the proxy is ready, and no longer.
fn wait_for_the_proxy(agent: &Agent, pod: &Pod, apps: &[Process]) {
    wait_for_all(agent, pod, "connect held", apps.len());
    thread::sleep(LATE);
    let proxy = pod.start_proxy().unwrap();
    let ready_ns = proxy.wait_ready(SOON).unwrap();
    for app in apps {
        assert_released(app, ready_ns, pod.name());
    }
}

#[test]
fn an_init_container_in_front_of_its_proxy_passes_and_its_owner_is_told_once() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, mesh, hint) in [
        ("istio", Mesh::Istio, "traffic.sidecar.istio.io/excludeOutboundPorts"),
        ("linkerd", Mesh::Linkerd, "config.linkerd.io/skip-outbound-ports"),
        ("kuma", Mesh::Kuma, "traffic.kuma.io/exclude-outbound-ports"),
    ] {
        let spec = PodSpec::new("shop", name).mesh(mesh).init_containers(["migrate"]);
        let pod = known_pod(&node, &agent, spec);
        wait_for(&agent, &pod, "gate closed");
        let migrate = idle(&pod, "migrate");
        for to in [backend_v4(), backend_v6(), backend_v4()] {
            let app = pod.exec("migrate", apps::connect(to).unwrap()).unwrap();
            assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED", "{name}");
        }
        let line = wait_for(&agent, &pod, REACHES);
        assert_eq!(line["container"], "migrate");
        assert!(line["hint"].as_str().unwrap().contains(hint), "{line}");
        eventually("an Event tells the pod's owner", || {
            events(&node, &pod).iter().any(|event| event["reason"] == "InitContainerNeedsProxy")
        });
        migrate.kill();
        // The application behind it waits as ever.
        wait_for_the_proxy(&agent, &pod, &[dials(&pod, "app", backend_v4())]);
        assert_eq!(lines(&agent, &pod, REACHES).len(), 1, "{name}: told once");
        let held = lines(&agent, &pod, "connect held");
        assert!(held.iter().all(|line| line["container"] == "app"), "{held:?}");
    }
}

#[test]
fn around_a_native_proxy_only_an_init_container_in_front_of_it_passes() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart")
        .native_sidecar()
        .init_before_proxy("first")
        .sidecar_before_proxy("vault")
        .init_containers(["migrate"])
        .sidecar_after_proxy("logs");
    let pod = known_pod(&node, &agent, spec);
    wait_for(&agent, &pod, "gate closed");
    let first = dials(&pod, "first", backend_v4());
    assert_eq!(first.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    assert_eq!(wait_for(&agent, &pod, REACHES)["container"], "first");
    let apps =
        ["vault", "migrate", "logs", "app"].map(|container| dials(&pod, container, backend_v4()));
    wait_for_the_proxy(&agent, &pod, &apps);
    assert_eq!(lines(&agent, &pod, REACHES).len(), 1);
}

#[test]
fn a_container_that_restarts_before_the_proxy_is_ready_is_held_again() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let first = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    first.kill();
    let released = wait_for(&agent, &pod, "connect released");
    assert_eq!(released["outcome"], "closed by the application");
    let second = dials(&pod, "app", backend_v4());
    let held = wait_for_all(&agent, &pod, "connect held", 2);
    assert_eq!(held[1]["container"], "app");
    let proxy = pod.start_proxy().unwrap();
    assert_released(&second, proxy.wait_ready(SOON).unwrap(), "the second container");
}

#[test]
fn a_pod_whose_sandbox_is_made_anew_starts_once_more() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, guard) in [("plain", "disabled"), ("guarded", "enabled")] {
        let spec = PodSpec::new("shop", name).annotation("holdfast.dev/guard", guard);
        let pod = node.create_pod(spec).unwrap();
        let app = dials(&pod, "app", backend_v4());
        wait_for(&agent, &pod, "connect held");
        let proxy = pod.start_proxy().unwrap();
        assert_released(&app, proxy.wait_ready(SOON).unwrap(), name);
        wait_for(&agent, &pod, "gate opened");

        pod.recreate_sandbox().unwrap();
        let container = pod.create_container("app").unwrap();
        wait_for_all(&agent, &pod, "gate closed", 2);
        let client = apps::connect(backend_v6()).unwrap().get("/bytes/1000");
        let app = container.start(client).unwrap();
        wait_for_all(&agent, &pod, "connect held", 2);
        thread::sleep(LATE);
        assert!(app.exit_status().is_none(), "{name}: the connect does not wait");
        // Released into the new namespace.
        let proxy = pod.start_proxy().unwrap();
        assert_released(&app, proxy.wait_ready(SOON).unwrap(), name);
    }
}

#[test]
fn an_ephemeral_container_waits_like_any_other() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    wait_for(&agent, &pod, "gate closed");
    pod.add_ephemeral_container("debugger");
    wait_for_the_proxy(&agent, &pod, &[dials(&pod, "debugger", backend_v4())]);
    assert_eq!(lines(&agent, &pod, "connect held")[0]["container"], "debugger");
}

#[test]
fn a_job_s_only_attempt_waits_and_nothing_is_left_when_it_is_over() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, native) in [("classic", false), ("native", true)] {
        let spec = PodSpec::new("shop", name).restart_policy(RestartPolicy::Never);
        let pod = node.create_pod(if native { spec.native_sidecar() } else { spec }).unwrap();
        let job = dials(&pod, "app", backend_v4());
        wait_for(&agent, &pod, "connect held");
        let proxy = pod.start_proxy().unwrap();
        assert_released(&job, proxy.wait_ready(SOON).unwrap(), name);
        assert!(job.wait(SOON).unwrap().success(), "{name}");
        // With the application gone nobody can wait for the proxy.
        proxy.stop().unwrap();
        eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    }
}

#[test]
fn a_static_pod_is_held_under_the_name_that_kubelet_gives_its_cgroup() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart").static_pod()).unwrap();
    assert!(!pod.uid().contains('-'), "the hash of its manifest");
    wait_for_the_proxy(&agent, &pod, &[dials(&pod, "app", backend_v4())]);
    // By its mirror in the API its name and its settings are known.
    assert_eq!(lines(&agent, &pod, "connect released")[0]["pod"], "cart");
}

#[test]
fn an_ambient_pod_is_left_alone() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart").ambient());
    let app = dials(&pod, "app", backend_v4());
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    assert!(lines(&agent, &pod, "connect held").is_empty());
}

#[test]
fn a_label_that_comes_late_holds_and_one_that_goes_lets_go() {
    let node = testbed::Node::new().unwrap();
    node.api().put_namespace("shop", &[]);
    let agent = start_agent(&node);
    let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart"));
    let _app = idle(&pod, "app");
    let dial = || pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    assert_eq!(dial().wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    node.api().label_namespace("shop", "holdfast.dev/hold", Some("enabled"));
    wait_for(&agent, &pod, "gate closed");
    let app = dial();
    wait_for(&agent, &pod, "connect held");
    node.api().label_namespace("shop", "holdfast.dev/hold", None);
    assert_eq!(wait_for(&agent, &pod, "gate opened")["reason"], "not enabled");
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
}

#[test]
fn a_container_of_the_proxy_s_pod_that_is_not_the_proxy_waits_whatever_it_runs_as() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").containers(["app", "worker"]);
    let pod = known_pod(&node, &agent, spec);
    const NOBODY: u32 = 65_534;
    let client = apps::connect(backend_v4()).unwrap().user(NOBODY, NOBODY).get("/bytes/1000");
    let apps = [dials(&pod, "app", backend_v4()), pod.start_container("worker", client).unwrap()];
    wait_for_the_proxy(&agent, &pod, &apps);
    assert!(pod.container_cgroup(PROXY).is_ok());
}
